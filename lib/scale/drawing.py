"""Images at any resolution, in memory that does not grow with their number: texts and latents are handled as they come."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lib.ground.setups import Setup
from lib.images.sampling import decode, denoised, encode_texts, start_noise

DECODED = 8 * 512**2  # pixels that the autoencoder decodes at once


@dataclass(frozen=True)
class Drawing:
    """How images are drawn, for `lib.images.sampling.denoised`: as `SamplerSpec`, but a scheduler may take a step more."""

    guidance_scale: float
    steps: int
    guided: float
    negative_prompt: str = ""

    @classmethod
    def of(cls, setup: Setup, config: dict) -> "Drawing":
        """The setup's, with the config's `guidance_scale` and `negative_prompt` if it has them."""
        s = setup.sampling
        always = float("inf") if s.guided == s.steps else s.guided
        return cls(config.get("guidance_scale", s.guidance_scale), s.steps, always, config.get("negative_prompt", ""))


@torch.no_grad()
def drawn(pipe, prompts: Sequence[str], seeds: Sequence[int], how: Drawing, batch: int) -> Iterator[np.ndarray]:
    """One uint8 image [height, width, 3] per prompt and seed; texts are encoded and latents decoded as they come."""
    empty, side = encode_texts(pipe, [how.negative_prompt]), pipe.unet.config.sample_size
    at_once = max(1, DECODED // (8 * side) ** 2)
    for i in range(0, len(prompts), batch):
        noise = start_noise(pipe, seeds[i : i + batch]).to(pipe.device)
        latents = denoised(pipe, noise, encode_texts(pipe, prompts[i : i + batch]), empty, how)
        for part in latents.split(at_once):
            yield from decode(pipe, part)
