"""Lee et al. 2023 in stages: images, labels, rewards, fine-tuned models, votes; requested by name in notebooks 00 to 07."""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from lib.feedback import panel, votes
from lib.feedback.labels import matched
from lib.ground import stats
from lib.ground.cache import Artifact, digest_of
from lib.ground.seeds import seed_of
from lib.ground.sizes import SamplerSpec
from lib.images import metrics, models, sampling
from lib.methods import arithmetic, denoising, ensemble, finetune, rejection, reward
from lib.study import people, tuning
from lib.study.common import Study
from lib.world import prompts

# The arms of Table 3 and two controls; then the full method with other weightings of the reward, one of them a control.
ARMS = {
    "human-labelled only": dict(unlabelled=False, beta=False, weighting="raw", use_model=True),
    "+ unlabelled": dict(unlabelled=True, beta=False, weighting="raw", use_model=True),
    "full method": dict(unlabelled=True, beta=True, weighting="raw", use_model=True),
    "pre-training loss alone": dict(unlabelled=True, beta=True, weighting="raw", use_model=False),
    "constant reward": dict(unlabelled=True, beta=True, weighting="constant", use_model=True),
}
OTHER_WEIGHTINGS = {
    f"{how} r": dict(unlabelled=True, beta=True, weighting=how, use_model=True)
    for how in ("random", "thresholded", "exponential")
}
# If labels are scarce: one image in eight keeps its label; the others are left out, or weighted by the reward.
SCARCE = {
    "1 in 8 labelled only": dict(unlabelled=False, beta=False, weighting="raw", use_model=True, labels=1 / 8),
    "1 in 8 labelled + the rest": dict(unlabelled=True, beta=False, weighting="raw", use_model=True, labels=1 / 8),
}
# judge-a's own verdicts in place of the reward, only on images of counting prompts.
TRUTH = {"truth on counting": dict(unlabelled=True, beta=True, weighting="raw", use_model=True, truth="count")}
# Chooses among images like rejection sampling, but for training: batches contain no others (notebook 07).
FILTERED = {"best quarter of each prompt": dict(unlabelled=True, beta=True, weighting="best quarter", use_model=True)}
FULL_METHOD, CONSTANT, RANDOM, BEST_QUARTER = "full method", "constant reward", "random r", *FILTERED
DIRECTION = "reward direction"  # not an arm: see `lib.methods.arithmetic`
SETTINGS = ("learning_rate", "schedule", "beta", "updates", "drawn_at")  # what notebook 05 chooses for all arms


