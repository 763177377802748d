"""Wu et al. 2023, adaptation: images selected by the score, the models trained on them, and the user study.

Choices and scores are in `lib.study.users`.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial

import numpy as np
import torch

from lib.ground import stats
from lib.ground.cache import Artifact, digest_of
from lib.ground.seeds import name_of
from lib.ground.sizes import SIZES, SamplerSpec
from lib.images import embedding, models, sampling
from lib.methods import adaptation, denoising
from lib.methods.adaptation import AdaptationSpec
from lib.methods.preference import PreferenceSpec
from lib.study.users import ChoiceStudy
from lib.world import prompts, web

# The settings that each adapted model changes; for `coin choices` the selecting score was trained on choices made by coin.
ADAPTATIONS = {
    "adapted": {},
    "regularisation only": dict(batch=(0, 0, 40)),
    "coin choices": {},
    "no non-preferred": dict(batch=(28, 0, 12)),
    "another prefix": dict(prefix=prompts.OTHER_PREFIX),
    "swapped labels": dict(swapped=True),
    "no prefix": dict(prefix=""),
    "threshold 3 / n": dict(threshold=3.0),
    "rank 4": dict(rank=4),
}
CHOSEN = ("learning_rate", "updates")  # in notebook 09, as `adaptation_selection`
RUNS = ("adapted", *adaptation.TESTED)  # arms with `finetune_seeds` runs; the others have one
FROM = {"swapped labels": "evening", "no prefix": "evening", "threshold 3 / n": "gpu", "rank 4": "gpu"}  # from this size up


def of_run(images: Sequence[Artifact], run: int) -> Artifact:
    """A model's images of one run, given its images by run; if there is only one set, that one."""
    return images[run if len(images) > 1 else 0]


