"""What the papers' own scale costs, by arithmetic: operations of each stage, memory of training, room on disk.

Operations are counted by running each network once on PyTorch's meta device, which computes nothing and needs no weights.
Multiplications and additions count as two. Hours follow from a rate that was measured.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from lib.ground.paths import MODELS
from lib.ground.setups import ClipSource, Sampling, Setup, Training, is_path
from lib.ground.sizes import Size
from lib.methods.adaptation import AdaptationSpec
from lib.scale import blank, inception

BACKWARD = 2  # a backward pass costs two forward passes; recomputing what was not stored costs one more
STATE = {"weights": 4, "gradients": 4, "AdamW": 8}  # bytes per trained weight, in float32
EVALUATED = 120  # prompts on which models are compared, in both papers
PRETRAINING = {"lee-sd15": 625_000, "wu-sd14": 200_000}  # pairs, as the papers say


@dataclass(frozen=True)
class Network:
    """Weights of one network, and the operations of one forward pass on one item: all, and those of attention's products."""

    weights: int
    operations: int
    attention: int


@functools.cache
def networks(model: str = "true", resolution: int = 512) -> dict[str, Network]:
    """U-Net, text encoder, and the autoencoder's two halves, for one image at `resolution` with one text.

    `model` is one of `blank.SHAPES` (`true`: Stable Diffusion v1's), or a folder whose configuration to take.
    """
    with torch.device("meta"):
        parts = blank.blank_parts(model) if model in blank.SHAPES else _configured(Path(model))
        unet, vae, text = parts["unet"], parts["vae"], parts["text_encoder"]
        side = resolution // 2 ** (len(vae.config.block_out_channels) - 1)
        latents = torch.empty(1, unet.config.in_channels, side, side)
        tokens = torch.zeros(1, text.config.max_position_embeddings, dtype=torch.long)
        states = torch.empty(*tokens.shape, text.config.hidden_size)
        return {
            "unet": _counted(unet, lambda: unet(latents, torch.tensor(1), encoder_hidden_states=states)),
            "text": _counted(text, lambda: text(tokens)),
            "encode": _counted(vae.encoder, lambda: vae.encoder(torch.empty(1, 3, resolution, resolution))),
            "decode": _counted(vae.decoder, lambda: vae.decoder(latents)),
        }


def _configured(folder: Path) -> dict:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    made = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    parts = {name: kind.from_config(kind.load_config(folder / name)).eval() for name, kind in made.items()}
    return parts | {"text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")).eval()}


@functools.cache
def clip_image(clip: ClipSource) -> Network:
    """CLIP's image encoder, for one image."""
    import open_clip

    if is_path(clip.source):
        config = json.loads((Path(clip.source) / "open_clip_config.json").read_text("utf-8"))["model_cfg"]
    else:
        config = open_clip.get_model_config(clip.source)
    with torch.device("meta"):
        visual = open_clip.CLIP(**config).visual.eval()
        side = visual.image_size[0]
        return _counted(visual, lambda: visual(torch.empty(1, 3, side, side)))


@functools.cache
def inception_image() -> Network:
    """Inception-v3 without its last layer, for one image."""
    with torch.device("meta"):
        network = inception.Layers().eval()
        return _counted(network, lambda: network(torch.empty(1, 3, inception.SIDE, inception.SIDE)))


@torch.no_grad()
def _counted(network: torch.nn.Module, run) -> Network:
    with FlopCounterMode(display=False) as counter:
        run()
    by_kind = counter.get_flop_counts()["Global"].items()
    products = sum(n for kind, n in by_kind if "bmm" in str(kind) or "attention" in str(kind))
    return Network(sum(p.numel() for p in network.parameters()), counter.get_total_flops(), products)


# ---- stages --------------------------------------------------------------------------------------------------------


def networks_of(setup: Setup) -> dict[str, Network]:
    """The networks of a setup's model at its resolution; those of a hub name are taken to be Stable Diffusion v1's."""
    source = setup.model.source
    model = str(MODELS / "mini-sd") if source == "mini" else source if is_path(source) else "true"
    return networks(model, setup.sampling.resolution)


