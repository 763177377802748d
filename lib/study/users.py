"""Wu et al. 2023, choices: what users choose, and the scores that learn from it to predict further choices.

Users see through judge-a and the features of votes on fidelity; judge-b and the features of the Fréchet distance audit.
"""

from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import pandas as pd

from lib.feedback import choices, taste
from lib.ground.cache import Artifact, digest_of
from lib.ground.paths import MODELS
from lib.ground.seeds import normals, rng_of, seed_of
from lib.images import embedding, models, sampling
from lib.methods import preference
from lib.methods.preference import PreferenceSpec
from lib.study.common import Study
from lib.world import prompts, web
from lib.world.scenes import SEEN

PARTS = ("train", "test")


class ChoiceStudy(Study):
    """One size of the choices and scores of Wu et al.'s study; `lib.study.wu` continues it."""

    # ---- choices -------------------------------------------------------------------------------------------------

    def choice_prompts(self, part: str) -> list[str]:
        """Prompts of seen objects on which users choose, `train` or `test`: no prompt is in both."""
        count = dict(zip(PARTS, self.size.choice_prompts, strict=True))
        pool = sorted(set(prompts.grid(SEEN, (120, 180, 160, 5760))))
        order = rng_of(2303).permutation(len(pool))
        first = 0 if part == "train" else count["train"]
        if count["train"] + count["test"] > len(pool):
            raise ValueError(f"{sum(count.values())} prompts are needed for choices, but there are only {len(pool)}")
        return [pool[i] for i in order[first : first + count[part]]]

    def choice_images(self, part: str) -> Artifact:
        """Two to four images of each prompt, from which users choose."""
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
        """The standard deviation of each trait among training images of one prompt: float [trait]."""
        images = self.choice_images("train")
        return taste.trait_units(self._traits(images), sampling.load_images(images).prompts)

    def traits(self, images: Artifact) -> np.ndarray:
        """What users see in images: float [image, trait], in units of `trait_units`."""
        return self._traits(images) / self.trait_units

    @cached_property
    def taste(self) -> taste.TasteSpec:
        """What users like, with the noise at which they guess each other's choices as often as people did."""
        images = self.choice_images("train")
        rows = choices.groups(sampling.load_images(images).prompts)
        return taste.calibrated(self.traits(images), rows, taste.TasteSpec())

    def choices(self, images: Artifact, coin: bool = False) -> pd.DataFrame:
        """What users choose among the images of each prompt; for each, `size.choosers` of `size.users` are drawn."""
        return self._chosen(images, taste.user, coin=coin)

    def guesses(self, images: Artifact) -> pd.DataFrame:
        """For each choice, the guess of another user, who does not know the order of the images."""
        return self._chosen(images, lambda u: taste.user(u + self.size.users), position=False)

    def _chosen(self, images: Artifact, name, **how) -> pd.DataFrame:
        shown = sampling.load_images(images)
        rows = choices.groups(shown.prompts)
        drawn = [rng_of(seed_of("users", shown.prompts[r[0]])) for r in rows]
        users = [[name(u) for u in g.choice(self.size.users, self.size.choosers, replace=False)] for g in drawn]
        return choices.choose(self.traits(images), rows, shown, users, self.taste, **how)

    def liking(self, images: Artifact) -> np.ndarray:
        """How much the average user likes each image: float [image]; no score of images can do better."""
        return self.liking_by_trait(images).sum(1)

    def liking_by_trait(self, images: Artifact) -> np.ndarray:
        """What each trait contributes to this: float [image, trait]."""
        return self.traits(images) * [getattr(self.taste, t) for t in taste.TRAITS]

    # ---- scores --------------------------------------------------------------------------------------------------

    @cached_property
    def training_choices(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Choices by users and by coin, each as from `choices.groups_of`: all seeds and shares learn from the same ones."""
        images = self.choice_images("train")
        shown = sampling.load_images(images)
        return tuple(choices.groups_of(self.choices(images, coin), shown.digests, shown.prompts) for coin in (False, True))

    def tuned_clip(self, spec: PreferenceSpec = PreferenceSpec()) -> Artifact:
        """CLIP tuned on the training choices, or on choices made by coin: a folder in open_clip's layout."""
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
        """The same, from classifiers of `size.preference_seeds` seeds: float [seed, image]."""
        return np.stack([self.hps(images, replace(spec, seed=s)) for s in range(self.size.preference_seeds)])

    def hps_of_others(self, images: Artifact, run: int = 0) -> np.ndarray:
        """The mean over all classifiers except that of seed `run`, which selected this run's training images: float [image].
        Raises ValueError if there is no other."""
        if not (others := [s for s in range(self.size.preference_seeds) if s != run]):
            raise ValueError("HPS must be measured by a classifier that did not select: set `preference_seeds` to 2 or more")
        return np.mean([self.hps(images, replace(PreferenceSpec(), seed=s)) for s in others], 0)

    @cached_property
    def aesthetic_weights(self) -> np.ndarray:
        """A linear predictor, from CLIP embeddings, of ratings of the labelled images, given without their prompts."""
        images = self.labelled_images
        names = sampling.load_images(images).names
        own = taste.weights([f"critic-{i % self.size.users:05d}" for i in range(len(names))], self.taste)[:, 1:]
        ratings = (own * self.traits(images)[:, 1:]).sum(1) + self.taste.noise * normals(names, "critic's rating")
        return preference.ridge(self.embeddings(images)[0], ratings)

    def aesthetic(self, images: Artifact) -> np.ndarray:
        """The aesthetic predictor's rating of images: float [image]."""
        return preference.aesthetic(self.embeddings(images)[0], self.aesthetic_weights)
