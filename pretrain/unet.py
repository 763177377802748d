"""The generator: a latent U-Net conditioned on the frozen text encoder, trained on the web corpus.

v-prediction on a cosine schedule. It learns to count and colour from exact captions, then trains on web captions, which are
vague and often wrong: it is able to draw what a prompt asks for, but errs as its captions do.
"""

import argparse
import json
from dataclasses import asdict
from functools import lru_cache

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from lib.ground.cache import digest_of
from lib.ground.paths import CACHE, MODELS
from lib.ground.precision import DEVICE, FAST_BFLOAT16, autocast
from lib.methods.denoising import CAPTION_DROPOUT, NO_CAPTION, dropped, timesteps
from lib.methods.training import sent
from lib.world.scenes import render
from lib.world.web import CaptionNoise, exact_caption, web_pair
from pretrain.clip import tokens
from pretrain.common import halve, processes, spent, train, write_card

BATCH = 64  # per process
CORPUS = 60_000  # image-caption pairs, encoded once
CHUNK = 2_000
RATES = {"exact": (0.015, 1.5e-3), "web": (0.008, 8e-4)}  # of Muon and AdamW, by a phase's captions


def corpus_chunk(index: int, vae: AutoencoderKL) -> tuple[torch.Tensor, dict[str, list[str]]]:
    """Latents, float16 [CHUNK, 16, 8, 8], of one part of the corpus, kept under the cache, and its captions by phase."""
    rng = np.random.default_rng((11, index))
    pairs = [web_pair(rng) for _ in range(CHUNK)]
    path = CACHE / "pretrain" / f"corpus-{digest_of(asdict(CaptionNoise()))[:8]}" / f"{index:03d}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.from_numpy(np.stack([render(s, rng) for _, s in pairs])).permute(0, 3, 1, 2)
        parts = []
        with torch.no_grad(), autocast():
            for x in pixels.split(100):
                x = (x.float() / 127.5 - 1).to(DEVICE).contiguous(memory_format=torch.channels_last)
                parts.append(vae.encode(x).latent_dist.mode().half().cpu())
        new = path.with_suffix(".partial")
        save_file({"latents": torch.cat(parts).contiguous()}, new)
        new.replace(path)
    rng = np.random.default_rng((12, index))
    captions = {"web": [c for c, _ in pairs], "exact": [exact_caption(rng, s) for _, s in pairs]}
    return load_file(path)["latents"], captions


def schedule() -> dict:
    """The noise schedule, shared by training and all samplers."""
    return dict(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", steps_offset=1
    )


def make_unet(channels: tuple[int, int] = (64, 128)) -> UNet2DConditionModel:
    """The U-Net: two resolutions (8 x 8 and 4 x 4), with cross-attention in every block."""
    return UNet2DConditionModel(
        sample_size=8, in_channels=16, out_channels=16, block_out_channels=channels, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=128, attention_head_dim=4, norm_num_groups=16,
    ).to(DEVICE, memory_format=torch.channels_last)  # fmt: skip


def main(phase: str, minutes: float | None = None, more: bool = False, updates: int = 60_000) -> None:
    """Encode the corpus, train on the captions of a phase for this many `updates` or `minutes`, and save the whole pipeline
    in diffusers' layout.

    `more` continues from the shipped U-Net rather than from random weights; its card then lists all runs.
    """
    name = f"unet-{phase}"
    torch.manual_seed(2)
    folder = MODELS / "mini-sd"
    vae = AutoencoderKL.from_pretrained(folder / "vae").to(DEVICE, memory_format=torch.channels_last).eval()
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").to(DEVICE).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    parts = [corpus_chunk(i, vae) for i in range(CORPUS // CHUNK)]
    latents = torch.cat([p[0] for p in parts]).to(DEVICE)
    captions = [c for p in parts for c in p[1][phase]]
    ids = torch.cat([tokens(tokenizer, captions[i : i + 5000]) for i in range(0, CORPUS, 5000)])
    empty = tokens(tokenizer, list(NO_CAPTION))
    alphas = DDIMScheduler(**schedule()).alphas_cumprod.to(DEVICE)
    unet = make_unet()
    if more:
        shipped = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors", device=str(DEVICE))
        unet.load_state_dict({k: v.float() for k, v in shipped.items()})

    @lru_cache(1)
    def order(epoch: int) -> torch.Tensor:
        return torch.randperm(CORPUS, generator=torch.Generator().manual_seed(1_000_000 + epoch))

    @torch.no_grad()
    def draw(step: int) -> tuple[torch.Tensor, ...]:
        g = torch.Generator().manual_seed(step)
        epoch, part = divmod(step * BATCH, CORPUS - CORPUS % BATCH)
        pick = sent(order(epoch)[part : part + BATCH], DEVICE)
        x, t = latents[pick].float(), timesteps(BATCH, g, 1000)
        noise = torch.randn(x.shape, generator=g)
        lost = sent(dropped(BATCH, CAPTION_DROPOUT, g), DEVICE)
        states = encoder(torch.where(lost[:, None] < 0, ids[pick], empty[lost])).last_hidden_state
        return x, states.to(torch.bfloat16 if FAST_BFLOAT16 else torch.float32), t, noise

    def loss(x: torch.Tensor, states: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        a = alphas[t].sqrt()[:, None, None, None]
        s = (1 - alphas[t]).sqrt()[:, None, None, None]
        noisy = (a * x + s * noise).contiguous(memory_format=torch.channels_last)
        with autocast():
            out = unet(noisy, t, encoder_hidden_states=states)
        return (out.sample.float() - (a * noise - s * x)).square().mean()

    lr, adam_lr = RATES[phase]
    train(name, unet, draw, loss, updates, minutes=minutes, lr=lr, adam_lr=adam_lr)
    before = json.loads((folder / "unet/card.json").read_text("utf-8"))["runs, one after the other"] if more else []
    run = {"captions": phase, "pairs an update": BATCH * processes()[1], "learning rate": lr, **spent(name)}
    save(unet, vae, encoder, tokenizer, [*before, run])


def save(unet, vae, encoder, tokenizer, runs: list[dict]) -> None:
    """Write mini-sd: all parts in diffusers' layout, the U-Net in float16 and with its card."""
    if processes()[0]:
        return
    folder = MODELS / "mini-sd"
    scheduler = DPMSolverMultistepScheduler(**schedule(), timestep_spacing="trailing", final_sigmas_type="zero")
    StableDiffusionPipeline(
        vae=vae, text_encoder=encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_config(folder)  # fmt: skip
    scheduler.save_pretrained(folder / "scheduler")
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    halve(folder / "unet" / "diffusion_pytorch_model.safetensors")
    write_card(folder / "unet", {
        "model": "UNet2DConditionModel on 8 x 8 x 16 latents, v-prediction, cosine schedule",
        "data": f"{CORPUS} pairs of the web corpus (lib/world/prompts.py, CaptionNoise defaults), and exact captions",
        "caption dropout": CAPTION_DROPOUT, "seed": 2, "runs, one after the other": runs,
    })  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pretrain.unet", description=__doc__.split("\n")[0])
    parser.add_argument("phase", choices=RATES)
    parser.add_argument("minutes", type=float, nargs="?")
    parser.add_argument("--more", action="store_true", help="continue from the shipped U-Net")
    parser.add_argument("--updates", type=int, default=60_000)
    given = parser.parse_intermixed_args()
    main(given.phase, given.minutes, given.more, given.updates)
