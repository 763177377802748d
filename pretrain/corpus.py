"""Encode the corpus before the generator is trained: `python -m pretrain.corpus FIRST LAST` encodes some of its parts."""

import sys

import torch
from diffusers import AutoencoderKL

from lib.ground.paths import MODELS
from lib.ground.precision import DEVICE
from pretrain.unet import corpus_chunk

if __name__ == "__main__":
    vae = AutoencoderKL.from_pretrained(MODELS / "mini-sd" / "vae").to(DEVICE, memory_format=torch.channels_last).eval()
    for index in range(int(sys.argv[1]), int(sys.argv[2])):
        corpus_chunk(index, vae)
        print(f"encoded part {index}", flush=True)
