"""The public models, from the hub or a folder: pinned, checked before they are loaded, and without what would alter images.

The safety checker, which blackens images without an error, is neither fetched nor loaded, and nor is the feature extractor
that only it needs (`CLIPFeatureExtractor` in older folders, a class that no longer exists).
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lib.ground.cache import digest_of, file_digest
from lib.ground.paths import MODELS
from lib.ground.setups import ClipSource, ModelSource, is_path
from lib.images import models

if TYPE_CHECKING:  # seconds to import
    from diffusers import StableDiffusionPipeline

CONFIGURATION = ("model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
                 "tokenizer/tokenizer_config.json", "unet/config.json", "vae/config.json")  # fmt: skip
SAMPLERS = {"pndm": "PNDMScheduler", "ddim": "DDIMScheduler", "dpm-solver++": "DPMSolverMultistepScheduler"}


# ---- files ---------------------------------------------------------------------------------------------------------


def weight_files(variant: str) -> dict[str, str]:
    """The weights of each part of a folder in diffusers' layout; only the U-Net has some without moving average."""
    suffix = f".{variant}" if variant else ""
    half = suffix if variant == "fp16" else ""
    return {
        "unet": f"unet/diffusion_pytorch_model{suffix}.safetensors",
        "vae": f"vae/diffusion_pytorch_model{half}.safetensors",
        "text_encoder": f"text_encoder/model{half}.safetensors",
    }


def needed(model: ModelSource) -> list[str]:
    """The files of a model that are fetched and read, as patterns."""
    return [*CONFIGURATION, "tokenizer/*", *weight_files(model.variant).values()]


def download_command(model: ModelSource) -> str:
    """The shell command that fetches a model from the hub where there is a network."""
    included = " ".join(f"'{pattern}'" for pattern in needed(model))
    return f"hf download {model.source} --revision {model.revision} --include {included}"


def folder_of(model: ModelSource) -> Path:
    """The folder with a model's files, fetched from the hub at the pinned commit unless they are already on disk.

    Raises OSError or ValueError in one line if the hub, the model or the commit cannot be found, or the layout or a SHA-256
    sum is wrong.
    """
    if model.source == "mini":
        models.verify("mini-sd")
        return MODELS / "mini-sd"
    folder = _fetched(model) if model.on_hub else Path(model.source)
    check_layout(folder, model)
    for name, wanted in model.sha256.items():
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"{folder / name} is missing, but model.sha256 has its sum: expected a file of the model"
            )
        if (found := _sum(folder / name)) != wanted:
            raise ValueError(f"{folder / name} has SHA-256 {found}, but model.sha256 says {wanted}: fetch it again")
    return folder


def _fetched(model: ModelSource) -> Path:
    import httpx
    import huggingface_hub as hub
    from huggingface_hub import errors

    name, commit = model.source, model.revision
    try:
        return Path(hub.snapshot_download(name, revision=commit, allow_patterns=needed(model)))
    except errors.GatedRepoError:
        problem = f"{name} wants its licence accepted: do that on its page, then log in with `hf auth login`"
    except errors.RevisionNotFoundError:
        problem = f"{name} has no commit {commit}: correct model.revision"
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        problem = f"the hub has no model {name}: correct model.source (a folder starts with ./ or /)"
    except (OSError, httpx.HTTPError) as error:
        how = f"elsewhere, run `hf download {name} --revision {commit}`, and set model.source to that folder"
        problem = f"the hub cannot be reached for {name} ({type(error).__name__}): {how}"
    raise OSError(problem)


def check_layout(folder: Path, model: ModelSource) -> None:
    """Refuse a folder that is not Stable Diffusion v1 or v2 in diffusers' layout, naming what is wrong with it."""
    if folder.is_file():
        how = "convert it with StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
        raise ValueError(f"{folder} is a single file: expected a folder in diffusers' layout; {how}")
    for name in CONFIGURATION:
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name} is missing: expected a folder in diffusers' layout")
    for name in weight_files(model.variant).values():
        _check_weights(folder / name)
    kind = _json(folder / "model_index.json").get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise ValueError(f"{folder} contains a {kind}: expected a StableDiffusionPipeline")
    unet, vae, text = (_json(folder / part / "config.json") for part in ("unet", "vae", "text_encoder"))
    if not unet["in_channels"] == unet["out_channels"] == vae["latent_channels"]:
        counts = f"{unet['in_channels']} and {unet['out_channels']} channels for {vae['latent_channels']} of the latents"
        raise ValueError(f"the U-Net in {folder} has {counts}: expected a text-to-image model, not one for editing images")
    if unet["cross_attention_dim"] != text["hidden_size"]:
        widths = f"{unet['cross_attention_dim']} wide, those of its text encoder {text['hidden_size']}"
        raise ValueError(f"the text states that the U-Net in {folder} takes are {widths}: expected parts of one model")


