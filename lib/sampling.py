"""Prompts to images: a batched loop over the pipeline's own parts with a diffusers scheduler."""

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import safetensors.numpy
import torch
from tqdm.auto import tqdm

from lib.cache import Artifact, keep, kept, load_arrays, save_arrays, stage
from lib.checks import finite
from lib.seeds import seed_of

if TYPE_CHECKING:  # diffusers takes seconds to import, and much of the study needs no generator
    from diffusers import StableDiffusionPipeline


def start_noise(pipe: "StableDiffusionPipeline", seeds: Sequence[int]) -> torch.Tensor:
    """Unit noise, float32 [image, channel, height, width], one CPU generator an image."""
    config = pipe.unet.config
    shape = (config.in_channels, config.sample_size, config.sample_size)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(int(s))) for s in seeds])


@torch.no_grad()
def encode_texts(pipe: "StableDiffusionPipeline", texts: Sequence[str], batch: int = 256) -> torch.Tensor:
    """Text states [text, token, width] of the pipeline's encoder; each distinct text is encoded once."""
    distinct = list(dict.fromkeys(texts))
    states = []
    for i in range(0, len(distinct), batch):
        tokens = pipe.tokenizer(
            distinct[i : i + batch], padding="max_length", truncation=True,
            max_length=pipe.tokenizer.model_max_length, return_tensors="pt",
        )  # fmt: skip
        states.append(pipe.text_encoder(tokens.input_ids.to(pipe.device)).last_hidden_state)
    row = {text: i for i, text in enumerate(distinct)}
    return finite("text states", torch.cat(states))[[row[t] for t in texts]]


@torch.no_grad()
def sample(
    pipe: "StableDiffusionPipeline",
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    guidance_scale: float,
    steps: int = 12,
    negative_prompt: str = "",
    batch: int = 64,
    progress: str | None = None,
) -> np.ndarray:
    """One image a prompt: uint8 [image, height, width, 3].

    Classifier-free guidance (Ho & Salimans 2022) with the pipeline's scheduler. An image depends on its prompt and seed
    alone, to 1/255, not on batch size or order. `progress` names a progress bar.
    Raises ValueError on no prompts or on unequal lengths.
    """
    if not len(prompts):
        raise ValueError("no prompts: give at least one prompt to sample from")
    if len(prompts) != len(seeds):
        raise ValueError(f"need one seed a prompt, got {len(prompts)} prompts and {len(seeds)} seeds")
    states = encode_texts(pipe, prompts)
    empty = encode_texts(pipe, [negative_prompt])
    guided = guidance_scale != 1.0
    out = []
    bar = tqdm(total=len(prompts), desc=progress, unit="image", disable=progress is None, file=sys.stdout, mininterval=5)
    for i in range(0, len(prompts), batch):
        text = states[i : i + batch]
        x = start_noise(pipe, seeds[i : i + batch]).to(pipe.device)
        both = torch.cat([empty.expand_as(text), text]) if guided else text
        scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        scheduler.set_timesteps(steps, device=pipe.device)
        x = x * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(torch.cat([x, x]) if guided else x, t)
            scaled = scaled.contiguous(memory_format=torch.channels_last)
            noise = pipe.unet(scaled, t, encoder_hidden_states=both, return_dict=False)[0]
            if guided:
                without, given = noise.chunk(2)
                noise = without + guidance_scale * (given - without)
            x = scheduler.step(noise, t, x, return_dict=False)[0]
        out.append(decode(pipe, x))
        bar.update(len(x))
    bar.close()
    return np.concatenate(out)


@torch.no_grad()
def decode(pipe: "StableDiffusionPipeline", latents: torch.Tensor) -> np.ndarray:
    """Latents [image, channel, height, width] to uint8 images [image, height, width, 3].

    Raises ValueError when latents or pixels are not finite: as 8-bit values they would be a silent 0 or 255.
    """
    latents = finite("latents", latents).contiguous(memory_format=torch.channels_last)
    pixels = finite("decoded pixels", pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0])
    return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)


