"""Load the shipped mini models, after checking their SHA-256 sums, or a generator at Stable Diffusion's scale.

Only safetensors are read. Downstream code sees a `StableDiffusionPipeline`, an `open_clip` model with its tokenizer, and
judges, whatever their scale.
"""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file

from lib.ground.cache import digest_of, file_digest
from lib.ground.paths import MODELS
from lib.ground.precision import DEVICE
from lib.images.networks import FeatureNet, Judge, StridedTrunk, channels_last

if TYPE_CHECKING:  # diffusers and open_clip take seconds to import, and much of the study needs neither
    from diffusers import StableDiffusionPipeline


def sums(folder: Path = MODELS) -> dict[str, str]:
    """The shipped SHA-256 sums by path under `folder`; refuses a list that does not match its own sum, in its first line."""
    path = folder / "SHA256SUMS"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: restore it with git, or run `make pretrain`")
    _, _, lines = (whole := path.read_bytes()).partition(b"\n")
    if whole != _with_sum(lines):
        raise ValueError(f"{path} is not the shipped file (its own SHA-256 differs): restore it with git")
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines.decode().splitlines())}


def _with_sum(lines: bytes) -> bytes:
    return b"# %s of the lines below\n%s" % (hashlib.sha256(lines).hexdigest().encode(), lines)


def verify(name: str, folder: Path = MODELS) -> str:
    """Check every file of one shipped model; returns a digest of all of them.

    Raises FileNotFoundError or ValueError that names the missing or altered file.
    """
    wanted = {k: v for k, v in sums(folder).items() if k.split("/")[0] == name}
    if not wanted:
        known = sorted({k.split("/")[0] for k in sums(folder)})
        raise ValueError(f"no model {name!r} in {folder}: expected one of {', '.join(known)}")
    for path, digest in wanted.items():
        if not (folder / path).exists():
            raise FileNotFoundError(f"{folder / path} is missing: restore it with git, or run `make pretrain`")
        if file_digest(folder / path) != digest:
            raise ValueError(f"{folder / path} is not the shipped file (SHA-256 differs): restore it with git")
    return digest_of(wanted)


def write_sums(folder: Path = MODELS) -> None:
    """Write the SHA-256 sums of all files of all models; only `make pretrain` does this."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{file_digest(p)}  {p.relative_to(folder).as_posix()}\n" for p in paths]
    (folder / "SHA256SUMS").write_bytes(_with_sum("".join(lines).encode()))


def load_generator(source: str | Path = "mini", unet: Path | None = None) -> "StableDiffusionPipeline":
    """A text-to-image pipeline: `mini` (shipped), or a folder or hub name in diffusers' layout.

    `unet` is a safetensors file of fine-tuned U-Net weights to load into it. Evaluation mode, float32, on the GPU if any.
    """
    from diffusers import StableDiffusionPipeline

    if source == "mini":
        verify("mini-sd")
        source = MODELS / "mini-sd"
    pipe = StableDiffusionPipeline.from_pretrained(source, use_safetensors=True, dtype=torch.float32)
    if unet is not None:
        pipe.unet.load_state_dict({k: v.float() for k, v in load_file(unet).items()})
    channels_last(pipe.unet)
    channels_last(pipe.vae)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(DEVICE)


def load_lora(folder: Path) -> "StableDiffusionPipeline":
    """The shipped generator with a folder's LoRA (`pytorch_lora_weights.safetensors`) fused into its weights."""
    pipe = load_generator("mini")
    pipe.load_lora_weights(folder)
    pipe.fuse_lora(components=["unet"])
    return pipe


def load_second() -> "StableDiffusionPipeline":
    """The second generator: a U-Net trained differently, with the other parts of the shipped generator."""
    from diffusers import UNet2DConditionModel

    verify("mini-second")
    pipe = load_generator("mini")
    unet = UNet2DConditionModel.from_pretrained(MODELS / "mini-second", use_safetensors=True, dtype=torch.float32)
    pipe.unet = channels_last(unet.eval()).to(DEVICE)
    return pipe


@lru_cache(1)
def load_clip(source: str = "mini", pretrained: str | None = None):
    """An open_clip model in evaluation mode, with its preprocessing and tokenizer.

    `mini` is the shipped one; any other name goes to open_clip with `pretrained` (`ViT-L-14`, `openai`).
    """
    import open_clip

    if source == "mini":
        verify("mini-clip")
        source = f"local-dir:{MODELS / 'mini-clip'}"
    model, _, preprocess = open_clip.create_model_and_transforms(source, pretrained=pretrained)
    return model.eval().to(DEVICE, memory_format=torch.channels_last), preprocess, open_clip.get_tokenizer(source)


def matched_longer() -> np.ndarray:
    """Matrix that maps mini-CLIP's text embeddings to those after much longer matching, float [dimension, dimension]."""
    verify("mini-clip")
    return load_file(MODELS / "mini-clip" / "matched_longer.safetensors")["longer"].numpy()


@lru_cache(3)
def load_judge(kind: str) -> Judge:
    """Judge `a` (through which raters see) or `b` (the audit)."""
    return _load(Judge(kind), f"judge-{kind}")


@lru_cache(1)
def load_features() -> FeatureNet:
    """The network whose features the Fréchet distance uses."""
    return _load(FeatureNet(), "features")


@lru_cache(1)
def load_vote_features() -> FeatureNet:
    """The network whose features the simulated raters use to compare fidelity; no metric uses it."""
    return _load(FeatureNet(StridedTrunk()), "features-votes")


def _load(network: torch.nn.Module, name: str) -> torch.nn.Module:
    verify(name)
    network.load_state_dict({k: v.float() for k, v in load_file(MODELS / name / "model.safetensors").items()})
    return network.eval().to(DEVICE, memory_format=torch.channels_last)
