"""What notebooks ask for by the name of a setup: the studies, and the models of the first notebook.

Under `mini` these are the study's own classes and models, and nothing of `lib.scale` is imported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lib.ground.sizes import EXACT, SamplerSpec
from lib.images import models, sampling
from lib.methods import ablation, preference
from lib.study.lee import LeeStudy
from lib.study.wu import WuStudy


def lee_study(size: str, raters: str = "panel", setup: str = "mini") -> LeeStudy:
    """Lee et al.'s study of one size. `raters` are a file of labels or the setup's: under `mini`, the simulated panel."""
    if setup == "mini":
        return LeeStudy(size, raters)
    from lib.study.scaled_lee import ScaledLee

    if raters != "panel":
        raise ValueError(f"raters = {raters!r}: name the file of labels in the table raters of the setup {setup}")
    return ScaledLee(size, setup)


def wu_study(size: str, setup: str = "mini") -> WuStudy:
    """Wu et al.'s study of one size."""
    if setup == "mini":
        return WuStudy(size)
    from lib.study.scaled_wu import ScaledWu

    return ScaledWu(size, setup)


@dataclass(frozen=True)
class Generator:
    """A text-to-image pipeline: how the stock pipeline draws an image with it, and how the study does (as `SamplerSpec`)."""

    pipe: object
    stock: object
    own: object
    drawn: Callable  # as `lib.images.sampling.sample`

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], how=None) -> np.ndarray:
        """One image per prompt: uint8 [image, height, width, 3]."""
        return self.drawn(self.pipe, prompts, seeds, how or self.own)


def generator(setup: str = "mini") -> Generator:
    """The base of a setup, in this process."""
    if setup == "mini":
        return Generator(models.load_generator("mini"), EXACT, SamplerSpec(), sampling.sample)
    from lib.ground.precision import DEVICE
    from lib.ground.setups import setup_named
    from lib.scale import drawing, hub

    found = setup_named(setup)
    pipe, how = hub.load_base(found.model, DEVICE, sampler=found.sampling.sampler), drawing.Drawing.of(found, {})
    pipe.unet.register_to_config(sample_size=found.sampling.resolution // pipe.vae_scale_factor)
    return Generator(pipe, replace(how, guided=float("inf")), how, lambda *given: np.stack([*drawing.drawn(*given, 8)]))


def clip(setup: str = "mini") -> tuple:
    """The CLIP model of a setup, its preprocessing and its tokenizer."""
    if setup == "mini":
        return models.load_clip()
    from lib.ground.setups import setup_named
    from lib.scale import hub

    return hub.load_clip(setup_named(setup).clip)


def clip_names(setup: str = "mini") -> tuple[str, ...]:
    """The names of the CLIP scores that rewards are compared with: only mini-CLIP was also matched longer."""
    return ablation.CLIP if setup == "mini" else ablation.CLIP[:1]


def clip_rows(tested: ablation.HeldOut, setup: str = "mini") -> dict[str, np.ndarray]:
    """These scores of held-out images, in [-1, 1], float [1, item]."""
    return ablation.clip_rows(tested) if setup == "mini" else {ablation.CLIP[0]: tested.clip_scores()}


def clip_scores(image: np.ndarray, text: np.ndarray, setup: str = "mini") -> dict[str, np.ndarray]:
    """The same of any images, from embeddings [image, dimension], in [-100, 100]: float [image]."""
    found = {ablation.CLIP[0]: preference.hps(image, text)}
    return found | ({ablation.CLIP[1]: preference.hps(image, text @ models.matched_longer())} if setup == "mini" else {})


def stronger_clip(scores: Mapping[str, np.ndarray], tested: ablation.HeldOut, setup: str = "mini") -> str:
    """That of these scores which orders more pairs correctly."""
    return ablation.stronger_clip(scores, tested) if setup == "mini" else ablation.CLIP[0]


def fid(study: LeeStudy, images: Mapping) -> pd.DataFrame:
    """Fréchet Inception distance on COCO of the `fidelity_images` of several models, by name, with the card of all; empty
    under `mini`, whose distances are to renders."""
    if not hasattr(study, "fid"):
        return pd.DataFrame()
    found = {model: study.fid(drawn) for model, drawn in images.items()}
    return pd.DataFrame([dict(model=m, fid=value, **vars(card)) for m, (value, card) in found.items()])
