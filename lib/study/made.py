"""What notebooks ask for by the name of a setup: the studies, and the models of the first notebook.

Under `mini` these are the study's own classes and models, and nothing of `lib.scale` is imported.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib.ground.sizes import EXACT, SamplerSpec
from lib.images import models
from lib.methods import ablation
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


def generator(setup: str = "mini") -> tuple:
    """The pipeline of a setup, how the stock pipeline draws an image, and how the study does (as `SamplerSpec`)."""
    if setup == "mini":
        return models.load_generator("mini"), EXACT, SamplerSpec()
    from lib.ground.precision import DEVICE
    from lib.ground.setups import setup_named
    from lib.scale import hub
    from lib.scale.drawing import Drawing

    found = setup_named(setup)
    pipe = hub.load_base(found.model, DEVICE, sampler=found.sampling.sampler)
    pipe.unet.register_to_config(sample_size=found.sampling.resolution // pipe.vae_scale_factor)
    how = Drawing.of(found, {})
    return pipe, Drawing(how.guidance_scale, how.steps, float("inf")), how


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
