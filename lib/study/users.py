"""Wu et al. 2023, choices: what users choose, the scores that learn from it, and how well those know the next choice.

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
    """One size of the choices and scores of Wu et al.'s study; `lib.study.wu` goes on from here."""

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

    def hps_of_others(self, images: Artifact, run: int = 0) -> np.ndarray:
        """The mean of the same over all classifiers but the one of seed `run`, which selected what that training run learnt
        from: float [image]. Raises ValueError where there is no other."""
        if not (others := [s for s in range(self.size.preference_seeds) if s != run]):
            raise ValueError("HPS is to be measured by a classifier that did not select: give `preference_seeds` 2 or more")
        return np.mean([self.hps(images, replace(PreferenceSpec(), seed=s)) for s in others], 0)

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
