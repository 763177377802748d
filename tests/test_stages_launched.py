"""A launched stage is keyed by what decides its result: not by processes, memory or where files lie."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

from lib.ground.cache import Artifact, load_arrays
from lib.ground.setups import setup_named
from lib.scale import stages
from lib.scale.launch import Machines
from lib.scale.stages import File, launched_stage


@pytest.fixture(scope="module")
def setup(tmp_path_factory) -> Path:
    return tiny.write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def ran(monkeypatch):
    """What was launched, in place of launching it: each writes one file."""
    calls = []

    def launched(task, config, folder, on, tell):
        calls.append((task, config))
        (folder / "made").write_text(task)

    monkeypatch.setattr(stages, "launched", launched)
    return calls


def artifact(folder: Path, digest: str = "d1") -> Artifact:
    return Artifact("images", "k", folder, digest, 1.0)


def test_only_what_decides_the_result_makes_another_stage(setup, ran, patched, tmp_path):
    tuned = {"model": {"latents": artifact(tmp_path), "weights": np.arange(3.0)}, "spec": {"updates": 2}}
    first = launched_stage("finetune", setup, tuned)
    same = {**tuned, "upkeep": {"every": 7}, "batch": 3}
    same["model"] = {"latents": artifact(tmp_path / "elsewhere"), "weights": np.arange(3.0)}
    assert launched_stage("finetune", setup, same, Machines(processes=5)) == first and len(ran) == 1
    model = tuned["model"]
    others = [{"spec": {"updates": 3}}]
    others += [{"model": model | m} for m in ({"weights": np.ones(3)}, {"latents": artifact(tmp_path, "d2")}, {"rows": [1]})]
    for other in others:
        assert launched_stage("finetune", setup, tuned | other).key != first.key


def test_memory_is_not_decisive_and_precision_is(setup):
    found = setup_named(setup)
    for change, differs in ({"micro_batch": 7, "gradient_checkpointing": True, "ema_offload": True}, False), (
        {"precision": "bf16"}, True), ({"min_snr": 5.0}, True):  # fmt: skip
        other = replace(found, training=replace(found.training, **change))
        assert (stages.decisive("finetune", other) != stages.decisive("finetune", found)) == differs
    assert stages.decisive("embed", found).keys() == {"clip"}
    assert stages.decisive("latents", found)["pairs"]["paths"][0][0] == "00000.tar"


def test_a_worker_gets_paths_of_artifacts_files_and_arrays(setup, ran, patched, tmp_path):
    rows, counts = np.array([[0, 1]]), np.array([[2, 0]])
    config = {"images": artifact(tmp_path), "weights": File(artifact(tmp_path), "unet-2.safetensors"),
              "choices": {"rows": rows, "counts": counts}, "streams": [{"weights": np.ones(2)}],
              "prompts": ["a"]}  # fmt: skip
    paths = stages.as_paths(config, tmp_path / "given")
    assert paths["images"] == str(tmp_path) and paths["weights"] == str(tmp_path / "unet-2.safetensors")
    assert load_arrays(Path(paths["choices"]["counts"]))["array"].tolist() == [[2, 0]] and paths["prompts"] == ["a"]
    assert load_arrays(Path(paths["streams"][0]["weights"]))["array"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="^unknown task 'dream': expected one of sample, embed, "):
        launched_stage("dream", setup, {})