@torch.no_grad()
def encode(pipe: "StableDiffusionPipeline", images: np.ndarray, batch: int = 128) -> torch.Tensor:
    """uint8 images [image, height, width, 3] to latents, float32 [image, channel, height, width]."""
    out = []
    for i in range(0, len(images), batch):
        x = to_pixels(images[i : i + batch]).to(pipe.device).contiguous(memory_format=torch.channels_last)
        out.append(pipe.vae.encode(x).latent_dist.mode() * pipe.vae.config.scaling_factor)
    return finite("latents", torch.cat(out))


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 [image, height, width, 3] to float [image, 3, height, width] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 [image, height, width, 3] with the prompt, the number within the prompt and the digest of each."""

    pixels: np.ndarray
    prompts: list[str]
    numbers: list[int]
    digests: list[str]

    def __len__(self) -> int:
        return len(self.pixels)


def image_digest(pixels: np.ndarray) -> str:
    """SHA-256 of one image's uint8 pixels."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def sampled(
    load: Callable[[], "StableDiffusionPipeline"],
    generator: Mapping[str, Artifact | str],
    prompts: Sequence[str],
    numbers: Sequence[int],
    stream: str,
    *,
    guidance_scale: float,
    steps: int,
    negative_prompt: str = "",
) -> Artifact:
    """The stage of images: one a prompt and number, kept in parts of 512 so that a killed run goes on.

    `load` gives the pipeline, `generator` the digests of what it loads. The start noise depends on `stream`, prompt and
    number alone: two generators on one stream start from the same noise.
    """
    spec = {
        "prompts": list(prompts), "numbers": [int(n) for n in numbers], "stream": stream,
        "guidance_scale": guidance_scale, "steps": steps, "negative_prompt": negative_prompt,
    }  # fmt: skip

    def make(folder: Path) -> None:
        seeds = [seed_of(stream, p, n) for p, n in zip(prompts, numbers, strict=True)]
        parts, pipe = [], None
        for first in range(0, len(seeds), 512):
            path = folder / "_partial" / f"{first:06d}.safetensors"
            if (content := kept(path)) is None:
                pipe = pipe or load()
                here = slice(first, first + 512)
                name = f"{stream}: images {first}-{min(first + 512, len(seeds))} of {len(seeds)}"
                pixels = sample(
                    pipe, prompts[here], seeds[here], guidance_scale=guidance_scale, steps=steps,
                    negative_prompt=negative_prompt, progress=name,
                )  # fmt: skip
                keep(path, content := safetensors.numpy.save({"pixels": pixels}))
            parts.append(safetensors.numpy.load(content)["pixels"])
        pixels = np.concatenate(parts)
        save_arrays(folder / "images.safetensors", {"pixels": pixels})
        index = pd.DataFrame({"prompt": prompts, "number": numbers, "digest": [image_digest(x) for x in pixels]})
        index.to_parquet(folder / "index.parquet", index=False)

    if not len(prompts):
        raise ValueError("no prompts: give at least one prompt to sample from")
    return stage("images", spec, generator, make, ("lib.models", load))


def numbered_below(images: Artifact, limit: int) -> Artifact:
    """The stage of those of some images whose number within their prompt is below `limit`: a part, not drawn again."""

    def make(folder: Path) -> None:
        index = pd.read_parquet(images.path / "index.parquet")
        kept = (index.number < limit).to_numpy()
        save_arrays(folder / "images.safetensors", {"pixels": load_images(images).pixels[kept]})
        index[kept].to_parquet(folder / "index.parquet", index=False)

    return stage("images", {"numbered below": limit}, {"images": images}, make)


def load_images(artifact: Artifact) -> ImageSet:
    """The images that `sampled` made, or a part of them."""
    index = pd.read_parquet(artifact.path / "index.parquet")
    pixels = load_arrays(artifact.path / "images.safetensors")["pixels"]
    return ImageSet(pixels, index.prompt.tolist(), index.number.tolist(), index.digest.tolist())
