"""From prompts to images: a batched sampling loop over the pipeline's own parts, with a diffusers scheduler."""

import functools
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from lib.ground.cache import Artifact, load_arrays, save_arrays, stage
from lib.ground.checkpoint import in_parts
from lib.ground.checks import finite
from lib.ground.precision import at_once, drawing
from lib.ground.seeds import name_of, seed_of
from lib.ground.sizes import SamplerSpec

if TYPE_CHECKING:  # diffusers takes seconds to import, and much of the study needs no generator
    from diffusers import StableDiffusionPipeline


def start_noise(pipe: "StableDiffusionPipeline", seeds: Sequence[int]) -> torch.Tensor:
    """Unit Gaussian noise, float32 [image, channel, height, width], on the CPU; each image has its own seed."""
    config = pipe.unet.config
    shape = (config.in_channels, config.sample_size, config.sample_size)
    noise, g = torch.empty((len(seeds), *shape)), torch.Generator()
    for image, seed in zip(noise, seeds, strict=True):  # 20 microseconds each: filled in place, by one generator
        image.normal_(generator=g.manual_seed(int(seed)))
    return noise


@torch.no_grad()
def encode_texts(pipe: "StableDiffusionPipeline", texts: Sequence[str], batch: int = 256) -> torch.Tensor:
    """Text states [text, token, width] from the pipeline's encoder; each distinct text is encoded once."""
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
    pipe: "StableDiffusionPipeline", prompts: Sequence[str], seeds: Sequence[int], spec: SamplerSpec = SamplerSpec(), *,
    batch: int | None = None, progress: str | None = None,
) -> np.ndarray:
    """One image per prompt: uint8 [image, height, width, 3].

    Classifier-free guidance (Ho & Salimans 2022) with the pipeline's scheduler. To within 1/255 an image depends only on its
    prompt and seed, not on order or batch size (by default 64 on a CPU, or what suits the GPU). Another precision
    changes a few images by more. `progress` names a progress bar. Raises ValueError if there are no prompts
    or the lengths differ.
    """
    if not len(prompts):
        raise ValueError("no prompts: give at least one prompt to sample from")
    if len(prompts) != len(seeds):
        raise ValueError(f"need one seed per prompt, got {len(prompts)} prompts and {len(seeds)} seeds")
    states, empty, batch = encode_texts(pipe, prompts), encode_texts(pipe, [spec.negative_prompt]), batch or at_once(64)
    noise, out = start_noise(pipe, seeds[:batch]), []
    bar = tqdm(total=len(prompts), desc=progress, unit="image", disable=progress is None, file=sys.stdout, mininterval=5)
    for i in range(0, len(prompts), batch):
        with drawing(spec.full_precision):
            latents = denoised(pipe, noise.to(pipe.device), states[i : i + batch], empty, spec)
            noise = start_noise(pipe, seeds[i + batch : i + 2 * batch])  # while a GPU is busy: `decode` waits for it
            out.append(decode(pipe, latents))
        bar.update(len(out[-1]))
    bar.close()
    return np.concatenate(out)


def denoised(
    pipe: "StableDiffusionPipeline", noise: torch.Tensor, text: torch.Tensor, empty: torch.Tensor, spec: SamplerSpec
) -> torch.Tensor:
    """Latents from unit noise, float32 [image, channel, height, width], conditioned on text states [image, token, width].

    Guidance adds `guidance_scale - 1` times the gap between the U-Net's predictions with and without the prompt. After
    `guided` steps the last computed gap is reused, in units of noise: a v-prediction contains the noise times the square
    root of the signal's share, which grows from step to step.
    """
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(spec.steps, device=pipe.device)
    signal = scheduler.alphas_cumprod.sqrt() if scheduler.config.prediction_type == "v_prediction" else None
    both, x = torch.cat([empty.expand_as(text), text]), noise * scheduler.init_noise_sigma
    for step, t in enumerate(scheduler.timesteps):
        twice = spec.guidance_scale != 1 and step < spec.guided
        scaled = scheduler.scale_model_input(torch.cat([x, x]) if twice else x, t)
        scaled = scaled.contiguous(memory_format=torch.channels_last)
        predicted = pipe.unet(scaled, t, encoder_hidden_states=both if twice else text, return_dict=False)[0].to(x.dtype)
        unit = 1.0 if signal is None else signal[t.cpu()].to(x.device)
        if twice:
            without, predicted = predicted.chunk(2)
            gap = (predicted - without) * unit
        if spec.guidance_scale != 1:
            predicted = predicted + (spec.guidance_scale - 1) * gap / unit
        x = scheduler.step(predicted, t, x, return_dict=False)[0]
    return x


