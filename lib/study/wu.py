"""Wu et al. 2023, Human Preference Score, in stages: choices, tuned CLIPs, adapted generators and their images.

Users see through judge-a and the features of votes on fidelity; judge-b and the features of the Fréchet distance audit.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import pandas as pd
import torch

from lib.feedback import choices, taste
from lib.ground.cache import Artifact, digest_of
from lib.ground.paths import MODELS
from lib.ground.seeds import name_of, normals, rng_of, seed_of
from lib.ground.sizes import SamplerSpec
from lib.images import embedding, models, sampling
from lib.methods import adaptation, denoising, preference
from lib.methods.adaptation import AdaptationSpec
from lib.methods.preference import PreferenceSpec
from lib.study.common import Study
from lib.world import prompts, web
from lib.world.scenes import SEEN

# What each adapted model changes; `coin choices` follows the score that was learnt from choices made by coin.
ADAPTATIONS = {
    "adapted": {},
    "regularisation only": dict(batch=(0, 0, 40)),
    "coin choices": {},
    "swapped labels": dict(swapped=True),
    "another prefix": dict(prefix=prompts.OTHER_PREFIX),
    "no prefix": dict(prefix=""),
    "no non-preferred": dict(batch=(28, 0, 12)),
    "threshold 3 / n": dict(threshold=3.0),
    "rank 4": dict(rank=4),
}
PARTS = ("train", "test")


class WuStudy(Study):
    """One size of Wu et al.'s study."""

    # ---- choices -------------------------------------------------------------------------------------------------

    def choice_prompts(self, part: str) -> list[str]:
        """Prompts of seen objects on which users choose, `train` or `test`: no prompt is in both."""
        count = dict(zip(PARTS, self.size.choice_prompts, strict=True))
        pool = sorted(set(prompts.grid(SEEN, (120, 180, 160, 5760))))
        order = rng_of(2303).permutation(len(pool))
        first = 0 if part == "train" else count["train"]
        if count["train"] + count["test"] > len(pool):
            raise ValueError(f"{sum(count.values())} prompts of choices are wanted, there are {len(pool)}")
        return [pool[i] for i in order[first : first + count[part]]]

    def choice_images(self, part: str) -> Artifact:
        """Two to four images of each prompt, among which users choose."""
        texts = self.choice_prompts(part)
        return self.sample(*self._grid(texts, choices.group_sizes(len(texts))), "choices")

    @cached_property
    def second_images(self) -> Artifact:
        """Two images of test prompts, drawn by the second generator."""
        texts = self.choice_prompts("test")[: self.size.second_prompts]
        return sampling.sampled(
            models.load_second, {"base": self.base_digest, "second": models.verify("mini-second")},
            *self._grid(texts, [2] * len(texts)), "second",
        )  # fmt: skip

    def _traits(self, images: Artifact) -> np.ndarray:
        eyes = {"judge": models.verify("judge-a"), "features": models.verify("features-votes")}
        unit = {"base": self.evaluation_images(), "references": web.digest(self.size.references, 4)}  # of realism
        return taste.looked_at(images, lambda: self.looks(images, "a"), self.realism, eyes | unit)

    @cached_property
    def trait_units(self) -> np.ndarray:
        """The spread of each trait among training images of one prompt: float [trait]."""
        images = self.choice_images("train")
        return taste.trait_units(self._traits(images), sampling.load_images(images).prompts)

    def traits(self, images: Artifact) -> np.ndarray:
        """What users see in images: float [image, trait], in spreads of the base's images of one prompt."""
        return self._traits(images) / self.trait_units

    @cached_property
    def taste(self) -> taste.TasteSpec:
        """What users like, with the noise at which they guess one another's choices as often as people did."""
        images = self.choice_images("train")
        rows = choices.groups(sampling.load_images(images).prompts)
        return taste.calibrated(self.traits(images), rows, taste.TasteSpec())

    def choices(self, images: Artifact, coin: bool = False) -> pd.DataFrame:
        """What users choose among the images of each prompt: `size.choosers` of `size.users` a prompt."""
        return self._chosen(images, taste.user, coin=coin)

    def guesses(self, images: Artifact) -> pd.DataFrame:
        """For each choice, what another user who does not know the order takes it to be."""
        return self._chosen(images, lambda u: taste.user(u + self.size.users), position=False)

    def _chosen(self, images: Artifact, name, **how) -> pd.DataFrame:
        shown = sampling.load_images(images)
        rows = choices.groups(shown.prompts)
        drawn = [rng_of(seed_of("users", shown.prompts[r[0]])) for r in rows]
        users = [[name(u) for u in g.choice(self.size.users, self.size.choosers, replace=False)] for g in drawn]
        return choices.choose(self.traits(images), rows, shown, users, self.taste, **how)

    def liking(self, images: Artifact) -> np.ndarray:
        """How well the mean user likes each image: float [image]; the best that a score of images can be."""
        return self.liking_by_trait(images).sum(1)

    def liking_by_trait(self, images: Artifact) -> np.ndarray:
        """What each trait adds to that: float [image, trait]."""
        return self.traits(images) * [getattr(self.taste, t) for t in taste.TRAITS]

    # ---- scores --------------------------------------------------------------------------------------------------

    @cached_property
    def training_choices(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """What users chose and what a coin did, each as `choices.groups_of`: all seeds and shares learn from the same."""
        images = self.choice_images("train")
        shown = sampling.load_images(images)
        return tuple(choices.groups_of(self.choices(images, coin), shown.digests, shown.prompts) for coin in (False, True))

    def tuned_clip(self, spec: PreferenceSpec = PreferenceSpec()) -> Artifact:
        """CLIP tuned on the training choices, or on a coin's: a folder in open_clip's layout."""
        images = self.choice_images("train")
        shown, (rows, chosen) = sampling.load_images(images), self.training_choices[spec.coin]
        spec = replace(spec, epochs=spec.epochs or self.size.preference_epochs)
        inputs = {"images": images, "clip": self.clip_digest, "choices": digest_of(chosen.tolist())}
        return preference.tuned(
            models.load_clip, MODELS / "mini-clip", lambda: shown.pixels, shown.prompts, rows, chosen, spec, inputs
        )

    def hps(self, images: Artifact, spec: PreferenceSpec = PreferenceSpec()) -> np.ndarray:
        """Human Preference Score of images for their prompts, in [-100, 100]: float [image]."""
        found = self.tuned_clip(spec)

        load = partial(models.load_clip, f"local-dir:{found.path}")
        return preference.hps(*embedding.embedded(images, load, found.digest))

    def hps_seeds(self, images: Artifact, spec: PreferenceSpec = PreferenceSpec()) -> np.ndarray:
        """The same by classifiers of `size.preference_seeds` seeds: float [seed, image]."""
        return np.stack([self.hps(images, replace(spec, seed=s)) for s in range(self.size.preference_seeds)])

    @cached_property
    def aesthetic_weights(self) -> np.ndarray:
        """A linear predictor, on CLIP embeddings, of ratings of the labelled images without their prompts."""
        images = self.labelled_images
        names = sampling.load_images(images).names
        own = taste.weights([f"critic-{i % self.size.users:05d}" for i in range(len(names))], self.taste)[:, 1:]
        ratings = (own * self.traits(images)[:, 1:]).sum(1) + self.taste.noise * normals(names, "critic's rating")
        return preference.ridge(self.embeddings(images)[0], ratings)

    def aesthetic(self, images: Artifact) -> np.ndarray:
        """What the aesthetic predictor makes of images: float [image]."""
        return preference.aesthetic(self.embeddings(images)[0], self.aesthetic_weights)

    # ---- adaptation ----------------------------------------------------------------------------------------------

    @property
    def pool(self) -> list[Artifact]:
        """The base's images that are scored for adaptation: those of Lee et al.'s fine-tuning."""
        return [self.labelled_images, self.unlabelled_images]

    @cached_property
    def usable(self) -> np.ndarray:
        """Which images of the pool are not near-uniform: bool [image]."""
        return ~np.concatenate([adaptation.near_uniform(sampling.load_images(s).pixels) for s in self.pool])

    def selection(self, spec: AdaptationSpec, coin: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Preferred and non-preferred images of the pool, int [image] each; by a coin's score, as many as by HPS. Softmax is
        taken as in training: of `scale` x cosine."""
        texts = [p for s in self.pool for p in sampling.load_images(s).prompts]

        def chosen(by: PreferenceSpec, budget=None):
            scores = np.concatenate([self.hps(s, by) for s in self.pool]) * by.scale / 100
            return adaptation.select(scores, texts, self.usable, spec.threshold, budget, adaptation.FEWEST)

        found = chosen(PreferenceSpec())
        if coin:
            found = chosen(PreferenceSpec(coin=True), (len(found[0]), len(found[1])))
        return found[::-1] if spec.swapped else found

    def adaptation_spec(self, arm: str) -> AdaptationSpec:
        """What an arm of ADAPTATIONS is made by."""
        if arm not in ADAPTATIONS:
            raise ValueError(f"unknown adaptation {arm!r}: one of {', '.join(ADAPTATIONS)}")
        return AdaptationSpec(updates=self.size.adaptation_updates, **ADAPTATIONS[arm])

    def adapted(self, arm: str) -> Artifact:
        """The LoRA of one arm of ADAPTATIONS."""
        spec = self.adaptation_spec(arm)
        best, worst = self.selection(spec, coin=arm == "coin choices")
        inputs = {f"images {i}": s for i, s in enumerate(self.pool)} | {
            "base": self.base_digest, "web pairs": web.digest(self.size.pretraining, 1),
            "selected": digest_of([best.tolist(), worst.tolist()]),
        }  # fmt: skip
        streams = partial(self.streams, best=best, worst=worst, prefix=spec.prefix)
        return adaptation.adapted(self.generator(), streams, spec, inputs)

    def streams(self, pipe, best: np.ndarray, worst: np.ndarray, prefix: str) -> list[denoising.Pairs]:
        """What a LoRA learns from: preferred and non-preferred images of the pool, int [image] each, and real ones."""
        texts = [p for s in self.pool for p in sampling.load_images(s).prompts]
        latents = torch.cat([self.latents(s) for s in self.pool])
        return [
            denoising.encoded(pipe, latents[best], [texts[i] for i in best]),
            denoising.encoded(pipe, latents[worst], [prefix + texts[i] for i in worst]),
            self.real_pairs(pipe),
        ]

    def adapted_images(self, kind: str, lora: Artifact | None = None, negative_prompt: str = "") -> Artifact:
        """Images of the `evaluation` prompts or of held-out web captions (`fidelity`), from the noise of every other model:
        of the base, or of the base with a LoRA, under a negative prompt or none."""
        if lora is None and not negative_prompt:
            return self.few_images(kind)
        if kind == "evaluation":
            texts = prompts.evaluation_prompts()[:: self.size.evaluation_stride]
            grid = self._grid(texts, [self.size.adapted_images] * len(texts))
        else:
            texts = self.web_captions(self.size.fidelity_captions, 2)[: self.size.adapted_captions]
            grid = texts, list(range(len(texts)))
        generator, load = {"base": self.base_digest}, self.generator()
        if lora is not None:
            generator, load = generator | {"lora": lora}, lambda: models.load_lora(lora.path)
        return sampling.sampled(load, generator, *grid, kind, SamplerSpec(negative_prompt=negative_prompt))

    def study_votes(self, images: Mapping[str, Artifact], a: str, b: str) -> tuple[np.ndarray, list[str]]:
        """Votes of the user study on two models' images of the same prompts, given by the model's name: bool [user, pair],
        True for `a`, with the prompt of each pair. Of the 120 prompts 100 are asked about; the users are none who chose."""
        first, second = (sampling.load_images(images[model]) for model in (a, b))
        if first.prompts != second.prompts:
            raise ValueError("a user study compares images of the same prompts in the same order")
        asked = [p for i, p in enumerate(dict.fromkeys(first.prompts)) if i % 6 < 5]
        rows = [i for i, p in enumerate(first.prompts) if p in set(asked)]
        names = [(name_of(a, first.names[i]), name_of(b, second.names[i])) for i in rows]
        users = [f"voter-{i:02d}" for i in range(adaptation.USERS)]
        found = adaptation.votes(self.traits(images[a])[rows], self.traits(images[b])[rows], names, users, self.taste)
        return found, [first.prompts[i] for i in rows]
