"""The generator: a latent U-Net conditioned on the frozen text encoder, trained on the web corpus.

v-prediction on a cosine schedule. It draws well and obeys badly, because its captions are vague and often wrong.
"""

import json
import sys

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

from lib.paths import CACHE, MODELS
from lib.precision import DEVICE, FAST_BFLOAT16, autocast
from lib.prompts import web_pair
from lib.world import render
from pretrain.clip import tokens
from pretrain.common import halve, processes, spent, train, write_card

BATCH = 64  # a process
CORPUS = 60_000  # image-caption pairs, encoded once
CHUNK = 2_000
CAPTION_DROPOUT = 0.12  # the share trained without a caption, for classifier-free guidance


def corpus_chunk(index: int, vae: AutoencoderKL) -> tuple[torch.Tensor, list[str]]:
    """Latents float16 [CHUNK, 16, 8, 8] and captions of one part of the corpus, kept under the cache."""
    rng = np.random.default_rng((11, index))
    pairs = [web_pair(rng) for _ in range(CHUNK)]
    path = CACHE / "pretrain" / "corpus" / f"{index:03d}.safetensors"
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
    return load_file(path)["latents"], [c for c, _ in pairs]


def schedule() -> dict:
    """The noise schedule, shared by training and every sampler."""
    return dict(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", steps_offset=1
    )


def make_unet(channels: tuple[int, int] = (64, 128)) -> UNet2DConditionModel:
    """The U-Net: two resolutions (8 x 8, 4 x 4), cross-attention in every block."""
    return UNet2DConditionModel(
        sample_size=8, in_channels=16, out_channels=16, block_out_channels=channels, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=128, attention_head_dim=4, norm_num_groups=16,
    ).to(DEVICE, memory_format=torch.channels_last)  # fmt: skip


def main(minutes: float | None = None, more: bool = False) -> None:
    """Encode the corpus, train, save the whole pipeline in diffusers' layout.

    `more` goes on from the shipped U-Net rather than from random weights; its card then tells of both runs.
    """
    name = "unet-more" if more else "unet"
    torch.manual_seed(2)
    folder = MODELS / "mini-sd"
    vae = AutoencoderKL.from_pretrained(folder / "vae").to(DEVICE, memory_format=torch.channels_last).eval()
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").to(DEVICE).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    parts = [corpus_chunk(i, vae) for i in range(CORPUS // CHUNK)]
    latents = torch.cat([p[0] for p in parts])
    captions = [c for p in parts for c in p[1]]
    ids = torch.cat([tokens(tokenizer, captions[i : i + 5000]) for i in range(0, CORPUS, 5000)])
    empty = tokens(tokenizer, [""])
    alphas = DDIMScheduler(**schedule()).alphas_cumprod.to(DEVICE)
    unet = make_unet()
    if more:
        shipped = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors", device=str(DEVICE))
        unet.load_state_dict({k: v.float() for k, v in shipped.items()})

    def loss(step: int) -> torch.Tensor:
        g = torch.Generator().manual_seed(step)
        epoch, part = divmod(step * BATCH, CORPUS - CORPUS % BATCH)
        order = torch.randperm(CORPUS, generator=torch.Generator().manual_seed(1_000_000 + epoch))
        pick = order[part : part + BATCH]
        x = latents[pick].float().to(DEVICE)
        t = ((torch.arange(BATCH) + torch.rand(BATCH, generator=g)) * 1000 / BATCH).long()
        t = t[torch.randperm(BATCH, generator=g)].to(DEVICE)
        noise = torch.randn(x.shape, generator=g).to(DEVICE)
        dropped = (torch.rand(BATCH, generator=g) < CAPTION_DROPOUT).to(DEVICE)
        with torch.no_grad():
            states = encoder(torch.where(dropped[:, None], empty, ids[pick.to(ids.device)])).last_hidden_state
        a = alphas[t].sqrt()[:, None, None, None]
        s = (1 - alphas[t]).sqrt()[:, None, None, None]
        noisy = (a * x + s * noise).contiguous(memory_format=torch.channels_last)
        with autocast():
            out = unet(noisy, t, encoder_hidden_states=states.to(torch.bfloat16 if FAST_BFLOAT16 else torch.float32))
        return (out.sample.float() - (a * noise - s * x)).square().mean()

    lr, adam_lr = (0.008, 8e-4) if more else (0.02, 2e-3)
    train(name, unet, loss, 60_000, minutes=minutes, lr=lr, adam_lr=adam_lr)
    save(unet, vae, encoder, tokenizer, spent(name), json.loads((folder / "unet/card.json").read_text()) if more else None)


def save(unet, vae, encoder, tokenizer, run: dict, before: dict | None = None) -> None:
    """Write mini-sd: every part in diffusers' layout, the U-Net in float16, with its card."""
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
        "data": f"{CORPUS} pairs of the web corpus (lib/prompts.py, CaptionNoise defaults)", "batch": BATCH,
        "caption dropout": CAPTION_DROPOUT, "seed": 2,
        **run, **({"before": before} if before else {}),
    })  # fmt: skip


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else None, "more" in sys.argv)
