"""Small models with random weights, for claims in which the quality of the shipped weights plays no part."""

import os
import tempfile

import pytest
import torch

OWN = tempfile.TemporaryDirectory(prefix="study-tests-")
os.environ["STUDY_CACHE"] = OWN.name  # before `lib` is imported: the checkout may not be writable
for name in ("STUDY_REPORTS", "STUDY_TRIAL", "STUDY_DATA"):
    os.environ.pop(name, None)  # not STUDY_BFLOAT16: the tests hold in either precision
os.environ["STUDY_SEED"] = "0"  # numbers that the tests expect were worked out for this one

from lib.desk.fence import fence  # noqa: E402

fence()  # the tests of one user are those of another
os.environ["MPLBACKEND"] = "agg"

from diffusers import StableDiffusionPipeline, UNet2DConditionModel  # noqa: E402

from lib.ground import cache  # noqa: E402
from lib.ground.paths import MODELS  # noqa: E402

torch.set_num_threads(1)  # tiny tensors: a second thread only waits, and for long where another process holds its core


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """A cache of the test's own: it finds nothing that another one left."""
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def patched(monkeypatch):
    """For tests that put functions of their own in place of the study's: a stage would refuse to keep what those make."""
    monkeypatch.setattr(cache, "refuse_changes", lambda modules: None)


def tiny_unet(seed: int) -> UNet2DConditionModel:
    """The shipped U-Net's form with (32, 32) channels and random weights."""
    config = UNet2DConditionModel.load_config(MODELS / "mini-sd" / "unet")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_config({**config, "block_out_channels": (32, 32)})
    return unet.eval().to(memory_format=torch.channels_last)


@pytest.fixture(scope="session")
def make_pipe():
    """A function of a seed: a pipeline with a new random U-Net and the shipped other parts (shared between calls)."""
    pipe = StableDiffusionPipeline.from_pretrained(MODELS / "mini-sd", unet=tiny_unet(0), use_safetensors=True)
    parts = dict(pipe.components)

    def make(seed: int = 0) -> StableDiffusionPipeline:
        new = StableDiffusionPipeline(**{**parts, "unet": tiny_unet(seed)}, requires_safety_checker=False)
        new.set_progress_bar_config(disable=True)
        return new

    return make


@pytest.fixture(scope="session")
def pipe(make_pipe):
    """One such pipeline for tests that leave it as it is."""
    return make_pipe()
