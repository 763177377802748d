"""Processes that stay give what others give, are few, and end when a task fails or nobody needs them."""

import time
from pathlib import Path

import pytest
import tiny

from lib.ground.cache import file_digest
from lib.ground.setups import setup_named
from lib.scale import shards
from lib.scale.crew import crew_of, in_crew
from lib.scale.launch import LaunchFailed, Machines, launched


@pytest.fixture(scope="module")
def setup(tmp_path_factory) -> Path:
    return tiny.write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def crew():
    yield crew_of
    for processes in (1, 2):
        crew_of(Machines(processes)).close()
    crew_of.cache_clear()


def sample(setup, folder, prompts=("a dog", "a cat"), on=Machines(), run=in_crew, **more):  # noqa: B008
    """Images of these prompts by a launch: the SHA-256 of their shard."""
    folder.mkdir()
    asked = {"prompts": list(prompts), "numbers": [0] * len(prompts), "stream": "s", "setup": str(setup)} | more
    launched("sample", asked, folder, on, lambda line: None, run)
    return file_digest(folder / "00000.tar")


def test_a_second_task_runs_in_the_same_processes_and_gives_what_its_own_launch_does(setup, crew, tmp_path):
    two = Machines(processes=2)
    sample(setup, tmp_path / "first", ["six cups", "a red car", "a wolf"], two)
    crew, told = crew(two), []
    child = crew.child
    assert child.poll() is None
    (tmp_path / "other").mkdir()
    asked = {"images": str(tmp_path / "first"), "setup": str(setup)}
    launched("embed", asked, tmp_path / "other", two, told.append, in_crew)
    assert told == ["embeddings: shard 1 of 1"]
    second = sample(setup, tmp_path / "second", on=two)
    assert crew.child is child and len(shards.opened(tmp_path / "second")) == 2
    assert "told" in (tmp_path / "second" / "_partial" / "launch" / "log.txt").read_text()
    assert "six cups" not in (tmp_path / "second" / "_partial" / "launch" / "log.txt").read_text()
    assert sample(setup, tmp_path / "alone", run=None) == second
    assert crew.child.poll() is None
    crew.end()
    assert crew.child.poll() is not None


def test_a_task_that_fails_is_named_and_the_next_one_starts_other_processes(setup, crew, tmp_path):
    source = setup_named(setup).model.source
    weights = Path(source) / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".away"))
    try:
        with pytest.raises(LaunchFailed, match="^sample: process 0 of 1 failed: .*safetensors is missing"):
            sample(setup, tmp_path / "lost")
    finally:
        weights.with_suffix(".away").rename(weights)
    sample(setup, tmp_path / "found")
    crew = crew(Machines())
    child = crew.child
    child.kill()
    child.wait()
    time.sleep(0.1)
    sample(setup, tmp_path / "again", ["a dog"])
    assert crew.child is not child
