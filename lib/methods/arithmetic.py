"""The reward direction: the reward's own contribution to the weights, by task arithmetic.

Ilharco et al. 2023, *Editing models with task arithmetic*. Two models fine-tuned from the base on the same batches share
what both learn: to copy the base's own guided images, and the pre-training loss. The difference of their weights is what
only one learns. With rewards minus their mean, it follows the covariance of reward and log-likelihood. Added to the base, it
leaves out the rest.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file
from torch import Tensor

from lib.ground.cache import Artifact, stage
from lib.ground.checks import finite

if TYPE_CHECKING:  # diffusers takes seconds to import, and much of the study needs no generator
    from diffusers import StableDiffusionPipeline


def moved(
    base: Mapping[str, Tensor], plus: Mapping[str, Tensor], minus: Mapping[str, Tensor], strength: float
) -> dict[str, Tensor]:  # fmt: skip
    """base + strength (plus - minus), by name, as float32 on the CPU. Raises ValueError if the weights' names differ or the
    strength is not finite."""
    finite("strength", strength)
    if not base.keys() == plus.keys() == minus.keys():
        odd = sorted((base.keys() ^ plus.keys()) | (base.keys() ^ minus.keys()))
        raise ValueError(f"the weights are of different networks: {', '.join(odd[:3])} are not in all of them")
    return {k: w.cpu().float() + strength * (plus[k].float() - minus[k].float()) for k, w in base.items()}


def along(
    load: Callable[[], "StableDiffusionPipeline"], plus: tuple[Artifact, int], minus: tuple[Artifact, int], strength: float,
    base: str,
) -> tuple[Artifact, int]:  # fmt: skip
    """The stage of the U-Net that `moved` makes from two tuned ones, each given as (stage, updates); and the updates.

    `base` is the digest of the generator that `load` returns. Raises ValueError if the numbers of updates differ.
    """
    (a, updates), (b, others) = plus, minus
    if updates != others:
        raise ValueError(f"one U-Net had {updates} updates and the other {others}: both need the same number")
    file = f"unet-{updates}.safetensors"

    def make(folder: Path) -> None:
        weights = moved(dict(load().unet.named_parameters()), load_file(a.path / file), load_file(b.path / file), strength)
        save_file({k: w.detach().half().contiguous() for k, w in weights.items()}, folder / file, {"format": "pt"})

    return stage("unet", dict(strength=strength), {"base": base, "plus": a, "minus": b, "updates": str(updates)}, make,
                 ("lib.images.models", load)), updates  # fmt: skip
