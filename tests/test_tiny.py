"""The tiny setup has Stable Diffusion v1.5's layout, and the libraries that read the public weights read it."""

import json
from pathlib import Path

import open_clip
import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline
from open_clip.tokenizer import SimpleTokenizer

from lib.feedback import choices, labels
from lib.ground.setups import setup_named
from lib.scale import blank, fidelity, pairs, shards

# stable-diffusion-v1-5/stable-diffusion-v1-5 on the hub, without the loose checkpoints and the *.bin twins
PUBLISHED = {
    "model_index.json", "feature_extractor/preprocessor_config.json", "safety_checker/config.json",
    "safety_checker/model.safetensors", "scheduler/scheduler_config.json", "text_encoder/config.json",
    "text_encoder/model.safetensors", "tokenizer/merges.txt", "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tiny.write_tiny(folder := tmp_path_factory.mktemp("tiny"))
    return folder


def test_the_folder_has_the_published_files(folder):
    base = folder / "stable-diffusion"
    assert {p.relative_to(base).as_posix() for p in base.rglob("*") if p.is_file()} == PUBLISHED
    index = json.loads((base / "model_index.json").read_text())
    assert {k: v[1] for k, v in index.items() if isinstance(v, list)} == {
        "feature_extractor": "CLIPImageProcessor", "safety_checker": "StableDiffusionSafetyChecker",
        "scheduler": "PNDMScheduler", "text_encoder": "CLIPTextModel", "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel", "vae": "AutoencoderKL",
    }  # fmt: skip


def test_the_stock_pipeline_draws_from_it(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder / "stable-diffusion", safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    (image,) = pipe("a dog", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images
    assert image.size == (64, 64) and pipe.unet.config.in_channels == 4
    assert pipe.scheduler.config.prediction_type == "epsilon" and pipe.scheduler.config.steps_offset == 1


def test_its_tokenizer_is_clips(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder / "stable-diffusion", safety_checker=None)
    text = "Two blue dogs in the forest, a café at 5 o'clock."
    mine = pipe.tokenizer(text, padding="max_length", max_length=77).input_ids
    theirs = SimpleTokenizer()(text)[0].tolist()
    end = mine.index(49_407)
    assert mine[: end + 1] == theirs[: end + 1] and mine[0] == 49_406


def test_open_clip_loads_its_clip(folder):
    source = f"local-dir:{folder / 'clip'}"
    model, _, _ = open_clip.create_model_and_transforms(source)
    assert model.encode_text(open_clip.get_tokenizer(source)(["a dog"])).shape == (1, 24)


def test_the_true_size_is_stable_diffusions():
    with torch.device("meta"):
        parts = blank.blank_parts("true")
    counts = {k: sum(p.numel() for p in m.parameters()) for k, m in parts.items() if k != "scheduler"}
    # of the published weights: 859.5, 83.7 and 123.1 million
    assert counts == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match=r"unknown shape 'huge': expected one of true, tiny"):
        blank.blank_parts("huge")


def test_the_setup_names_what_is_there(folder):
    setup = setup_named(folder / "tiny.toml")
    assert all(
        Path(x).exists() for x in (setup.model.source, setup.clip.source, setup.fidelity.images, setup.fidelity.weights)
    )
    judged = shards.opened(Path(setup.raters.images), verify=True)
    table = labels.load(Path(setup.raters.labels))
    labels.matched(table, judged.digests, judged.prompts, every=True)
    assert set(table.rater) == {"ann", "bob"} and set(table.label) == set(labels.LABELS)
    rows, chosen = choices.groups_of(choices.load(Path(setup.raters.choices)), judged.digests, judged.prompts)
    assert rows.shape == (2 * len(tiny.ASKED), tiny.JUDGED) and len(chosen) == len(rows)
    assert len(pairs.shard_paths(setup.pairs)) == 2 and len(fidelity.coco_pairs(setup.fidelity)) == 10
