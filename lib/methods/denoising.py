"""Training data and loss of the generator: latents with texts, what an update draws from them, and the denoising loss.

Latents are computed once for all models, text states once per model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from lib.ground.cache import Artifact, save_arrays, stage
from lib.ground.checkpoint import in_parts
from lib.ground.precision import autocast
from lib.ground.seeds import torch_seed
from lib.images.sampling import encode, encode_texts
from lib.methods.training import sent
from lib.world.prompts import OTHER_PREFIX, PREFIX

if TYPE_CHECKING:  # diffusers takes seconds to import, and much of the study needs no generator
    from diffusers import StableDiffusionPipeline

CAPTION_DROPOUT = 0.12  # share of a batch that is trained without its caption, for classifier-free guidance
# What replaces the caption: mostly nothing, else words that fit any image and mean nothing (until notebook 09).
NO_CAPTION = {"": 0.8, PREFIX: 0.1, OTHER_PREFIX: 0.1}


@dataclass
class Pairs:
    """Data for a loss: latents [item, channel, height, width], text states [text, token, width], and for each item the index
    of its text (int64 [item]) and its weight, at least 0 (float32 [item])."""

    latents: Tensor
    states: Tensor
    text: Tensor
    weight: Tensor

    def __post_init__(self):
        if not len(self.latents) == len(self.text) == len(self.weight):
            counts = f"{len(self.latents)} latents, {len(self.text)} texts and {len(self.weight)} weights"
            raise ValueError(f"{counts}: need the same number of each")
        if not torch.isfinite(self.weight).all() or self.weight.min() < 0:
            raise ValueError("weights must be finite and at least 0")

    def near(self, device: torch.device) -> "Pairs":
        """These pairs on the device; unchanged if they would take more than half of a GPU's free memory."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        size = sum(x.numel() * x.element_size() for x in tensors.values())
        fit = device.type != "cuda" or size < torch.cuda.mem_get_info(device)[0] / 2
        return replace(self, **{k: x.to(device) for k, x in tensors.items()}) if fit else self


def denoising_loss(pipe: "StableDiffusionPipeline", latents: Tensor, states: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of each item, float [item], on the quantity that the model predicts (noise or v)."""
    pipe.scheduler.alphas_cumprod = pipe.scheduler.alphas_cumprod.to(latents.device)  # kept there: a CUDA graph cannot wait
    alphas = pipe.scheduler.alphas_cumprod[t][:, None, None, None]
    a, s = alphas.sqrt(), (1 - alphas).sqrt()
    kind = pipe.scheduler.config.prediction_type
    if kind not in ("v_prediction", "epsilon"):
        raise ValueError(f"unknown prediction type {kind!r}: expected v_prediction or epsilon")
    target = a * noise - s * latents if kind == "v_prediction" else noise
    noisy = (a * latents + s * noise).contiguous(memory_format=torch.channels_last)
    with autocast():
        out = pipe.unet(noisy, t, encoder_hidden_states=states, return_dict=False)[0]
    return (out.float() - target).square().mean((1, 2, 3))


@torch.no_grad()
def losses(
    pipe: "StableDiffusionPipeline", latents: Tensor, texts: Sequence[str], levels: Sequence[int], seed: int = 0
) -> np.ndarray:
    """The denoising loss of each item given its text, at each timestep in `levels`: float [level, item].

    The noise depends only on the seed and the item's position, so that texts and models can be compared.
    """
    g, states = torch.Generator().manual_seed(torch_seed(seed)), encode_texts(pipe, texts)
    noise = torch.randn(latents.shape, generator=g).to(latents.device)
    steps = [torch.full((len(texts),), level, device=latents.device) for level in levels]
    return torch.stack([denoising_loss(pipe, latents, states, t, noise) for t in steps]).cpu().numpy()


def latents_of(
    load: Callable[[], "StableDiffusionPipeline"], pixels: Callable[[], np.ndarray], inputs: Mapping[str, Artifact | str]
) -> Tensor:
    """Latents, float32 [image, channel, height, width], of uint8 images [image, height, width, 3]: a stage, because all
    models learn from the same few sets of images. `inputs` are the digests of the base and of the images."""

    def make(folder: Path) -> None:
        pipe, shown = load(), pixels()
        latents = in_parts(folder, len(shown), 8_192, lambda here: encode(pipe, shown[here]).cpu().numpy())
        save_arrays(folder / "latents.safetensors", {"latents": latents})

    found = stage("latents", {}, inputs, make, ("lib.images.models", load, pixels))
    return load_file(found.path / "latents.safetensors")["latents"]


def encoded(
    pipe: "StableDiffusionPipeline", latents: Tensor, texts: Sequence[str], weight: np.ndarray | None = None
) -> Pairs:
    """Latents of images, their texts and weights [image] (None: 1 each), as data for a loss."""
    place = {t: i for i, t in enumerate(dict.fromkeys(texts))}
    states, text = encode_texts(pipe, list(place)).cpu(), torch.tensor([place[t] for t in texts])
    weights = torch.ones(len(texts)) if weight is None else torch.as_tensor(weight).float()
    return Pairs(latents, states, text, weights)


def noise_levels(count: int, g: torch.Generator) -> Tensor:
    """Levels in [0, 1), float [count]: two in five spread evenly, the others over the last fifth, where a scene is composed.

    A glyph fills many latents and shows through all but the strongest noise, so the number of objects is settled there.
    """
    even = (torch.arange(count) + torch.rand(count, generator=g)) / count
    return torch.where(even < 0.4, even / 0.4, 0.8 + (even - 0.4) / 3)[torch.randperm(count, generator=g)]


def timesteps(count: int, g: torch.Generator, steps: int) -> Tensor:
    """Timesteps int64 [count] in [0, steps) by `noise_levels`."""
    return (steps * noise_levels(count, g)).long().clamp(max=steps - 1)  # float32 sometimes rounds the last level up to 1


def draw(pairs: Pairs, count: int, g: torch.Generator, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices int64 [count], `timesteps` int64 [count] out of `steps`, and noise of the latents' shape, all on the CPU."""
    rows = torch.randint(len(pairs.latents), (count,), generator=g)
    t = timesteps(count, g, steps)
    noise = torch.randn((count, *pairs.latents.shape[1:]), generator=g)
    return rows, t, noise


def dropped(count: int, share: float, g: torch.Generator) -> Tensor:
    """Which items lose their caption, int64 [count]: the index in NO_CAPTION of what replaces it, or -1 if it is kept."""
    lost = torch.rand(count, generator=g) < share
    return torch.where(lost, torch.tensor(list(NO_CAPTION.values())).multinomial(count, True, generator=g), -1)


def gathered(drawn: Sequence[tuple[Pairs, Tensor, Tensor, Tensor]], device: torch.device) -> tuple[Tensor, ...]:
    """Latents, text states, timesteps, noise and weights [item], on the device, of what was drawn from several pairs as
    (pairs, rows, timesteps, noise). The CPU does not wait for a GPU."""
    columns = []
    for pairs, rows, t, noise in drawn:
        rows = sent(rows, pairs.latents.device)
        columns.append((pairs.latents[rows], pairs.states[pairs.text[rows]], t, noise, pairs.weight[rows]))
    return tuple(torch.cat([sent(x, device) for x in column]) for column in zip(*columns, strict=True))
