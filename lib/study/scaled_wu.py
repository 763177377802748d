"""Wu et al.'s study of a setup other than `mini`."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from lib.feedback import choices
from lib.ground.cache import Artifact
from lib.ground.seeds import rng_of
from lib.ground.setups import NotServed
from lib.ground.sizes import SamplerSpec
from lib.images import embedding, sampling
from lib.methods import adaptation, preference
from lib.methods.adaptation import AdaptationSpec
from lib.methods.preference import PreferenceSpec
from lib.study.scaled import Scaled
from lib.study.wu import WuStudy


class ScaledWu(Scaled, WuStudy):
    """Wu et al.'s study of a setup."""

    @cached_property
    def _chosen_by_people(self):
        path = Path(self.setup.raters.choices)
        if not self.setup.raters.choices or not path.exists() or not self.archive:
            raise NotServed("there are no choices by people: name their file and images in the setup's table raters")
        return choices.load(path)

    def choice_prompts(self, part: str) -> list[str]:
        """Prompts on whose images people chose: a share of them is for tests, as large as the size says."""
        names = np.array(sorted(set(self._chosen_by_people.prompt)))
        train, test = self.size.choice_prompts
        apart = np.isin(
            np.arange(len(names)), rng_of(2303).permutation(len(names))[: round(len(names) * test / (train + test))]
        )
        return names[apart == (part == "test")].tolist()

    def choice_images(self, part: str) -> Artifact:
        """The images of these prompts among which people chose."""
        asked, shown = set(self.choice_prompts(part)), {d for images in self._chosen_by_people.images for d in images}
        found = zip(self.archive.prompts, self.archive.digests, strict=True)
        return self.judged([i for i, (p, d) in enumerate(found) if p in asked and d in shown])

    def choices(self, images: Artifact, coin: bool = False):
        """People's choices among these images; with `coin`, as many choices made by coin."""
        prompts, table = sampling.load_images(images).prompts, self._chosen_by_people
        table = table[table.prompt.isin(prompts)].reset_index(drop=True)
        lots = rng_of(2304).random(len(table))
        return table.assign(chosen=(lots * table.images.map(len)).astype(int)) if coin else table

    def _traits(self, images: Artifact):
        raise NotServed("people's tastes are not simulated")

    def guesses(self, images: Artifact):
        return self._traits(images)

    @property
    def second_images(self):
        raise NotServed("the second generator is mini's")

    @property
    def aesthetic_weights(self):
        return self._traits(self.labelled_images)

    def tuned_clip(self, spec: PreferenceSpec = PreferenceSpec()) -> Artifact:
        """The setup's CLIP tuned on the training choices, or on choices made by coin."""
        images, (rows, chosen) = self.choice_images("train"), self.training_choices[spec.coin]
        prompts = sampling.load_images(images).prompts
        used = preference.subset([prompts[i] for i in rows[:, 0]], spec.choices, spec.seed)
        groups, counts = preference.counted(rows[used], chosen[used])
        spec = replace(spec, epochs=spec.epochs or self.size.preference_epochs)
        return self.launched("preference", {"images": images, "rows": groups, "counts": counts, "spec": asdict(spec)})

    def hps(self, images: Artifact, spec: PreferenceSpec = PreferenceSpec()) -> np.ndarray:
        """Human Preference Score of images for their prompts, in [-100, 100]: float [image]."""
        return preference.hps(*self.embeddings(images, self.tuned_clip(spec)))

    @cached_property
    def usable(self) -> np.ndarray:
        """Which images of the pool are not near-uniform: bool [image]."""
        pixels = [sampling.load_images(s).pixels for s in self.pool]
        return np.concatenate([~adaptation.near_uniform(x[i : i + 64]) for x in pixels for i in range(0, len(x), 64)])

    def adaptation_spec(self, arm: str, **chosen) -> AdaptationSpec:
        """The spec of an arm, with the setup's learning rate and rank."""
        spec, training = super().adaptation_spec(arm), self.setup.training
        own = {"learning_rate": training.learning_rate, "rank": training.lora_rank if arm != "rank 4" else None}
        return replace(spec, **{k: v for k, v in own.items() if v} | chosen)

    def adapted(self, arm: str, spec: AdaptationSpec) -> Artifact:
        """The LoRA of one arm."""
        best, worst = self.selection(spec, coin=arm == "coin choices")
        own = {"latents": [self.latents(s) for s in self.pool]}
        streams = [own | {"rows": best.tolist()}, own | {"rows": worst.tolist(), "prefix": spec.prefix}]
        return self.launched("adapt", {"streams": [*streams, {"latents": self.web_latents()}], "spec": asdict(spec)})

    def adapted_images(self, kind: str, lora: Artifact | None = None, negative_prompt: str = "") -> Artifact:
        """Images of the `evaluation` prompts or of COCO captions (`fidelity`) by the base, or by the base with a LoRA."""
        if kind == "selection":
            raise NotServed("rate and updates are the setup's: no simulated users choose them")
        base = sampling.load_images(self.few_images(kind))
        return self.sample(base.prompts, base.numbers, kind, None, SamplerSpec(negative_prompt=negative_prompt), lora)

    def scored(self, images: Sequence[Artifact]) -> dict[str, np.ndarray]:
        """CLIP score and, by classifiers that did not select for the run, HPS as a cosine: float [run, image] by measure."""
        runs = range(self.size.finetune_seeds)
        of_run = [images[r if len(images) > 1 else 0] for r in runs]
        return {
            "clip_score": np.stack([embedding.clip_score(*self.embeddings(s)) for s in images]),
            "hps": np.stack([self.hps_of_others(s, r) for r, s in enumerate(of_run)]) / 100,
        }
