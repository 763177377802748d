"""Stages whose work is launched: their keys hold what decides the result, not how many processes or how much memory.

In a config, an artifact (or a `File` in one) stands for its path, and an array for a file of it; a key holds their digests.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lib.ground.cache import PARTIAL, Artifact, save_arrays, stage
from lib.ground.setups import Setup, setup_named
from lib.scale import hub, streams
from lib.scale.crew import in_crew
from lib.scale.launch import Machines, launched, machines
from lib.scale.tasks import TASKS

UNSEEN = ("upkeep", "batch")  # keys of a config that change nothing but speed, memory and what is reported
MEMORY = ("micro_batch", "gradient_checkpointing", "ema_offload")  # options of training likewise


@dataclass(frozen=True)
class File:
    """A file in an artifact's folder."""

    artifact: Artifact
    name: str


def launched_stage(
    task: str, setup: str, config: Mapping, on: Machines | None = None, tell: Callable[[str], None] = print
) -> Artifact:  # fmt: skip
    """The stage of a task of `lib.scale.tasks` for the setup of this name or path; its files are what the task describes."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: expected one of {', '.join(TASKS)}")
    found = setup_named(setup)

    on = on or machines()
    stay = [in_crew] if os.environ.get("STUDY_STAY") and on.hosts == 1 else []

    def make(folder: Path) -> None:
        launched(task, {**as_paths(config, folder / PARTIAL / "given"), "setup": str(setup)}, folder, on, tell, *stay)

    spec = {"config": as_digests({k: v for k, v in config.items() if k not in UNSEEN}), "setup": decisive(task, found)}
    return stage(f"scale-{task}", spec, {}, make, ("lib.scale.worker",))


def decisive(task: str, setup: Setup) -> dict:
    """What of a setup decides the result of a task, as plain values; models and data by their contents."""
    training = {k: v for k, v in asdict(setup.training).items() if k not in MEMORY}
    if task in ("embed", "preference"):
        model = hub.weights_digest(hub.load_clip(setup.clip)[0])
        return {"clip": model, **({"training": training} if task == "preference" else {})}
    if task == "evaluate":
        return {"fidelity": asdict(setup.fidelity)}
    shared = {"model": hub.model_digest(setup.model), "sampling": asdict(setup.sampling), "training": training}
    if task == "latents":
        files = [[p.name, p.stat().st_size] for p in streams.shard_paths(setup.pairs)] if setup.pairs.paths else []
        return shared | {"pairs": asdict(setup.pairs) | {"paths": files}}
    return shared


def as_digests(value):
    """A config with digests in place of artifacts, files and arrays."""
    if isinstance(value, Mapping):
        return {k: as_digests(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_digests(v) for v in value]
    if isinstance(value, File):
        return [value.artifact.digest, value.name]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    return value.digest if isinstance(value, Artifact) else value


def as_paths(value, folder: Path):
    """A config with paths in place of artifacts and files, and of arrays, which are written under a folder (as `array`)."""
    if isinstance(value, Mapping):
        return {k: as_paths(v, folder / k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_paths(v, folder / str(i)) for i, v in enumerate(value)]
    if isinstance(value, np.ndarray):
        folder.mkdir(parents=True, exist_ok=True)
        save_arrays(path := folder / "array.safetensors", {"array": value})
        return str(path)
    if isinstance(value, File):
        return str(value.artifact.path / value.name)
    return str(value.path) if isinstance(value, Artifact) else value