class WuStudy(ChoiceStudy):
    """One size of Wu et al.'s study."""

    # ---- selection -----------------------------------------------------------------------------------------------

    @property
    def pool(self) -> list[Artifact]:
        """The base's images from which adaptation selects: those of Lee et al.'s fine-tuning."""
        return [self.labelled_images, self.unlabelled_images]

    @cached_property
    def usable(self) -> np.ndarray:
        """Which images of the pool are not near-uniform: bool [image]."""
        return ~np.concatenate([adaptation.near_uniform(sampling.load_images(s).pixels) for s in self.pool])

    def selection(self, spec: AdaptationSpec, coin: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Preferred and non-preferred images of the pool, int [image] each, by the classifier of the run's seed; with
        `coin`, by the HPS of a coin, which selects as many. As in training, the softmax is of `scale` x cosine."""
        texts = [p for s in self.pool for p in sampling.load_images(s).prompts]

        def chosen(by: PreferenceSpec, budget=None):
            scores = np.concatenate([self.hps(s, by) for s in self.pool]) * by.scale / 100
            return adaptation.select(scores, texts, self.usable, spec.threshold, budget, adaptation.FEWEST)

        found = chosen(PreferenceSpec(seed=spec.seed))
        if coin:
            found = chosen(PreferenceSpec(coin=True, seed=spec.seed), (len(found[0]), len(found[1])))
        return found[::-1] if spec.swapped else found

    # ---- adaptation ----------------------------------------------------------------------------------------------

    def arms(self, asked: Iterable[str] = ()) -> list[str]:
        """The arms to train: those of every size, those that FROM adds at this size, and those `asked` for."""
        reached = list(SIZES).index
        return [a for a in ADAPTATIONS if a in asked or a not in FROM or reached(self.name) >= reached(FROM[a])]

    def adaptation_spec(self, arm: str, **chosen) -> AdaptationSpec:
        """The spec of an arm of ADAPTATIONS, with the `chosen` learning rate and updates; its `seed` is the run, which has
        its own LoRA, batches and selecting classifier."""
        if arm not in ADAPTATIONS:
            raise ValueError(f"unknown adaptation {arm!r}: expected one of {', '.join(ADAPTATIONS)}")
        return AdaptationSpec(**{"updates": self.size.adaptation_updates} | ADAPTATIONS[arm] | chosen)

    def adaptation_runs(self, arm: str, **chosen) -> list[AdaptationSpec]:
        """The same for all runs of an arm."""
        return [self.adaptation_spec(arm, seed=r, **chosen) for r in range(self.size.finetune_seeds if arm in RUNS else 1)]

    def adapted(self, arm: str, spec: AdaptationSpec) -> Artifact:
        """The LoRA of one arm of ADAPTATIONS."""
        best, worst = self.selection(spec, coin=arm == "coin choices")
        inputs = {f"images {i}": s for i, s in enumerate(self.pool)} | {
            "base": self.base_digest, "web pairs": web.digest(self.size.pretraining, 1),
            "selected": digest_of([best.tolist(), worst.tolist()]),
        }  # fmt: skip
        streams = partial(self.streams, best=best, worst=worst, prefix=spec.prefix)
        return adaptation.adapted(self.generator(), streams, spec, inputs)

    def streams(self, pipe, best: np.ndarray, worst: np.ndarray, prefix: str) -> list[denoising.Pairs]:
        """Training data of a LoRA: preferred and non-preferred images of the pool, int [image] each, and real ones."""
        texts = [p for s in self.pool for p in sampling.load_images(s).prompts]
        latents = torch.cat([self.latents(s) for s in self.pool])
        return [
            denoising.encoded(pipe, latents[best], [texts[i] for i in best]),
            denoising.encoded(pipe, latents[worst], [prefix + texts[i] for i in worst]),
            self.real_pairs(pipe),
        ]

    def adapted_images(self, kind: str, lora: Artifact | None = None, negative_prompt: str = "") -> Artifact:
        """Images of the `evaluation` prompts, of the `selection` prompts or of held-out web captions (`fidelity`), drawn by
        the base or the base with a LoRA, with or without a negative prompt, from the same noise as for every other model."""
        if lora is None and not negative_prompt and kind != "selection":
            return self.few_images(kind)
        if kind == "fidelity":
            texts = self.web_captions(self.size.fidelity_captions, 2)[: self.size.adapted_captions]
            grid = texts, list(range(len(texts)))
        else:
            few, each = prompts.evaluation_prompts()[:: self.size.evaluation_stride], self.size.adapted_images
            if kind == "selection":  # as many images, from a third of the prompts
                few, each = self.selection_prompts, min(3 * each, self.size.selection_images)
            grid = self._grid(few, [each] * len(few))
        generator, load = {"base": self.base_digest}, self.generator()
        if lora is not None:
            generator, load = generator | {"lora": lora}, lambda: models.load_lora(lora.path)
        return sampling.sampled(load, generator, *grid, kind, SamplerSpec(negative_prompt=negative_prompt))

    # ---- evaluation ----------------------------------------------------------------------------------------------

    def scored(self, images: Sequence[Artifact]) -> dict[str, np.ndarray]:
        """The measures of Table 4 on a model's images, given by run, and its good shares by judge-b and the panel: float
        [run, image] by measure. HPS, as a cosine, comes from classifiers that did not select for the run."""
        runs = range(self.size.finetune_seeds)
        each = {
            "aesthetic": self.aesthetic, "clip_score": lambda s: embedding.clip_score(*self.embeddings(s)),
            "judge_b": lambda s: self.verdicts(s, "b").astype(float), "panel": self.panel_shares,
        }  # fmt: skip
        found = {measure: np.stack([score(s) for s in images]) for measure, score in each.items()}
        return found | {"hps": np.stack([self.hps_of_others(of_run(images, r), r) for r in runs]) / 100}

    def study_votes(
        self, images: Mapping[str, Sequence[Artifact]], a: str, b: str, who: str = adaptation.VOTER
    ) -> tuple[np.ndarray, list[str]]:
        """Votes of 20 users on two models' images of the same prompts, given by model name and run: bool [run, user, pair],
        True for `a`, with the prompt of each pair. A model with one run is compared with each run of the other.

        `who` names the users, none of whom took part in the choices; those of the user study see 100 of the 120 prompts.
        """
        found = []
        for run in range(max(len(images[a]), len(images[b]))):
            made = [of_run(images[model], run) for model in (a, b)]
            first, second = map(sampling.load_images, made)
            if first.prompts != second.prompts:
                raise ValueError("a user study must compare images of the same prompts in the same order")
            each = 5 if who == adaptation.VOTER else 6  # of six prompts
            asked = {p for i, p in enumerate(dict.fromkeys(first.prompts)) if i % 6 < each}
            rows = [i for i, p in enumerate(first.prompts) if p in asked]
            mark = [run] if run else []
            names = [(name_of(a, *mark, first.names[i]), name_of(b, *mark, second.names[i])) for i in rows]
            users = [f"{who}-{i:02d}" for i in range(adaptation.USERS)]
            found.append(adaptation.votes(*(self.traits(s)[rows] for s in made), names, users, self.taste))
        return np.stack(found), [first.prompts[i] for i in rows]

    def user_study(self, images: Mapping[str, Sequence[Artifact]], a: str, b: str) -> dict[str, float | str]:
        """A row of the user study: the shares of pairs that model `a` wins and loses against `b` with more than half of the
        users (`win`, `lose`), net votes (`net`), and as an audit judge-b's good share of all of a's images minus b's
        (`judge_b`); each with `_low` and `_high`, its 95 % interval over `_prompts` and runs (`seeds`); `_pairs` per run."""
        found, whose = self.study_votes(images, a, b)
        outcome = adaptation.majorities(found)
        parts = {"win": outcome == 1, "lose": outcome == -1, "net": outcome}
        good = [np.stack([self.verdicts(s, "b") for s in images[model]]).astype(float) for model in (a, b)]
        audit = stats.paired_difference(*np.broadcast_arrays(*good), sampling.load_images(images[a][0]).prompts)
        bounds = {k: stats.cluster_bootstrap(x.astype(float), whose) for k, x in parts.items()} | {"judge_b": audit}
        ends = {"": "value", "_low": "low", "_high": "high", "_pairs": "n", "_prompts": "clusters"}
        row = {k + end: getattr(f, part) for k, f in bounds.items() for end, part in ends.items()}
        return dict(a=a, b=b, seeds=audit.seeds) | row

    def compared_settings(self, grid: Sequence[AdaptationSpec]) -> list[dict]:
        """One row per setting of the adapted model, the first being the centre: `gain`, net votes against the base with the
        same negative prompt, on the selection prompts and from users who vote on nothing else; and `ahead`, this minus
        the centre's. Intervals are 95 %, over prompts."""
        rows, centre = [], None
        for spec in grid:
            loras = {"adapted": self.adapted("adapted", spec), "base": None}
            drawn = {model: [self.adapted_images("selection", lora, spec.prefix)] for model, lora in loras.items()}
            found, whose = self.study_votes(drawn, "adapted", "base", adaptation.SELECTOR)
            net = adaptation.majorities(found)
            centre = net if centre is None else centre
            gain, ahead = stats.cluster_bootstrap(net, whose), stats.paired_difference(net, centre, whose)
            row = dict(learning_rate=spec.learning_rate, updates=spec.updates, gain=gain.value, low=gain.low, high=gain.high)
            row |= dict(ahead=ahead.value, ahead_low=ahead.low, ahead_high=ahead.high)
            rows.append(row | dict(pairs=gain.n, prompts=gain.clusters, seeds=1))
        return rows
