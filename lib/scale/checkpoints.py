"""Checkpoints of a training run in several processes: weights, optimiser, moving average and the number of the update.

They do not depend on the number of processes, which may change between a kill and the resumption. (Those of `accelerate`
name weights after their wrapper, which differs with that number.) Everything random is drawn from the number of the update.
Each checkpoint is a folder with a manifest of SHA-256 sums, complete or absent; only the newest are kept.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib.ground.cache import file_digests, save_json, sealed


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a folder, of which the newest `most` are kept."""

    folder: Path
    most: int = 2

    def save(self, accelerator, update: int, tensors: Mapping[str, Mapping[str, Tensor]], numbers: Mapping) -> None:
        """Write named groups of tensors and plain numbers after this many updates. The main process writes, all wait."""
        if accelerator.is_main_process:
            new, old = self.folder / f"{update:08d}.partial", self.folder / f"{update:08d}"
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            for name, group in tensors.items():
                save_file({k: v.detach().contiguous() for k, v in group.items()}, new / f"{name}.safetensors")
            save_json(new / "numbers.json", {"update": update, **numbers})
            (new / "manifest.json").write_text(sealed({"files": file_digests(new)}))
            shutil.rmtree(old, ignore_errors=True)
            new.rename(old)
            for surplus in self.found()[: -self.most]:
                shutil.rmtree(surplus)
        accelerator.wait_for_everyone()

    def found(self) -> list[Path]:
        """Folders of the checkpoints, oldest first."""
        return sorted(p for p in self.folder.glob("[0-9]*") if p.is_dir() and p.name.isdigit())

    def newest(self, accelerator) -> Path | None:
        """The newest intact checkpoint, the same on all processes; damaged ones are deleted with a warning."""
        place = [None]
        if accelerator.is_main_process:
            for left in self.folder.glob("*.partial"):
                shutil.rmtree(left)
            for path in reversed(self.found()):
                if _intact(path):
                    place = [str(path)]
                    break
                print(f"checkpoint {path} is damaged: going back to the one before", file=sys.stderr)
                shutil.rmtree(path)
        (path,) = broadcast_object_list(place) if accelerator.num_processes > 1 else place
        return path and Path(path)


def numbers(path: Path) -> dict:
    """The plain numbers of a checkpoint, among them `update`."""
    return json.loads((path / "numbers.json").read_text())


def tensors(path: Path, name: str) -> dict[str, Tensor]:
    """A group of tensors of a checkpoint, on the CPU."""
    return load_file(path / f"{name}.safetensors")


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors."""
    state = optimiser.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v) for i, of_one in state.items() for k, v in of_one.items()}


def load_optimiser(optimiser: torch.optim.Optimizer, named: Mapping[str, Tensor]) -> None:
    """Load what `optimiser_tensors` gave. State of a weight's shape gets that weight's memory layout, as before."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    states: dict[int, dict] = {}
    for key, value in named.items():
        i, name = int(key.split(".")[0]), key.split(".")[1]
        p = parameters[i]
        like = value.shape == p.shape
        states.setdefault(i, {})[name] = torch.empty_like(p, dtype=value.dtype).copy_(value) if like else value
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})


def _intact(path: Path) -> bool:
    try:
        text = (path / "manifest.json").read_text()
        manifest = json.loads(text)
        return text == sealed(manifest) and manifest["files"] == file_digests(path)
    except (OSError, ValueError, KeyError):
        return False
