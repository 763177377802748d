"""A public model is the one that was named, in the layout that is expected, or refused in one line."""

import json
import shutil
import time

import huggingface_hub
import numpy as np
import pytest
import tiny
import torch

from lib.ground.cache import file_digest
from lib.ground.setups import ClipSource, ModelSource
from lib.images import sampling
from lib.scale import hub

UNET = "unet/diffusion_pytorch_model.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    tiny.write_generator(folder := tmp_path_factory.mktemp("hub") / "sd", extractor="CLIPFeatureExtractor")
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of an old folder, with a safety checker and a feature extractor of a class that no longer exists."""
    return shutil.copytree(made, tmp_path / "sd")


def refusal(model, kind=Exception) -> str:
    with pytest.raises(kind) as error:
        hub.load_base(model)
    assert "\n" not in str(error.value)
    return str(error.value)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_old_folder_loads_without_its_safety_checker(folder):
    pipe = hub.load_base(ModelSource(str(folder)))
    assert pipe.safety_checker is None and pipe.feature_extractor is None
    assert type(pipe.scheduler).__name__ == "PNDMScheduler" and not pipe.unet.training
    assert not any(p.requires_grad for p in pipe.unet.parameters())
    shutil.rmtree(folder / "safety_checker")
    shutil.rmtree(folder / "feature_extractor")
    again = hub.load_base(ModelSource(str(folder)))
    images = [sampling.sample(p, tiny.PROMPTS[:1], [1], sampling.SamplerSpec(steps=2, guided=2)) for p in (pipe, again)]
    np.testing.assert_array_equal(*images)


def test_each_part_has_its_own_precision_and_the_sampler_keeps_the_schedule(folder):
    dtypes = {"vae": torch.float16, "text_encoder": torch.bfloat16}
    pipe = hub.load_base(ModelSource(str(folder)), dtypes=dtypes, sampler="dpm-solver++")
    assert (pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype) == (torch.float32, torch.float16, torch.bfloat16)
    assert type(pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert pipe.scheduler.config.beta_end == 0.012 and pipe.scheduler.config.beta_schedule == "scaled_linear"


def test_variants_take_their_own_files(folder):
    (folder / UNET).rename(folder / UNET.replace(".safe", ".non_ema.safe"))
    assert hub.load_base(ModelSource(str(folder), variant="non_ema")).unet.config.in_channels == 4
    said = refusal(ModelSource(str(folder)), FileNotFoundError)
    assert said.endswith("expected safetensors of model.variant, but there are diffusion_pytorch_model.non_ema.safetensors")
    assert "model.fp16.safetensors" in hub.weight_files("fp16")["text_encoder"]


def test_a_wrong_sum_is_refused_and_the_right_one_taken(folder):
    good = file_digest(folder / UNET)
    assert hub.folder_of(ModelSource(str(folder), sha256={UNET: good})) == folder
    said = refusal(ModelSource(str(folder), sha256={UNET: "0" * 64}), ValueError)
    assert said == f"{folder / UNET} has SHA-256 {good}, but model.sha256 says {'0' * 64}: fetch it again"
    assert "a.bin is missing, but model.sha256 has its sum" in refusal(ModelSource(str(folder), sha256={"a.bin": good}))


def test_the_digest_follows_every_file_that_counts(folder):
    model = ModelSource(str(folder))
    before = hub.model_digest(model)
    edit(folder / "model_index.json", requires_safety_checker=False)
    changed = hub.model_digest(model)
    assert changed != before
    edit(folder / "safety_checker" / "config.json", x=1)
    assert hub.model_digest(model) == changed
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    assert hub.model_digest(model) != changed


@pytest.mark.parametrize("name", hub.CONFIGURATION)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert refusal(ModelSource(str(folder))) == f"{folder / name} is missing: expected a folder in diffusers' layout"


def test_other_layouts_are_named(folder, tmp_path):
    (single := tmp_path / "v1-5-pruned-emaonly.safetensors").write_bytes(b"x")
    assert refusal(ModelSource(str(single))).startswith(
        f"{single} is a single file: expected a folder in diffusers' layout; "
    )
    (folder / UNET).rename((folder / UNET).with_suffix(".bin"))
    assert refusal(ModelSource(str(folder))).endswith("but only pickled weights are there")
    (folder / UNET).with_suffix(".bin").rename(folder / UNET)
    edit(folder / "unet" / "config.json", in_channels=9)
    assert "has 9 and 4 channels for 4 of the latents: expected a text-to-image model" in refusal(ModelSource(str(folder)))
    edit(folder / "unet" / "config.json", in_channels=4, cross_attention_dim=48)
    assert "takes are 48 wide, those of its text encoder 32: expected parts of one" in refusal(ModelSource(str(folder)))
    edit(folder / "model_index.json", _class_name="StableDiffusionXLPipeline")
    assert refusal(ModelSource(str(folder))).endswith(
        "contains a StableDiffusionXLPipeline: expected a StableDiffusionPipeline"
    )
    (folder / "model_index.json").write_text("<html>")
    assert refusal(ModelSource(str(folder))) == f"{folder / 'model_index.json'} is not JSON: fetch it again"


def test_an_unreachable_hub_says_what_to_do(monkeypatch, tmp_path):
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between its tries
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download",
        lambda *a, **k: real(*a, **k, endpoint="http://127.0.0.1:9", cache_dir=tmp_path),
    )  # fmt: skip
    said = refusal(ModelSource("a/b", COMMIT), OSError)
    assert said.startswith("the hub cannot be reached for a/b (") and f"`hf download a/b --revision {COMMIT}`" in said


@pytest.mark.parametrize(
    "error, said",
    [
        ("GatedRepoError", r"a/b wants its licence accepted: do that on its page, then log in with `hf auth login`"),
        ("RevisionNotFoundError", f"a/b has no commit {COMMIT}: correct model.revision"),
        ("RepositoryNotFoundError", "the hub has no model a/b: correct model.source (a folder starts with ./ or /)"),
    ],
)
def test_what_the_hub_refuses_is_told(monkeypatch, error, said):
    kind = getattr(huggingface_hub.errors, error)

    def refuse(*_, **__):
        raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    assert refusal(ModelSource("a/b", COMMIT), OSError) == said


def test_only_what_is_needed_is_fetched(monkeypatch, folder):
    asked = {}

    def fetch(name, revision, allow_patterns):
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert hub.folder_of(ModelSource("a/b", COMMIT)) == folder
    assert (asked["name"], asked["revision"]) == ("a/b", COMMIT) and UNET in asked["patterns"]
    command = hub.download_command(ModelSource("a/b", COMMIT))
    assert command.startswith(f"hf download a/b --revision {COMMIT} --include 'model_index.json' ")
    assert not any("safety" in p or p.endswith((".bin", ".ckpt")) for p in asked["patterns"])


def test_mini_is_the_shipped_model():
    pipe = hub.load_base(ModelSource())
    assert pipe.unet.config.sample_size == 8 and type(pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"


def test_clips_are_found_or_refused_by_name(tmp_path):
    tiny.write_clip(tmp_path / "clip")
    clip, _, tokenizer = hub.load_clip(ClipSource(str(tmp_path / "clip")))
    assert clip.encode_text(tokenizer(["a"])).shape == (1, 24)
    digest = hub.weights_digest(clip)
    with torch.no_grad():
        clip.text_projection[0, 0] += 1e-6
    assert hub.weights_digest(clip) != digest
    (tmp_path / "clip" / "open_clip_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"open_clip_config.json is missing: expected a folder that open_clip saved"):
        hub.load_clip(ClipSource(str(tmp_path / "clip")))
    with pytest.raises(ValueError, match=r"clip.pretrained = 'x' is unknown for ViT-L-14: expected one of openai, "):
        hub.load_clip(ClipSource("ViT-L-14", "x"))
    with pytest.raises(ValueError, match=r"expected a name that open_clip knows, such as ViT-L-14, not 'ViT-L-15'"):
        hub.load_clip(ClipSource("ViT-L-15", "openai"))


def test_clip_weights_that_cannot_be_fetched_are_named(monkeypatch):
    import httpx

    def unreachable(*_):
        raise httpx.ConnectError("[Errno -2] Name or service not known\nand more")

    monkeypatch.setattr(hub.models, "load_clip", unreachable)
    with pytest.raises(OSError) as error:
        hub.load_clip(ClipSource("ViT-L-14", "openai"))
    how = "save them elsewhere in open_clip's layout, and set clip.source to that folder"
    assert str(error.value) == f"the weights of ViT-L-14 (openai) cannot be fetched (ConnectError): {how}"
