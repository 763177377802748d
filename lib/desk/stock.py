"""A setup's drawing and training timed beside the stock ways: the call of diffusers' pipeline, and a plain loop of updates:
`make bench SETUP=lee-sd15`, or `python -m lib.desk.stock` with options.

Both sides have the same networks, batch, micro-batches, precision and machine. Weights are random where the setup's are a
hub name: no speed depends on them. Ours trains on cached latents, as its stages do; the plain loop, like diffusers' own
example (Hugging Face, `text_to_image`), encodes its images in each update and reads the loss of each micro-batch.
"""

import argparse
import gc
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from lib.desk.bench import matrix_rate, seconds
from lib.ground.setups import Setup, is_path, setup_named
from lib.images.embedding import embed_images
from lib.images.sampling import encode, start_noise, to_pixels
from lib.scale import blank, budget, hub, measure
from lib.scale.drawing import Drawing, drawn
from lib.scale.halves import DTYPES, halve_frozen
from lib.scale.worker import accelerator_of

ON_GPU = torch.cuda.is_available()
TEXT = "a photograph of number {}"


@dataclass(frozen=True)
class Pace:
    """Items per second, operations of each, and peak GPU memory in bytes (None on a CPU)."""

    name: str
    items: float
    operations: float
    peak: int | None


def pace(name: str, work: Callable[[], object], count: int, operations: float) -> Pace:
    """The pace of `work`, which processes `count` items."""
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    taken = seconds(work)
    return Pace(name, count / taken, operations, torch.cuda.max_memory_allocated() if ON_GPU else None)


def paces(setup: Setup, images: int, batch: int) -> Iterator[Pace]:
    """Paces of drawing `images` at once and of updates on `batch`, each first ours and then the stock way's; then of what
    has no stock way. The stock pipeline guides every step: so must the setup, or images differ."""
    accelerator, n = accelerator_of(setup), budget.networks_of(setup)
    each = budget.image_operations(n, setup.sampling)
    shown: list[np.ndarray] = []
    for way, draw in {"": ours_drawn, " by the stock pipeline": stock_drawn}.items():
        work = draw(setup, accelerator, images)
        shown.append(work().astype(float))
        gap = f" (pixels differ by {np.abs(shown[0] - shown[1]).mean():.2g} of 255)" if way else ""
        yield pace(f"images drawn, {images} at once{way}{gap}", work, images, each)
        del work
        gc.collect()
    small, each = setup.training.micro_batch or batch, budget.update_operations(n, setup.training, batch)
    name, encoded = f"updates of {batch} in micro-batches of {min(small, batch)}", batch * n["encode"].operations
    with tempfile.TemporaryDirectory() as folder:
        yield pace(name, ours_update(setup, accelerator, batch, Path(folder)), 1, each)
        gc.collect()
        yield pace(f"{name} by a plain loop", plain_update(setup, accelerator, batch), 1, each + encoded)
    gc.collect()
    yield from alone(setup, accelerator, images)


def alone(setup: Setup, accelerator, images: int) -> Iterator[Pace]:
    """Paces of what is done once per image: latents and embeddings."""
    side = setup.sampling.resolution
    pixels = np.random.default_rng(0).integers(0, 256, (images, side, side, 3), np.uint8)
    pipe = ours(setup, accelerator, unet=True)
    operations = budget.networks_of(setup)["encode"].operations
    yield pace("images encoded", lambda: encode(pipe, pixels, 8), images, operations)
    if is_path(setup.clip.source) or setup.clip.source == "mini":
        clip, preprocess, _ = hub.load_clip(setup.clip)
        each = budget.clip_image(setup.clip).operations if setup.clip.source != "mini" else 0
        yield pace("images embedded", lambda: embed_images(clip, preprocess, pixels, 64), images, each)


# ---- pipelines -----------------------------------------------------------------------------------------------------


def pipeline(setup: Setup, accelerator, dtype: torch.dtype = torch.float32):
    """The setup's pipeline, as `from_pretrained` leaves it, or one of Stable Diffusion v1's shape with random weights."""
    if setup.model.on_hub:
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
            torch.manual_seed(0)
            pipe = blank.blank_pipeline(Path(folder))
    else:
        dtypes = dict.fromkeys(("unet", "vae", "text_encoder"), dtype)
        pipe = hub.load_base(setup.model, dtypes=dtypes, sampler=setup.sampling.sampler)
    side = setup.sampling.resolution // 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    pipe.unet.register_to_config(sample_size=side)
    for network in (pipe.unet, pipe.vae, pipe.text_encoder):
        nn.Module.to(network, accelerator.device, dtype, memory_format=torch.contiguous_format)
    return pipe


def ours(setup: Setup, accelerator, unet: bool = False):
    """The same as our stages use it; `unet`: it only draws."""
    pipe = pipeline(setup, accelerator)
    for network in (pipe.unet, pipe.vae):
        network.to(memory_format=torch.channels_last)
    if unet:
        halve_frozen(pipe, DTYPES[setup.training.precision], unet=True)
    return pipe


def ours_drawn(setup: Setup, accelerator, count: int) -> Callable[[], np.ndarray]:
    """A function that draws images, uint8 [image, height, width, 3], as the stage `sample` does."""
    pipe, how = ours(setup, accelerator, unet=True), Drawing.of(setup, {})
    texts = [TEXT.format(i) for i in range(count)]
    return lambda: np.stack(list(drawn(pipe, texts, range(count), how, count)))


