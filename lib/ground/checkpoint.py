"""Checkpoints of a training run: one safetensors file, replaced whole, from which the run goes on as if never stopped."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def save(path: Path, module: torch.nn.Module, optimiser: torch.optim.Optimizer, ema: dict, **meta: float) -> None:
    """Write weights, their moving averages, the optimiser's state and some numbers, such as the updates done."""
    tensors = {f"model.{k}": v for k, v in module.state_dict().items()} | {f"ema.{k}": v for k, v in ema.items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{k}": v for k, v in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    copies = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    new = path.with_suffix(".new")
    save_file(copies, new, {k: str(v) for k, v in meta.items()})
    new.replace(path)


def resume(path: Path, module: torch.nn.Module, optimiser: torch.optim.Optimizer, ema: dict) -> dict[str, float]:
    """Load what `save` wrote, in place; returns its numbers, or none when there is no checkpoint.

    What goes with a weight gets its layout in memory, as it had before: on a GPU a fused optimiser takes no other.
    """
    if not path.exists():
        return {}
    tensors = load_file(path, device=str(next(module.parameters()).device))
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
    return numbers(path)


def numbers(path: Path) -> dict[str, float]:
    """The numbers kept with a checkpoint."""
    with safe_open(path, "pt") as file:
        return {k: float(v) for k, v in file.metadata().items()}