def _check_weights(path: Path) -> None:
    if path.exists():
        return
    there = sorted(p.name for p in path.parent.glob("*.safetensors"))
    pickled = any(path.parent.glob("*.bin"))
    what = (
        f"there are {', '.join(there)}" if there else "only pickled weights are there" if pickled else "there are no weights"
    )
    raise FileNotFoundError(f"{path} is missing: expected safetensors of model.variant, but {what}")


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError:
        raise ValueError(f"{path} is not JSON: fetch it again") from None


def _sum(path: Path) -> str:
    """SHA-256 of a file, computed once per process unless it changes."""
    state = path.stat()
    return _sum_of(path.resolve(), state.st_size, state.st_mtime_ns)


@functools.cache
def _sum_of(path: Path, size: int, changed: int) -> str:
    return file_digest(path)


def model_digest(model: ModelSource) -> str:
    """Digest of all files of a model that affect images, for the keys of stages."""
    folder = folder_of(model)
    names = [*CONFIGURATION, *weight_files(model.variant).values()]
    names += sorted(p.relative_to(folder).as_posix() for p in (folder / "tokenizer").iterdir())
    return digest_of({name: _sum(folder / name) for name in names})


# ---- models --------------------------------------------------------------------------------------------------------


def load_base(
    model: ModelSource,
    device: torch.device | str = "cpu",
    dtypes: Mapping[str, torch.dtype] | None = None,
    sampler: str = "own",
) -> "StableDiffusionPipeline":
    """The pipeline of a setup's model in evaluation mode, without safety checker.

    `dtypes` gives the precision of `unet`, `vae` and `text_encoder` (float32 unless named); `sampler` is `own` (that of the
    folder) or one of SAMPLERS with the folder's noise schedule. Errors as of `folder_of`.
    """
    import diffusers
    from transformers import CLIPTextModel, CLIPTokenizer

    folder, dtypes = folder_of(model), dtypes or {}
    classes = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL, "text_encoder": CLIPTextModel}
    parts = {}
    for part, file in weight_files(model.variant).items():
        variant = model.variant if f".{model.variant}." in file else None
        dtype = dtypes.get(part, torch.float32)
        parts[part] = classes[part].from_pretrained(folder / part, variant=variant, use_safetensors=True, dtype=dtype)
        parts[part].eval().requires_grad_(False)
    own = _json(folder / "model_index.json")["scheduler"][1] if sampler == "own" else SAMPLERS[sampler]
    pipe = diffusers.StableDiffusionPipeline(
        **parts, tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=getattr(diffusers, own).from_pretrained(folder / "scheduler"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    for network in (pipe.unet, pipe.vae):
        network.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def load_clip(clip: ClipSource):
    """The CLIP model of a setup, its preprocessing and its tokenizer, by open_clip.

    Raises ValueError for an unknown name, FileNotFoundError for a folder that is not open_clip's, OSError if the weights
    cannot be fetched, each in one line.
    """
    if clip.source == "mini":
        return models.load_clip()
    if is_path(clip.source):
        for name in ("open_clip_config.json", "open_clip_model.safetensors"):
            if not (path := Path(clip.source) / name).exists():
                raise FileNotFoundError(f"{path} is missing: expected a folder that open_clip saved")
        return models.load_clip(f"local-dir:{clip.source}")
    import httpx
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(clip.source)
    if clip.pretrained not in tags:
        known = (
            f"one of {', '.join(tags)}" if tags else f"a name that open_clip knows, such as ViT-L-14, not {clip.source!r}"
        )
        raise ValueError(f"clip.pretrained = {clip.pretrained!r} is unknown for {clip.source}: expected {known}")
    try:
        return models.load_clip(clip.source, clip.pretrained)
    except (OSError, httpx.HTTPError, RuntimeError) as error:
        where = f"{clip.source} ({clip.pretrained})"
        how = "save them elsewhere in open_clip's layout, and set clip.source to that folder"
        raise OSError(f"the weights of {where} cannot be fetched ({type(error).__name__}): {how}") from None


def weights_digest(network: torch.nn.Module) -> str:
    """SHA-256 of a network's weights by name, for the keys of stages, wherever they came from."""
    whole = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        whole.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return whole.hexdigest()
