"""The second generator: a smaller U-Net on pairs of its own, to test whether a score holds for images of another model.

It differs from the generator in shape, training images and length of training, and shares its autoencoder and text encoder.
"""

import sys

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from transformers import CLIPTextModel, CLIPTokenizer

from lib.paths import MODELS
from lib.precision import DEVICE, autocast
from lib.prompts import web_pair
from lib.world import render
from pretrain.clip import tokens
from pretrain.common import halve, spent, train, write_card
from pretrain.unet import CAPTION_DROPOUT, make_unet, schedule

CHANNELS = (48, 96)
BATCH = 64
CORPUS = 12_000  # pairs that the generator does not see
FOLDER = MODELS / "mini-second"


def corpus(vae: AutoencoderKL) -> tuple[torch.Tensor, list[str]]:
    """Latents float16 [pair, 16, 8, 8] and captions."""
    rng = np.random.default_rng((13, 0))
    pairs = [web_pair(rng) for _ in range(CORPUS)]
    parts = []
    with torch.no_grad(), autocast():
        for i in range(0, CORPUS, 100):
            pixels = torch.from_numpy(np.stack([render(s, rng) for _, s in pairs[i : i + 100]])).permute(0, 3, 1, 2)
            x = (pixels.float() / 127.5 - 1).to(DEVICE).contiguous(memory_format=torch.channels_last)
            parts.append(vae.encode(x).latent_dist.mode().half().cpu())
    return torch.cat(parts), [c for c, _ in pairs]


def main(minutes: float | None = None) -> None:
    """Train after the autoencoder and the text encoder; write `mini-second` in diffusers' layout."""
    torch.manual_seed(5)
    parts = MODELS / "mini-sd"
    vae = AutoencoderKL.from_pretrained(parts / "vae").to(DEVICE, memory_format=torch.channels_last).eval()
    encoder = CLIPTextModel.from_pretrained(parts / "text_encoder").to(DEVICE).eval()
    tokenizer = CLIPTokenizer.from_pretrained(parts / "tokenizer")
    latents, captions = corpus(vae)
    ids = torch.cat([tokens(tokenizer, captions[i : i + 5000]) for i in range(0, CORPUS, 5000)])
    empty = tokens(tokenizer, [""])
    alphas = DDIMScheduler(**schedule()).alphas_cumprod.to(DEVICE)
    unet = make_unet(CHANNELS)

    def loss(step: int) -> torch.Tensor:
        g = torch.Generator().manual_seed(7_000_000 + step)
        pick = torch.randint(CORPUS, (BATCH,), generator=g)
        x = latents[pick].float().to(DEVICE)
        t = ((torch.arange(BATCH) + torch.rand(BATCH, generator=g)) * 1000 / BATCH).long()
        t = t[torch.randperm(BATCH, generator=g)].to(DEVICE)
        noise = torch.randn(x.shape, generator=g).to(DEVICE)
        dropped = (torch.rand(BATCH, generator=g) < CAPTION_DROPOUT).to(DEVICE)
        with torch.no_grad():
            states = encoder(torch.where(dropped[:, None], empty, ids[pick.to(ids.device)])).last_hidden_state
        a, s = (v.sqrt()[:, None, None, None] for v in (alphas[t], 1 - alphas[t]))
        noisy = (a * x + s * noise).contiguous(memory_format=torch.channels_last)
        with autocast():
            out = unet(noisy, t, encoder_hidden_states=states)
        return (out.sample.float() - (a * noise - s * x)).square().mean()

    train("second", unet, loss, 8_000, minutes=minutes)
    unet.save_pretrained(FOLDER, safe_serialization=True)
    halve(FOLDER / "diffusion_pytorch_model.safetensors")
    write_card(FOLDER, {
        "model": f"UNet2DConditionModel of channels {CHANNELS}, v-prediction; the other parts are mini-sd's",
        "data": f"{CORPUS} pairs of the web corpus that mini-sd does not see", "batch": BATCH,
        "caption dropout": CAPTION_DROPOUT, "seed": 5, **spent("second"),
    })  # fmt: skip


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