class LeeStudy(Study):
    """One size of Lee et al.'s study."""

    # ---- images -----------------------------------------------------------------------------------------------

    @cached_property
    def unseen_images(self) -> Artifact:
        """Images of prompts about unseen objects, on which rewards are tested."""
        texts = prompts.unseen_prompts(self.size.unseen_prompts)
        return self.sample(*self._grid(texts, [self.size.unseen_images] * len(texts)), "unseen")

    def selection_images(self, unet: tuple[Artifact, int] | None = None, spec: SamplerSpec = SamplerSpec()) -> Artifact:
        """Images of the selection prompts."""
        texts = self.selection_prompts
        return self.sample(*self._grid(texts, [self.size.selection_images] * len(texts)), "selection", unet, spec)

    def choice_images(
        self, unet: tuple[Artifact, int] | None = None, spec: SamplerSpec = SamplerSpec()
    ) -> tuple[Artifact, Artifact]:  # fmt: skip
        """Images by which scales and settings are chosen: of the selection prompts, and of web captions kept for this."""
        captions = self.web_captions(self.size.selection_captions, 5)
        captioned = self.sample(captions, list(range(len(captions))), "choice", unet, spec)
        return self.selection_images(unet, spec), captioned

    @cached_property
    def choice_features(self) -> np.ndarray:
        """The features of these captions' own renders: float [caption, 64]."""
        return metrics.features(models.load_features(), self.web_pairs(self.size.selection_captions, 5)[1])

    def choice_point(self, unet: tuple[Artifact, int] | None = None, spec: SamplerSpec = SamplerSpec()) -> dict:
        """The point that `lib.methods.choosing` needs: `good`, the panel's mean share on the selection prompts, and
        `frechet`, the distance on the captions reserved for this, each with `_low` and `_high`, its 95 % interval."""
        asked, captioned = self.choice_images(unet, spec)
        good = stats.cluster_bootstrap(self.panel_shares(asked), sampling.load_images(asked).prompts)
        drawn = metrics.features(models.load_features(), sampling.load_images(captioned).pixels)
        found = {"good": good, "frechet": metrics.distance_with_interval(self.choice_features, drawn)}
        parts = (("", "value"), ("_low", "low"), ("_high", "high"))
        return {name + end: getattr(f, part) for name, f in found.items() for end, part in parts}

    def candidate_images(self, unet: tuple[Artifact, int] | None = None) -> list[Artifact]:
        """`size.candidates` images of each evaluation prompt: the evaluation images, and more from their stream."""
        texts = prompts.evaluation_prompts()[:: self.size.evaluation_stride]
        more = range(self.size.evaluation_images, self.size.candidates)
        pairs = [(p, k) for p in texts for k in more]
        rest = [self.sample([p for p, _ in pairs], [k for _, k in pairs], "evaluation", unet)] if pairs else []
        return [self.evaluation_images(unet), *rest]

    def vote_images(self, unet: tuple[Artifact, int] | None = None) -> Artifact:
        """Four images of each evaluation prompt; the base and fine-tuned models start from different noise."""
        texts = prompts.evaluation_prompts()[:: self.size.evaluation_stride]
        return self.sample(*self._grid(texts, [votes.SET] * len(texts)), "votes" if unet is None else "votes, tuned", unet)

    # ---- labels ---------------------------------------------------------------------------------------------------

    @cached_property
    def labels(self) -> pd.DataFrame:
        """Labels of the labelled images: by two simulated labellers, or by people."""
        return self.labels_of(0)

    def labels_of(self, run: int) -> pd.DataFrame:
        """The same by the two simulated labellers of one run; people's are the same in each."""
        images = self.labelled_images
        if self.raters != "panel":
            return people.labels_of(self, images)
        return panel.label_by_two(self.looks(images, "a"), sampling.load_images(images), run=run)

    @cached_property
    def unseen_labels(self) -> pd.DataFrame:
        """Labels of images of unseen objects, never trained on: by the same two simulated labellers, or by people."""
        if self.raters != "panel" and len(given := people.labels_of(self, self.unseen_images)):
            return given
        return panel.label_by_two(self.looks(self.unseen_images, "a"), sampling.load_images(self.unseen_images))

    def targets(self, images: Artifact, table: pd.DataFrame) -> np.ndarray:
        """1 good, 0 bad, NaN skipped or unlabelled, float [image]: the label of the labeller whose turn it was. Raises
        ValueError on labels that match no image of the set."""
        return self._first(images, table).label.map({"good": 1.0, "bad": 0.0}).astype(float).to_numpy()

    def _first(self, images: Artifact, table: pd.DataFrame) -> pd.DataFrame:
        """The row of the labeller whose turn it was, for each image; NaN for an unlabelled image."""
        shown = sampling.load_images(images)
        rows = panel.first_labels(matched(table, shown.digests, shown.prompts)).set_index(["image", "prompt"])
        return rows.reindex(list(zip(shown.digests, shown.prompts, strict=True)))

    # ---- rewards --------------------------------------------------------------------------------------------------

    @cached_property
    def validation(self) -> np.ndarray:
        """Which labelled images are held out from training rewards, by prompt (one in `size.held_out`): bool [image]."""
        texts = sampling.load_images(self.labelled_images).prompts
        return np.array([seed_of("validation", p) % self.size.held_out == 0 for p in texts])

    @cached_property
    def feedback(self) -> tuple[np.ndarray, list[str], np.ndarray]:
        """Training data of rewards, [image] each: labels 1, 0, 0.5 (skipped) or NaN (held out or none); prompts; raters."""
        return self.feedback_of(self.labels)

    def feedback_of(self, table: pd.DataFrame) -> tuple[np.ndarray, list[str], np.ndarray]:
        """The same from other labels of these images."""
        first = self._first(self.labelled_images, table)
        labels = first.label.map({"good": 1.0, "bad": 0.0, "skip": 0.5}).astype(float).to_numpy()
        shown = sampling.load_images(self.labelled_images)
        return np.where(self.validation, np.nan, labels), shown.prompts, pd.factorize(first.rater, sort=True)[0]

    def rewards(self, spec: reward.RewardSpec = reward.RewardSpec(), seeds: int | None = None) -> list:
        """Rewards trained on the labels, one per seed: list of (network, its spec)."""
        return self.all_rewards({"": spec}, seeds)[""]

    def all_rewards(self, variants: Mapping[Hashable, reward.RewardSpec], seeds: int | None = None) -> dict[Hashable, list]:
        """The rewards of several specs by name; missing ones are trained together, or each on its own core."""
        if len(variants) > 1:
            self.ahead(*[("rewards", spec, seeds) for spec in variants.values()])
        count = self.size.reward_seeds if seeds is None else min(seeds, self.size.reward_seeds)
        specs = [replace(spec, seed=seed) for spec in variants.values() for seed in range(count)]
        rewards = self.taught(specs, self.feedback)
        return {name: rewards[i * count : (i + 1) * count] for i, name in enumerate(variants)}

    def run_feedback(self, run: int) -> tuple[np.ndarray, list[str], np.ndarray]:
        """`feedback` of one run, which has its own labellers."""
        return self.feedback_of(self.labels_of(run)) if run else self.feedback

    def run_reward(self, run: int, labels: float = 1.0) -> list:
        """The reward of one run, trained on a share of its labels with its own seed; in the form that `rewards` returns."""
        return self.taught([reward.RewardSpec(seed=run, labels=labels)], self.run_feedback(run))

    def taught(self, specs: list[reward.RewardSpec], feedback: tuple, auxiliary=reward.prompt_classification_loss) -> list:
        """Rewards, in that form, trained on `feedback` of any labels."""
        labels, texts, raters = feedback
        image, text = self.embeddings(self.labelled_images)
        codes = [None if np.isnan(y) else [float(y), int(k)] for y, k in zip(labels, raters, strict=True)]
        inputs = {"images": self.labelled_images, "clip": self.clip_digest, "labels": digest_of(codes)}
        specs = [replace(spec, epochs=spec.epochs or self.size.reward_epochs) for spec in specs]
        rewards = ensemble.trained(specs, image, text, texts, labels, raters, models.load_clip, inputs, auxiliary=auxiliary)
        return list(zip(rewards, specs, strict=True))

    def scores(self, images: Artifact, rewards: list) -> np.ndarray:
        """r in [0, 1], float [seed, image]."""
        image, text = self.embeddings(images)
        return np.stack([reward.score(network, image, text, spec) for network, spec in rewards])

    # ---- fine-tuning ----------------------------------------------------------------------------------------------

    def drawn_pairs(self, pipe, sets: list[Artifact], rows: np.ndarray, weight: np.ndarray) -> denoising.Pairs:
        """The model's own images at indices `rows`, int [image], of all sets together, with prompts and weights [image]."""
        texts = [p for s in sets for p in sampling.load_images(s).prompts]
        latents = torch.cat([self.latents(s) for s in sets])[torch.from_numpy(rows)]
        return denoising.encoded(pipe, latents, [texts[i] for i in rows], weight)

    def finetune_spec(self, **chosen) -> finetune.FinetuneSpec:
        """Fine-tuning at this size, with the `chosen` settings; also keeps weights after 1/4 and 1/2 of the updates."""
        updates = chosen.pop("updates", self.size.updates)
        keep = (updates // 4, updates // 2)
        return finetune.FinetuneSpec(updates=updates, batch=self.size.batch, average=0.99, keep=keep, **chosen)

    def own_images(self, drawn_at: float = SamplerSpec().guidance_scale, unlabelled: bool = True) -> list[Artifact]:
        """The base's images for training, labelled and unlabelled: those that raters see, or the same prompts, numbers and
        initial noise at another guidance scale."""
        sets = [self.labelled_images] + ([self.unlabelled_images] if unlabelled else [])
        if drawn_at == SamplerSpec().guidance_scale:
            return sets
        shown, spec = [sampling.load_images(s) for s in sets], SamplerSpec(guidance_scale=drawn_at)
        return [self.sample(s.prompts, s.numbers, s.stream, None, spec) for s in shown]

    def finetuned(self, arm: str, spec: finetune.FinetuneSpec) -> Artifact:
        """The U-Net of one arm: its weights after `spec.updates` and each of `spec.keep`. `spec.seed` is the run, with its
        own labellers, reward and batches."""
        if arm not in (arms := ARMS | OTHER_WEIGHTINGS | SCARCE | TRUTH | FILTERED):
            raise ValueError(f"unknown arm {arm!r}: expected one of {', '.join(arms)}")
        how = arms[arm]
        spec = replace(spec, beta=spec.beta if how["beta"] else 0.0, use_model=how["use_model"])
        sets, weighting = self.own_images(spec.drawn_at, how["unlabelled"]), how["weighting"]
        r, rows = self._rewarded(sets, spec.seed, how.get("labels", 1.0), how.get("truth"))
        threshold = finetune.threshold_of(r) if weighting == "thresholded" else 0.5
        if weighting == "best quarter":  # batches contain only these, and their mean weight is that of r
            texts = np.concatenate([sampling.load_images(s).prompts for s in sets])[rows]
            kept = rejection.best_quarter(r, texts)
            rows, weight = rows[kept > 0], kept[kept > 0] * (r.mean() / kept[kept > 0].mean())
        else:
            weight = finetune.reweighted(r, weighting, spec.seed, threshold)
        return tuning.tuned(self, sets, rows, weight, spec)

    def reward_direction(self, spec: finetune.FinetuneSpec, strength, of=FULL_METHOD) -> tuple[Artifact, int]:
        """The base plus `strength` times (one arm minus constant reward), in weights; and the arms' number of updates."""
        plus, minus = ((self.finetuned(a, spec), spec.updates) for a in (of, CONSTANT))
        return arithmetic.along(self.generator(), plus, minus, strength, self.base_digest)

    def rounds(self, count: int, spec: finetune.FinetuneSpec) -> tuple[Artifact, int]:
        """A U-Net tuned in several rounds, and the updates of its last round: see `lib.study.tuning`."""
        return tuning.in_rounds(self, count, spec)

    def _rewarded(self, sets, run: int, labels: float, truth: str | None) -> tuple[np.ndarray, np.ndarray]:
        """The reward of the training images, float [image], and their indices among the images of all sets, int [image]."""
        if truth:
            texts = np.concatenate([sampling.load_images(s).prompts for s in sets])
            rows = np.flatnonzero([prompts.parse(p).category == truth for p in texts])
            return np.concatenate([self.verdicts(s, "a") for s in sets]).astype(float)[rows], rows
        own = self.run_reward(run, labels)
        r = np.concatenate([self.scores(s, own)[0] for s in sets])
        rows = np.arange(len(r))
        if labels < 1 and len(sets) == 1:
            rows = np.flatnonzero(np.isfinite(reward.taught(*self.run_feedback(run), own[0][1])))
        return r[rows], rows
