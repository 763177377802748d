"""Stable Diffusion v1's architecture with random weights, at its true size or tiny: to count, to measure and to test.

Shapes are those of the published configuration files of Stable Diffusion v1.4 and v1.5 (Rombach et al. 2022). The tokenizer
is CLIP's own, from the list of merges that open_clip contains.
"""

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # seconds to import
    from diffusers import StableDiffusionPipeline

TRUE = {
    "unet": {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
             "norm_num_groups": 32, "cross_attention_dim": 768},
    "vae": {"sample_size": 512, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32},
    "text": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "vision": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
               "image_size": 224, "patch_size": 14},
}  # fmt: skip
TINY = {
    "unet": {"sample_size": 8, "block_out_channels": (16, 32, 32, 32), "layers_per_block": 1, "norm_num_groups": 8,
             "cross_attention_dim": 32},
    "vae": {"sample_size": 64, "block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 8},
    "text": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "vision": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
               "image_size": 32, "patch_size": 16},
}  # fmt: skip
SHAPES = {"true": TRUE, "tiny": TINY}
MAX_TOKENS, VOCABULARY = 77, 49_408


def blank_parts(shape: str = "true") -> dict:
    """U-Net, autoencoder, text encoder and scheduler of Stable Diffusion v1, with random weights from PyTorch's generator.

    `shape` is `true` (1.07 billion parameters: 4.3 GB in float32, none on the meta device) or `tiny` (64 px images).
    """
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    if shape not in SHAPES:
        raise ValueError(f"unknown shape {shape!r}: expected one of {', '.join(SHAPES)}")
    sizes = SHAPES[shape]
    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    text = {"vocab_size": VOCABULARY, "max_position_embeddings": MAX_TOKENS, "hidden_act": "quick_gelu",
            "projection_dim": 768, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # fmt: skip
    return {
        "unet": UNet2DConditionModel(**sizes["unet"]).eval(),
        "vae": AutoencoderKL(**sizes["vae"], down_block_types=down, up_block_types=up, latent_channels=4).eval(),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**sizes["text"], **text)).eval(),
        "scheduler": PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True,
                                   steps_offset=1),
    }  # fmt: skip


def safety_checker(shape: str = "true"):
    """The safety checker that the published folders contain, with random weights: it calls images unsafe by chance."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    width = {"projection_dim": 768 if shape == "true" else 32}
    return StableDiffusionSafetyChecker(CLIPConfig(vision_config=SHAPES[shape]["vision"] | width, **width)).eval()


def write_tokenizer(folder: Path) -> None:
    """CLIP's tokenizer in the published layout: vocab.json, merges.txt and two configuration files."""
    from open_clip.tokenizer import bytes_to_unicode, default_bpe

    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : VOCABULARY - 2 * 256 - 2 + 1]
    letters, marks = list(bytes_to_unicode().values()), ["<|startoftext|>", "<|endoftext|>"]
    words = [*letters, *(x + "</w>" for x in letters), *("".join(x.split()) for x in merges), *marks]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    special = {"bos_token": marks[0], "eos_token": marks[1], "pad_token": marks[1], "unk_token": marks[1]}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = special | {"model_max_length": MAX_TOKENS, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True,
                        "add_prefix_space": False, "errors": "replace"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def blank_pipeline(folder: Path, shape: str = "true") -> "StableDiffusionPipeline":
    """A pipeline of `blank_parts`, without safety checker; its tokenizer is written to `folder` and read from there."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

    write_tokenizer(folder)
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = StableDiffusionPipeline(**blank_parts(shape), tokenizer=CLIPTokenizer.from_pretrained(folder), **none)
    pipe.set_progress_bar_config(disable=True)
    return pipe
