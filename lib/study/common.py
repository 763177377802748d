"""The basis of both papers' studies: the models of one size, the base's images, and what judges and CLIP say of images.

Every stage is stored under a key of what made it. Stages are computed only when requested, and later come from the cache.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from lib.feedback import judges, panel, votes
from lib.ground.cache import Artifact
from lib.ground.seeds import rng_of
from lib.ground.sizes import SamplerSpec, size_named
from lib.images import embedding, metrics, models, sampling
from lib.methods import denoising
from lib.study import ahead
from lib.world import prompts, web


class Study:
    """One size of the study on the mini models. `raters` are the simulated `panel`, or a file of labels that people gave."""

    def __init__(self, size: str, raters: str = "panel"):
        self.name, self.size, self.raters = size, size_named(size), str(raters)
        self.arguments = self.name, self.raters  # with which another process makes the same study

    def ahead(self, *wanted: tuple) -> None:
        """Make several stages at once, given as (name, *arguments) of this class, before they are requested.

        At size `smoke` only if many are missing: starting processes takes longer than a few of its stages.
        """
        ahead.make(self, wanted, 6 if self.name == "smoke" else 2)

    def each(self, method: Callable, variants: Mapping | Iterable, *more) -> dict:
        """What `method(variant, *more)` of this study returns for each variant, made `ahead`, by the variant's name; in a
        list, variants are their own names."""
        named = variants if isinstance(variants, Mapping) else {v: v for v in variants}
        self.ahead(*[(method.__name__, v, *more) for v in named.values()])
        return {name: method(v, *more) for name, v in named.items()}

    # ---- models ---------------------------------------------------------------------------------------------------

    @cached_property
    def base_digest(self) -> str:
        return models.verify("mini-sd")

    @cached_property
    def clip_digest(self) -> str:
        return models.verify("mini-clip")

    def generator(self, unet: Path | None = None) -> Callable:
        """A function that loads the base, or the base with a fine-tuned U-Net."""
        return lambda: models.load_generator("mini", unet)

    def model(self, unet: tuple[Artifact, int] | None = None) -> tuple[Callable, dict[str, Artifact | str]]:
        """A function that loads the base, or the base with a U-Net fine-tuned for some updates; and the model's inputs."""
        if unet is None:
            return self.generator(), {"base": self.base_digest}
        artifact, updates = unet
        load = self.generator(artifact.path / f"unet-{updates}.safetensors")
        return load, {"base": self.base_digest, "unet": artifact, "updates": str(updates)}

    # ---- images ---------------------------------------------------------------------------------------------------

    def sample(
        self, texts: list[str], numbers: list[int], stream: str, unet: tuple[Artifact, int] | None = None,
        spec: SamplerSpec = SamplerSpec(),
    ) -> Artifact:  # fmt: skip
        """Images of the base, or of a U-Net (stage, updates); one initial noise per prompt, number and stream."""
        load, made_of = self.model(unet)
        return sampling.sampled(load, made_of, texts, numbers, stream, spec)

    def _grid(self, texts: list[str], images: list[int]) -> tuple[list[str], list[int]]:
        pairs = [(p, k) for p, n in zip(texts, images, strict=True) for k in range(n)]
        return [p for p, _ in pairs], [k for _, k in pairs]

    @cached_property
    def labelled_images(self) -> Artifact:
        """The images to be labelled, on the size's grid of prompts."""
        texts = prompts.grid(counts=self.size.prompts)
        by_category = dict(zip(prompts.CATEGORIES, self.size.images, strict=True))
        return self.sample(*self._grid(texts, [by_category[prompts.parse(p).category] for p in texts]), "labelled")

    @cached_property
    def unlabelled_images(self) -> Artifact:
        """More images of the same prompts, scored by the reward alone."""
        texts = prompts.grid(counts=self.size.prompts)
        rng = rng_of(16)
        drawn = sorted(rng.integers(len(texts), size=self.size.unlabelled).tolist())
        return self.sample([texts[i] for i in drawn], _earlier(drawn), "unlabelled")

    def evaluation_images(
        self, unet: tuple[Artifact, int] | None = None, each: int | None = None, spec: SamplerSpec = SamplerSpec()
    ) -> Artifact:  # fmt: skip
        """Images of the 120 evaluation prompts, `each` or as the size says per prompt; the same noise for every model."""
        texts = prompts.evaluation_prompts()[:: self.size.evaluation_stride]
        grid = self._grid(texts, [each or self.size.evaluation_images] * len(texts))
        return self.sample(*grid, "evaluation", unet, spec)

    @property
    def selection_prompts(self) -> list[str]:
        """The prompts by whose images settings and scales are chosen: all 40, but at size smoke."""
        return prompts.selection_prompts()[:: -(-self.size.evaluation_stride // 2)]

    def fidelity_images(
        self, unet: tuple[Artifact, int] | None = None, spec: SamplerSpec = SamplerSpec()
    ) -> Artifact:  # fmt: skip
        """One image for each held-out web caption."""
        captions = self.web_captions(self.size.fidelity_captions, 2)
        return self.sample(captions, list(range(len(captions))), "fidelity", unet, spec)

    def few_images(
        self, kind: str, unet: tuple[Artifact, int] | None = None, whole: bool = True, spec: SamplerSpec = SamplerSpec()
    ) -> Artifact:  # fmt: skip
        """As many of a model's images as an adapted model draws, of the `evaluation` prompts or of held-out web captions
        (`fidelity`): part of the `whole` set, if a notebook requests that, too, or drawn on their own."""
        few = self.size.adapted_images if kind == "evaluation" else self.size.adapted_captions
        if whole:
            images = self.evaluation_images(unet, None, spec) if kind == "evaluation" else self.fidelity_images(unet, spec)
            return sampling.numbered_below(images, few)
        if kind == "evaluation":
            return self.evaluation_images(unet, few, spec)
        return self.sample(self.web_captions(self.size.fidelity_captions, 2)[:few], list(range(few)), kind, unet, spec)

    # ---- judgements of images -------------------------------------------------------------------------------------

    def looks(self, images: Artifact, judge: str) -> dict[str, np.ndarray]:
        """A judge's probabilities by head [image, class]."""
        return judges.looked_at(images, lambda: models.load_judge(judge), models.verify(f"judge-{judge}"))

    def verdicts(self, images: Artifact, judge: str) -> np.ndarray:
        """A judge's verdict on each image for its prompt: bool [image]."""
        return judges.verdicts(self.looks(images, judge), sampling.load_images(images).prompts)

    def panel_shares(self, images: Artifact, spec: panel.RaterSpec = panel.RaterSpec()) -> np.ndarray:
        """The share of the nine simulated evaluators who call each image good: float [image]."""
        shown = sampling.load_images(images)
        labels = panel.rate(self.looks(images, "a"), shown.names, shown.prompts, panel.EVALUATORS, spec)
        return (labels == "good").mean(0)  # skips in the denominator

    def embeddings(self, images: Artifact) -> tuple[np.ndarray, np.ndarray]:
        """CLIP embeddings of images and prompts."""
        return embedding.embedded(images, models.load_clip, self.clip_digest)

    @cached_property
    def real_features(self) -> np.ndarray:
        """Real renders in the features used for votes on fidelity: float [image, 64]."""
        return metrics.features(models.load_vote_features(), self.web_pairs(self.size.references, 4)[1])

    @cached_property
    def realism_unit(self) -> float:
        """The standard deviation of realism among the base's evaluation images of one prompt."""
        shown = sampling.load_images(self.evaluation_images())
        found = metrics.features(models.load_vote_features(), shown.pixels)
        return votes.spread_within(votes.realism(found, self.real_features), shown.prompts)

    def realism(self, pixels: np.ndarray) -> np.ndarray:
        """Realism of uint8 images [image, 64, 64, 3], in units of `realism_unit`: float [image]."""
        found = metrics.features(models.load_vote_features(), pixels)
        return votes.realism(found, self.real_features) / self.realism_unit

    # ---- training data --------------------------------------------------------------------------------------------

    def web_pairs(self, count: int, stream: int) -> tuple[list[str], np.ndarray]:
        """Captions and renders, uint8 [count, 64, 64, 3], of the web corpus, on which no model was trained."""
        return web.pairs(count, stream)

    def web_captions(self, count: int, stream: int) -> list[str]:
        """The captions of `web_pairs`, without drawing their scenes."""
        return web.captions(count, stream)

    def latents(self, images: Artifact) -> torch.Tensor:
        """Latents of images, for training: float [image, channel, height, width]."""
        inputs = {"base": self.base_digest, "images": images}
        return denoising.latents_of(self.generator(), lambda: sampling.load_images(images).pixels, inputs)

    def web_latents(self) -> torch.Tensor:
        """Latents of the web pairs for the pre-training loss."""
        count = self.size.pretraining
        inputs = {"base": self.base_digest, "web pairs": web.digest(count, 1)}
        return denoising.latents_of(self.generator(), lambda: self.web_pairs(count, 1)[1], inputs)

    def real_pairs(self, pipe) -> denoising.Pairs:
        """The web pairs for the pre-training loss."""
        return denoising.encoded(pipe, self.web_latents(), self.web_captions(self.size.pretraining, 1))


def _earlier(drawn: list[int]) -> list[int]:
    """How often each item of a sorted list occurred before."""
    out, last, k = [], None, 0
    for i in drawn:
        k = k + 1 if i == last else 0
        out.append(k)
        last = i
    return out
