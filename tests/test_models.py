"""The shipped weights are those that were shipped, and load without this study."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms import Compose, RandomGrayscale

from lib.ground.paths import MODELS, ROOT
from lib.images import embedding, models
from lib.images.networks import FeatureNet, Judge, StridedTrunk

NAMES = ("features", "features-votes", "judge-a", "judge-b", "mini-clip", "mini-sd", "mini-second")
TEXTS = ["Two blue dogs in the forest", "A red colored apple", "six cats in San Francisco at night.", ""]


@pytest.fixture
def folder(tmp_path):
    """A copy of the shipped models with sums of its own."""
    copy = shutil.copytree(MODELS, tmp_path / "models")
    models.write_sums(copy)
    return copy


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- checks -------------------------------------------------------------------------------------------------------


def test_the_sums_cover_every_file_but_themselves_and_nothing_else():
    files = {p.relative_to(MODELS).as_posix() for p in MODELS.rglob("*") if p.is_file()}
    assert files - {"SHA256SUMS"} == set(models.sums())
    assert {f.split("/")[0] for f in models.sums()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_model_is_sound(name):
    assert len(models.verify(name)) == 64


def test_each_missing_file_is_named_in_one_line(folder):
    for path in models.sums(folder):
        (folder / path).rename(folder / "away")
        with pytest.raises(FileNotFoundError) as error:
            models.verify(path.split("/")[0], folder)
        assert re.fullmatch(rf"{re.escape(str(folder / path))} is missing: restore it .*", one_line(error))
        (folder / "away").rename(folder / path)


def test_each_altered_file_is_named_in_one_line(folder):
    for path in models.sums(folder):
        content = (folder / path).read_bytes()
        (folder / path).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # one bit
        with pytest.raises(ValueError) as error:
            models.verify(path.split("/")[0], folder)
        assert re.fullmatch(rf"{re.escape(str(folder / path))} is not the shipped file .*", one_line(error))
        (folder / path).write_bytes(content)


def test_each_bit_of_the_list_of_sums_counts(folder):
    path = folder / "SHA256SUMS"
    sound = path.read_bytes()
    for i in range(len(sound)):
        path.write_bytes(sound[:i] + bytes([sound[i] ^ 1 << i % 8]) + sound[i + 1 :])
        with pytest.raises(ValueError) as error:
            models.sums(folder)
        assert re.fullmatch(rf"{re.escape(str(path))} is not the shipped file .*", one_line(error))


def test_missing_sums_and_an_unknown_model_are_named(folder):
    with pytest.raises(ValueError, match="no model 'maxi-sd' in .*: expected one of " + ", ".join(NAMES)):
        models.verify("maxi-sd", folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(FileNotFoundError, match="SHA256SUMS is missing"):
        models.verify("mini-sd", folder)


def test_a_models_digest_depends_on_its_own_files_alone(folder):
    sums, before = models.sums(folder), {name: models.verify(name, folder) for name in NAMES}
    (folder / "judge-a" / "model.safetensors").write_bytes(b"other")
    models.write_sums(folder)
    after = {name: models.verify(name, folder) for name in NAMES}
    assert {name for name in NAMES if before[name] != after[name]} == {"judge-a"}
    shutil.copy(MODELS / "judge-a" / "model.safetensors", folder / "judge-a")
    models.write_sums(folder)
    assert models.sums(folder) == sums


@pytest.mark.parametrize(
    "load, path",
    [(lambda: models.load_generator(), "mini-sd/unet/diffusion_pytorch_model.safetensors"),
     (lambda: models.load_clip.__wrapped__(), "mini-clip/open_clip_model.safetensors"),
     (lambda: models.load_judge.__wrapped__("a"), "judge-a/model.safetensors"),
     (lambda: models.load_features.__wrapped__(), "features/model.safetensors"),
     (lambda: models.load_vote_features.__wrapped__(), "features-votes/model.safetensors")],
)  # fmt: skip
def test_nothing_is_loaded_unchecked(load, path, monkeypatch):
    digest = models.file_digest
    monkeypatch.setattr(models, "file_digest", lambda p: "0" * 64 if p == MODELS / path else digest(p))
    with pytest.raises(ValueError, match=f"{path} is not the shipped file"):
        load()


# ---- formats ------------------------------------------------------------------------------------------------------


def test_shipped_networks_have_the_form_of_their_classes():
    votes = (FeatureNet(StridedTrunk()), "features-votes")
    for network, name in ((Judge("a"), "judge-a"), (Judge("b"), "judge-b"), (FeatureNet(), "features"), votes):
        shipped = load_file(MODELS / name / "model.safetensors")
        assert {k: v.shape for k, v in shipped.items()} == {k: v.shape for k, v in network.state_dict().items()}
        assert {v.dtype for v in shipped.values()} == {torch.float16}


def test_only_safetensors_and_json_are_shipped_and_no_pickle_is_read():
    assert {p.suffix for p in MODELS.rglob("*") if p.is_file()} == {".safetensors", ".json", ""}
    code = [*ROOT.glob("lib/*.py"), *ROOT.glob("pretrain/*.py"), *ROOT.glob("notebooks/*.ipynb")]
    pickles = re.compile(r"torch\.load\b|pickle|joblib|\bshelve\b|\bdill\b|use_safetensors=False")
    assert len(code) > 10
    assert [f"{p}: {hit[0]}" for p in code if (hit := pickles.search(p.read_text("utf-8")))] == []


def test_the_judges_and_clip_load_ready_for_use():
    features = models.load_features(), models.load_vote_features()
    for network in (models.load_judge("a"), models.load_judge("b"), *features, models.load_clip()[0]):
        assert not network.training
        assert {p.dtype for p in network.parameters()} == {torch.float32}


WITHOUT_LIB = """
import sys
import numpy as np, open_clip, torch
from diffusers import StableDiffusionPipeline
from PIL import Image

pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1] + "/mini-sd")
image = pipe("Two blue dogs in the forest", num_inference_steps=2).images[0]
name = f"local-dir:{sys.argv[1]}/mini-clip"
model, _, preprocess = open_clip.create_model_and_transforms(name)
tokenizer = open_clip.get_tokenizer(name)
with torch.no_grad():
    x = model.eval().encode_image(preprocess(image)[None])
    z = model.encode_text(tokenizer(["Two blue dogs in the forest", "An apple"]))
assert "lib" not in sys.modules
print(image.size, tuple(x.shape), tuple(z.shape), bool(x.isfinite().all() and z.isfinite().all()))
"""


def test_diffusers_and_open_clip_load_the_shipped_models_without_this_study(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", WITHOUT_LIB, str(MODELS)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "(64, 64) (1, 128) (2, 128) True"


def test_fine_tuned_weights_take_the_place_of_the_bases(tmp_path):
    shipped = load_file(MODELS / "mini-sd" / "unet" / "diffusion_pytorch_model.safetensors")
    save_file({k: (2 * v).half() for k, v in shipped.items()}, tmp_path / "unet.safetensors")
    tuned = models.load_generator("mini", tmp_path / "unet.safetensors").unet
    for name, weight in tuned.named_parameters():
        torch.testing.assert_close(weight.cpu(), (2 * shipped[name]).half().float())
    with pytest.raises(RuntimeError, match="Missing key"):
        save_file({k: v for k, v in list(shipped.items())[1:]}, tmp_path / "unet.safetensors")
        models.load_generator("mini", tmp_path / "unet.safetensors")


# ---- images as CLIP takes them ------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [64, 48])
def test_images_are_prepared_all_at_once_to_the_same_bits_as_one_by_one(side):
    images = np.random.default_rng(0).integers(0, 256, (20, side, side, 3), dtype=np.uint8)
    cropped = open_clip.image_transform(48, is_train=False, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))  # of 64, to the edge
    for preprocess in (models.load_clip()[1], cropped):
        one_by_one = torch.stack([preprocess(Image.fromarray(x)) for x in images])
        assert torch.equal(embedding.preprocessed(preprocess, images), one_by_one)


def test_images_go_one_by_one_only_where_there_is_something_to_resize_or_a_step_is_unknown(monkeypatch):
    images, seen = np.zeros((3, 64, 64, 3), np.uint8), []
    monkeypatch.setattr(embedding.Image, "fromarray", lambda x: seen.append(x.shape) or Image.new("RGB", x.shape[1::-1]))
    ours = models.load_clip()[1]
    assert embedding.preprocessed(ours, images).shape == (3, 3, 64, 64) and not seen
    greyed = Compose([*ours.transforms[:-1], RandomGrayscale(1.0), ours.transforms[-1]])
    for preprocess, given in ((ours, images[:, :48]), (greyed, images), (lambda x: torch.zeros(3, 64, 64), images)):
        assert embedding.preprocessed(preprocess, given).shape == (3, 3, 64, 64)
        assert seen == [given.shape[1:]] * 3
        seen.clear()
