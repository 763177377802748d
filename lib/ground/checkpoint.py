"""Checkpoints of training runs and of long stages made in parts, from which killed work resumes as if never interrupted.

Each is a safetensors file preceded by a checksum and replaced atomically; a damaged one is deleted with a warning, and its
contents are made again.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from safetensors.torch import load
from safetensors.torch import save as serialised

from lib.ground.cache import PARTIAL, keep, kept


def save(path: Path, module: torch.nn.Module, optimiser: torch.optim.Optimizer, ema: dict, **meta: float) -> None:
    """Write the weights, their moving averages, the optimiser's state and some numbers, such as the updates done."""
    tensors = {f"model.{k}": v for k, v in module.state_dict().items()} | {f"ema.{k}": v for k, v in ema.items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{k}": v for k, v in state.items()}
    copies = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    keep(path, serialised(copies, {k: str(v) for k, v in meta.items()}))


def resume(path: Path, module: torch.nn.Module, optimiser: torch.optim.Optimizer, ema: dict) -> dict[str, float]:
    """Load what `save` wrote, in place; returns its numbers, or an empty dictionary when there is no intact checkpoint.

    Optimiser state of a weight's shape gets that weight's memory layout, as before: a fused optimiser on a GPU requires it.
    """
    if (content := kept(path)) is None:
        return {}
    device = next(module.parameters()).device
    tensors = {k: v.to(device) for k, v in load(content).items()}
    module.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    for k, mean in ema.items():
        mean.copy_(tensors[f"ema.{k}"])
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    states: dict[int, dict] = {}
    for key, v in tensors.items():
        if key.startswith("optimiser."):
            _, i, name = key.split(".")
            p = parameters[int(i)]
            states.setdefault(int(i), {})[name] = torch.empty_like(p).copy_(v) if v.shape == p.shape else v
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
    return _numbers(content)


def numbers(path: Path) -> dict[str, float]:
    """The numbers stored with a checkpoint, or an empty dictionary when there is no intact one."""
    content = kept(path)
    return {} if content is None else _numbers(content)


def _numbers(content: bytes) -> dict[str, float]:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {k: float(v) for k, v in header["__metadata__"].items()}


def in_parts(folder: Path, count: int, size: int, part: Callable[[slice], np.ndarray]) -> np.ndarray:
    """What `part` makes of `count` items, `size` at a time, concatenated; each part is kept in the stage's `folder`."""
    parts = []
    for first in range(0, count, size):
        path = folder / PARTIAL / f"{first:06d}-{size}.safetensors"
        if (content := kept(path)) is None:
            made = np.ascontiguousarray(part(slice(first, min(first + size, count))))
            keep(path, content := safetensors.numpy.save({"part": made}))
        parts.append(safetensors.numpy.load(content)["part"])
    return np.concatenate(parts)