def stock_drawn(setup: Setup, accelerator, count: int) -> Callable[[], np.ndarray]:
    """A function that draws the same images by one call of the pipeline."""
    pipe, s = pipeline(setup, accelerator, DTYPES[setup.training.precision]), setup.sampling
    texts = [TEXT.format(i) for i in range(count)]

    def draw() -> np.ndarray:
        noise = start_noise(pipe, range(count)).to(pipe.device, pipe.dtype)
        kind = {"num_inference_steps": s.steps, "guidance_scale": s.guidance_scale, "output_type": "np"}
        return (pipe(texts, latents=noise, **kind).images * 255).round().astype(np.uint8)

    return draw


# ---- updates -------------------------------------------------------------------------------------------------------


def ours_update(setup: Setup, accelerator, batch: int, folder: Path) -> Callable[[], None]:
    """A function that does one of our updates, with making its batch, which the stage does beside the update before."""
    pipe = ours(setup, accelerator)
    measure.trainable(pipe, setup.training)
    return measure.one_update(accelerator, pipe, setup.training, batch, folder)


def plain_update(setup: Setup, accelerator, batch: int) -> Callable[[], None]:
    """A function that does one update of a plain loop on images in memory, after Hugging Face's example."""
    from diffusers import DDPMScheduler

    pipe, t = pipeline(setup, accelerator), setup.training
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    measure.trainable(pipe, setup.training)
    learnt = [p for p in pipe.unet.parameters() if p.requires_grad]
    optimiser, side = torch.optim.AdamW(learnt, lr=1e-5), setup.sampling.resolution
    pixels = to_pixels(np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8))
    texts = [TEXT.format(i) for i in range(batch)]
    ids = pipe.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt",
                         max_length=pipe.tokenizer.model_max_length).input_ids  # fmt: skip
    parts = list(zip(pixels.split(t.micro_batch or batch), ids.split(t.micro_batch or batch), strict=True))

    def update() -> None:
        for x, tokens in parts:
            loss = plain_loss(accelerator, pipe, scheduler, x.to(pipe.device), tokens.to(pipe.device))
            accelerator.backward(loss / len(parts))
            loss.item()
        accelerator.clip_grad_norm_(learnt, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return update


def plain_loss(accelerator, pipe, scheduler, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The mean loss of images [image, 3, height, width] with token numbers, from nothing but diffusers' own parts."""
    with torch.no_grad():
        latents = pipe.vae.encode(x).latent_dist.sample() * pipe.vae.config.scaling_factor
        states = pipe.text_encoder(ids).last_hidden_state
    noise = torch.randn_like(latents)
    t = torch.randint(scheduler.config.num_train_timesteps, (len(x),), device=x.device)
    noisy = scheduler.add_noise(latents, noise, t)
    with accelerator.autocast():
        out = pipe.unet(noisy, t, states, return_dict=False)[0]
    velocity = scheduler.config.prediction_type == "v_prediction"
    return F.mse_loss(out.float(), scheduler.get_velocity(latents, noise, t) if velocity else noise)


# ---- the table -----------------------------------------------------------------------------------------------------


def table(found: Iterable[Pace], limit: float) -> Iterator[str]:
    """Lines of a table, as paces come: each with its share of `limit` (operations per second), and beside a stock way how
    many times as fast ours is, which came before it."""
    yield f"{'per second':>10} {'GFLOP each':>11} {'of the matrix rate':>19} {'ours over it':>12} {'peak GB':>8}"
    ours = None
    for p in found:
        times = f"{ours.items / p.items:.2f}" if ours and p.name.startswith(f"{ours.name} by ") else ""
        share = f"{p.items * p.operations / limit:.0%}" if p.operations else ""
        peak = f"{p.peak / 1e9:.1f}" if p.peak is not None else ""
        yield f"{p.items:10,.3g} {p.operations / 1e9:11,.4g} {share:>19} {times:>12} {peak:>8}  {p.name}"
        ours = p


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the paces of a setup as a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setup", default="mini", help="name or path")
    parser.add_argument("--images", type=int, default=16 if ON_GPU else 2, help="drawn at once")
    parser.add_argument("--batch", type=int, default=32 if ON_GPU else 4, help="items of an update")
    parser.add_argument("--steps", type=int, default=0, help="of drawing; 0: the setup's")
    chosen = parser.parse_args(arguments)
    transformers.utils.logging.disable_progress_bar()
    setup = setup_named(chosen.setup)
    steps = chosen.steps or setup.sampling.steps
    how, dtype = replace(setup.sampling, steps=steps, guided=steps), DTYPES[setup.training.precision]
    limit, device = matrix_rate(dtype), torch.cuda.get_device_name() if ON_GPU else "CPU"
    print(f"{setup.name} on {device}, {torch.get_num_threads()} threads")
    print(f"{how.steps} steps of {how.sampler} at {how.resolution} px")
    print(f"large matrices are multiplied at {limit / 1e9:,.0f} GFLOP/s in {str(dtype).removeprefix('torch.')}")
    for line in table(paces(replace(setup, sampling=how), chosen.images, chosen.batch), limit):
        print(line, flush=True)


if __name__ == "__main__":
    main()