@torch.no_grad()
def decode(pipe: "StableDiffusionPipeline", latents: torch.Tensor) -> np.ndarray:
    """Latents [image, channel, height, width] to uint8 images [image, height, width, 3].

    Raises ValueError if latents or pixels are not finite: in 8 bits they would silently become 0 or 255.
    """
    latents = finite("latents", latents).contiguous(memory_format=torch.channels_last)
    pixels = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0].float()
    pixels = finite("decoded pixels", pixels)
    return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def encode(pipe: "StableDiffusionPipeline", images: np.ndarray, batch: int | None = None) -> torch.Tensor:
    """uint8 images [image, height, width, 3] to latents, float32 [image, channel, height, width]."""
    out, batch = [], batch or at_once(128)
    for i in range(0, len(images), batch):
        x = to_pixels(images[i : i + batch], pipe.device).contiguous(memory_format=torch.channels_last)
        out.append(pipe.vae.encode(x).latent_dist.mode() * pipe.vae.config.scaling_factor)
    return finite("latents", torch.cat(out))


def to_pixels(images: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 [image, height, width, 3] to float [image, 3, height, width] in [-1, 1], on the device."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass(frozen=True)
class ImageSet:
    """Images of one stream, uint8 [image, height, width, 3], with the prompt, number and digest of each.

    People's labels refer to an image by the digest of its pixels; what is random about it depends on its name.
    """

    pixels: np.ndarray
    stream: str
    prompts: list[str]
    numbers: list[int]
    digests: list[str]

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def names(self) -> list[str]:
        """The name each image was drawn under: stream, prompt and number. Two generators share the same names."""
        return [name_of(self.stream, p, n) for p, n in zip(self.prompts, self.numbers, strict=True)]

    def part(self, rows: Sequence[int]) -> "ImageSet":
        """Some of the images, in the order of `rows`."""
        columns = ([column[i] for i in rows] for column in (self.prompts, self.numbers, self.digests))
        return ImageSet(self.pixels[rows], self.stream, *columns)


def image_digest(pixels: np.ndarray) -> str:
    """SHA-256 of one image's uint8 pixels."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def sampled(
    load: Callable[[], "StableDiffusionPipeline"],
    generator: Mapping[str, Artifact | str],
    prompts: Sequence[str],
    numbers: Sequence[int],
    stream: str,
    spec: SamplerSpec = SamplerSpec(),
) -> Artifact:
    """The stage of images, one per prompt and number, made in parts of 512 or a GPU's batch so that a killed run can resume.

    `load` returns the pipeline, and `generator` gives the digests of what it loads. The initial noise depends only on
    `stream`, prompt and number: two generators on one stream start from the same noise.
    """
    wanted = {"prompts": list(prompts), "numbers": [int(n) for n in numbers], "stream": stream, **asdict(spec)}

    def make(folder: Path) -> None:
        seeds = [seed_of(stream, p, n) for p, n in zip(prompts, numbers, strict=True)]
        pipe = functools.cache(load)  # not loaded if all parts exist already

        def part(here: slice) -> np.ndarray:
            name = f"{stream}: images {here.start}-{here.stop} of {len(seeds)}"
            return sample(pipe(), prompts[here], seeds[here], spec, progress=name)

        pixels = in_parts(folder, len(seeds), at_once(512), part)
        save_arrays(folder / "images.safetensors", {"pixels": pixels})
        digests = [image_digest(x) for x in pixels]
        index = pd.DataFrame({"stream": stream, "prompt": prompts, "number": numbers, "digest": digests})
        index.to_parquet(folder / "index.parquet", index=False)

    if not len(prompts):
        raise ValueError("no prompts: give at least one prompt to sample from")
    return stage("images", wanted, generator, make, ("lib.images.models", load))


def numbered_below(images: Artifact, limit: int) -> Artifact:
    """The stage of those images whose number within their prompt is below `limit`: selected, not drawn again."""

    def make(folder: Path) -> None:
        index = pd.read_parquet(images.path / "index.parquet")
        kept = (index.number < limit).to_numpy()
        save_arrays(folder / "images.safetensors", {"pixels": load_images(images).pixels[kept]})
        index[kept].to_parquet(folder / "index.parquet", index=False)

    return stage("images", {"numbered below": limit}, {"images": images}, make)


def load_images(artifact: Artifact) -> ImageSet:
    """The images of a stage of `sampled` or `numbered_below`."""
    index = pd.read_parquet(artifact.path / "index.parquet")
    pixels = load_arrays(artifact.path / "images.safetensors")["pixels"]
    return ImageSet(pixels, index.stream[0], index.prompt.tolist(), index.number.tolist(), index.digest.tolist())
