"""The autoencoder: 64 x 64 pixels to 8 x 8 latents of 16 channels; squared error with noisy latents instead of a KL term."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from lib.ground.paths import MODELS
from lib.ground.precision import DEVICE, autocast
from lib.world.scenes import BACKGROUNDS, COLOURS, OBJECTS, STYLES, Scene, render
from pretrain.common import halve, processes, spent, train, write_card
from pretrain.spoiled import BAD_KINDS, render_bad

BATCH = 16
# Lightness, red against blue, green against both: orthonormal, with colour weighted three times as much as lightness (in
# squared error); otherwise a green bird fades on grey asphalt of the same lightness.
OPPONENT = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]])
OPPONENT = OPPONENT / OPPONENT.norm(dim=1, keepdim=True) * torch.tensor([[1.0], [3.0], [3.0]]).sqrt()
HELD_OUT = 1_000_000  # seeds from here on are never trained on


def random_scene(rng: np.random.Generator) -> tuple[Scene, int]:
    """A scene with uniformly drawn attributes, and a glyph size (px) independent of the count where possible."""
    count = int(rng.integers(1, 7))
    colour = None if rng.random() < 0.35 else str(rng.choice(COLOURS))
    style = "plain" if rng.random() < 0.95 else str(rng.choice(STYLES[1:]))
    scene = Scene(count, colour, str(rng.choice(OBJECTS)), str(rng.choice(BACKGROUNDS)), style)
    return scene, int(rng.choice((16, 24, 32) if count < 4 else (16, 16, 24) if count == 4 else (16,)))


def images(seed: int, count: int) -> torch.Tensor:
    """Random renders, one in ten spoiled: float [count, 3, 64, 64] in [-1, 1], determined by the seed."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        scene, pixels = random_scene(rng)
        bad = rng.random() < 0.1
        out.append(render_bad(str(rng.choice(BAD_KINDS)), scene, rng) if bad else render(scene, rng, pixels))
    batch = torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return batch.to(DEVICE).contiguous(memory_format=torch.channels_last)


def crops(seed: int, count: int, side: int = 32) -> torch.Tensor:
    """Crops of glyphs, not sky: of three crops on the 8-px grid the one with most contrast, float [count, 3, side, side]."""
    x = images(seed, count).contiguous()
    rng = np.random.default_rng((3, seed))
    corner = torch.from_numpy(rng.integers(0, (64 - side) // 8 + 1, (3, 2)) * 8).tolist()
    options = torch.stack([x[:, :, i : i + side, j : j + side] for i, j in corner])
    best = options.var((3, 4)).sum(2).argmax(0)
    return options[best, torch.arange(count)].contiguous(memory_format=torch.channels_last)


def psnr(vae: AutoencoderKL, pixels: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio (dB) of 8-bit reconstructions; `pixels` in [-1, 1]."""
    with torch.no_grad():
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    decoded = ((decoded.clamp(-1, 1) + 1) * 127.5).round() / 255
    error = (decoded - (pixels + 1) / 2).square().flatten(1).mean(1)
    return float((-10 * error.log10()).mean())


def fold_statistics(vae: AutoencoderKL, latents: torch.Tensor) -> None:
    """Rescale the 1 x 1 convolutions on both sides, so that each latent channel has mean 0 and standard deviation 1."""
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    n = len(mean)
    with torch.no_grad():
        vae.quant_conv.weight[:n] /= std[:, None, None, None]
        vae.quant_conv.bias[:n] = (vae.quant_conv.bias[:n] - mean) / std
        vae.quant_conv.weight[n:] = 0  # the posterior is a point: log-variance -30
        vae.quant_conv.bias[n:] = -30
        vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
        vae.post_quant_conv.weight *= std[None, :, None, None]


def main(minutes: float | None = None, crop_minutes: float | None = None, decoder_minutes: float | None = None) -> None:
    """Train on whole scenes, then on crops; fold, save as float16 with the model card; then train the decoder further.

    The last part, with the encoder frozen, can run at any later time: the generator's training only needs the encoder.
    """
    torch.manual_seed(0)
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=16, block_out_channels=(16, 32, 64, 128), layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=8,
        mid_block_add_attention=False, sample_size=64, scaling_factor=1.0,
    ).to(DEVICE, memory_format=torch.channels_last)  # fmt: skip
    held_out = images(HELD_OUT, 64)
    opponent = OPPONENT.to(DEVICE)

    def draw(step: int, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        cropped = first and step % 4
        x = crops(first + step, 4 * BATCH) if cropped else images(first + step, BATCH)
        shape = (len(x), 16, x.shape[2] // 8, x.shape[3] // 8)
        return x, torch.randn(shape, generator=torch.Generator().manual_seed(first + step))

    def decoded(x: torch.Tensor, noise: torch.Tensor, strength: float) -> torch.Tensor:
        with autocast():
            z = vae.quant_conv(vae.encoder(x))[:, :16]
            spread = z.detach().float().std((0, 2, 3), keepdim=True)
            return vae.decoder(vae.post_quant_conv(z + strength * spread * noise)).float()

    def error_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 2 * (y - x).square() + 0.3 * (y - x).abs()

    def first_loss(x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return error_of(x, decoded(x, noise, 0.1)).mean()

    def loss(x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        pair = (x, decoded(x, noise, 0.05))
        error = error_of(*(torch.einsum("ij,bjhw->bihw", opponent, t) for t in pair))
        # The worst cells count most: a glyph that fades into its background is a large error in a few places.
        cells = F.avg_pool2d(error.mean(1, keepdim=True), 8)
        weight = (cells / cells.mean()).detach().clamp(max=10)
        return (weight * cells).mean()

    def log() -> str:
        return f"PSNR {psnr(vae, held_out):.2f} dB"

    train("vae", vae, draw, first_loss, 24_000, minutes=minutes, every=100, log=log)
    cropped, alone = partial(draw, first=300_000), partial(draw, first=500_000)
    train("vae-crops", vae, cropped, loss, 24_000, minutes=crop_minutes, lr=0.015, every=100, log=log)
    with torch.no_grad():
        fold_statistics(vae, torch.cat([vae.encode(images(HELD_OUT + 10 + i, 64)).latent_dist.mean for i in range(8)]))
    save(vae)
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)
    train("vae-decoder", vae, alone, loss, 8_000, minutes=decoder_minutes, every=100, log=log)
    save(vae, {"decoder alone": spent("vae-decoder")})


def save(vae: AutoencoderKL, more: dict | None = None) -> None:
    """Write the autoencoder as float16 with its card."""
    if processes()[0]:
        return
    quality = np.mean([psnr(vae, images(HELD_OUT + 100 + i, 100)) for i in range(5)])
    folder = MODELS / "mini-sd" / "vae"
    vae.save_pretrained(folder, safe_serialization=True)
    halve(folder / "diffusion_pytorch_model.safetensors")
    write_card(folder, {
        "model": "AutoencoderKL, 8 x down, 16 latent channels",
        "data": "random emoji scenes, one in ten spoiled, 5 % in a rare style",
        "batch": BATCH, "seed": 0, "whole scenes": spent("vae"), "crops": spent("vae-crops"), **(more or {}),
        "held-out PSNR (dB, 500 renders)": round(float(quality), 2),
    })  # fmt: skip


if __name__ == "__main__":
    import sys

    main(*map(float, sys.argv[1:]))