def image_operations(n: Mapping[str, Network], how: Sampling) -> int:
    """Operations to draw one image: each guided step runs the U-Net twice; PNDM takes one step more than asked."""
    steps = how.steps + (how.sampler == "pndm")
    twice = (steps if how.guided == how.steps else how.guided) if how.guidance_scale != 1 else 0
    return (steps + twice) * n["unet"].operations + n["text"].operations + n["decode"].operations


def update_operations(n: Mapping[str, Network], training: Training, batch: int) -> int:
    """Operations of one update on `batch` cached latents: of the whole U-Net or, if there is a rank, of a LoRA.

    A LoRA needs no gradients of the frozen weights, which are half of a backward pass; its own operations are not counted.
    """
    passes = 1 + (BACKWARD // 2 if training.lora_rank else BACKWARD) + training.gradient_checkpointing
    return batch * (passes * n["unet"].operations + n["text"].operations)


def stages(setup: Setup, size: Size, runs: int = 1, models: int = 2) -> pd.DataFrame:
    """Items, operations per item and in total, by stage, of one paper's main experiment; `runs` trainings, and `models`
    compared on prompts and on fidelity."""
    n = networks_of(setup)
    drawn = image_operations(n, setup.sampling)
    labelled = sum(p * k for p, k in zip(size.prompts, size.images, strict=True))
    pairs, real = PRETRAINING.get(setup.name, 0), setup.fidelity.count
    updates, batch = size.updates, sum(size.batch)
    if setup.training.lora_rank:
        updates, batch = size.adaptation_updates, sum(AdaptationSpec().batch)
    rows = [
        ("images to label", labelled, drawn),
        ("unlabelled images", size.unlabelled, drawn),
        ("embeddings", labelled + size.unlabelled, clip_image(setup.clip).operations),
        ("latents of model images", labelled + size.unlabelled, n["encode"].operations),
        ("latents of pre-training pairs", pairs, n["encode"].operations),
        ("updates", runs * updates, update_operations(n, setup.training, batch)),
        ("images to compare", models * EVALUATED * size.evaluation_images, drawn),
        ("images for fidelity", models * real, drawn),
        ("Inception features", (1 + models) * real, inception_image().operations),
    ]
    table = pd.DataFrame(rows, columns=["stage", "items", "operations"]).set_index("stage")
    return table.assign(total=table["items"].astype(float) * table.operations)


def training_memory(setup: Setup, average: bool = True) -> dict[str, int]:
    """Bytes that the whole U-Net's training holds whatever the batch: its weights, gradients, AdamW's state, frozen parts.

    Of a LoRA, only the frozen parts, with the U-Net: its own state is about a hundredth of that. Activations come on top:
    they are measured.
    """
    n = networks_of(setup)
    trained, half = n["unet"].weights, 4 if setup.training.precision == "fp32" else 2
    frozen = half * sum(n[part].weights for part in ("text", "encode", "decode"))
    if setup.training.lora_rank:
        return {"frozen": frozen + half * trained}
    state = STATE | ({"AdamW": 2} if setup.training.eight_bit_adam else {})
    kept = {name: size * trained for name, size in state.items()}
    kept |= {"average": 4 * trained} if average and not setup.training.ema_offload else {}
    return kept | {"frozen": frozen}


def room_on_disk(setup: Setup, size: Size, models: int = 2) -> dict[str, int]:
    """Bytes of images (PNG of photographs: about 1.8 bytes per pixel), of latents in half precision, and of a checkpoint."""
    n, side = networks_of(setup), setup.sampling.resolution
    labelled = sum(p * k for p, k in zip(size.prompts, size.images, strict=True)) + size.unlabelled
    latent = 2 * 4 * (side // 8) ** 2
    return {
        "images": int(1.8 * side**2) * (labelled + models * (setup.fidelity.count + EVALUATED * size.evaluation_images)),
        "latents": latent * (labelled + PRETRAINING.get(setup.name, 0)),
        "one checkpoint": (STATE["weights"] + STATE["AdamW"] + 4) * n["unet"].weights,
    }
