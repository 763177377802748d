"""What all pre-training runs share: Muon, one resumable loop, float16 safetensors and a model card."""

import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from lib.ground import checkpoint
from lib.ground.paths import CACHE
from lib.ground.precision import DEVICE, FAST_BFLOAT16
from lib.methods.training import Updates


def orthogonalise(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """The nearest semi-orthogonal matrices [matrix, rows, columns], by the quintic Newton-Schulz iteration (Jordan 2024)."""
    x = matrices.to(torch.bfloat16 if FAST_BFLOAT16 else torch.float32)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum on convolution and linear weights, reshaped to [out, in x height x width].

    `torch.optim.Muon` takes matrices only. All other weights use AdamW. Learning rates may be tensors, and nothing waits for
    a GPU, so that a CUDA graph can contain a step. Each weight must get gradients from its group's first step on, or never.
    """

    def __init__(self, module: torch.nn.Module, lr: float = 0.02, adam_lr: float = 2e-3, weight_decay: float = 0.01):
        matrices, rest = [], []
        for part in module.modules():
            for name, p in part.named_parameters(recurse=False):
                matrix = isinstance(part, torch.nn.Conv2d | torch.nn.Linear) and name == "weight"
                (matrices if matrix and p.requires_grad else rest).append(p)
        rest = [p for p in rest if p.requires_grad]
        groups = [
            dict(params=matrices, muon=True, lr=lr, base_lr=lr, weight_decay=weight_decay),
            dict(params=rest, muon=False, lr=adam_lr, base_lr=adam_lr, weight_decay=0.0),
        ]
        super().__init__([g for g in groups if g["params"]], {})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            if not (learning := [p for p in group["params"] if p.grad is not None]):
                continue
            torch._foreach_mul_(learning, 1 - group["lr"] * group["weight_decay"])
            moved = (self.orthogonalised if group["muon"] else self.adaptive)(learning)
            torch._foreach_mul_(moved, -group["lr"])
            torch._foreach_add_(learning, moved)

    def kept(self, parameters: list[torch.nn.Parameter], name: str) -> list[torch.Tensor]:
        """The optimiser state of this name for each parameter, initially zeros."""
        for p in parameters:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in parameters]

    def orthogonalised(self, parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
        """The direction of each weight; weights of one shape are processed together."""
        gradients, momenta = [p.grad for p in parameters], self.kept(parameters, "m")
        torch._foreach_mul_(momenta, 0.95)
        torch._foreach_add_(momenta, gradients)
        ahead, alike, out = torch._foreach_add(gradients, momenta, alpha=0.95), defaultdict(list), [None] * len(parameters)
        for i, update in enumerate(ahead):
            alike[len(update), update[0].numel()].append(i)
        for (rows, columns), places in alike.items():
            found = orthogonalise(torch.stack([ahead[i].reshape(rows, columns) for i in places]))
            for i, direction in zip(places, found * max(1.0, rows / columns) ** 0.5, strict=True):
                out[i] = direction.reshape(parameters[i].shape)
        return out

    def adaptive(self, parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
        """AdamW's direction for each weight: betas (0.9, 0.99), eps 1e-8."""
        gradients, means, squares = [p.grad for p in parameters], self.kept(parameters, "m"), self.kept(parameters, "v")
        if "t" not in (first := self.state[parameters[0]]):
            first["t"] = means[0].new_zeros(())
        steps = first["t"].add_(1)
        torch._foreach_lerp_(means, gradients, 0.1)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 0.01)
        roots = torch._foreach_sqrt(torch._foreach_div(squares, 1 - 0.99**steps))
        torch._foreach_add_(roots, 1e-8)
        directions = torch._foreach_div(means, roots)
        torch._foreach_div_(directions, 1 - 0.9**steps)
        return directions


def checkpoint_of(name: str) -> Path:
    """The checkpoint file of the training run of this name."""
    return CACHE / "pretrain" / name / "checkpoint.safetensors"


def train(
    name: str,
    module: torch.nn.Module,
    draw: Callable[[int], Sequence[torch.Tensor]],
    loss: Callable[..., torch.Tensor],
    steps: int,
    *,
    minutes: float | None = None,
    lr: float = 0.02,
    adam_lr: float = 2e-3,
    average: float = 0.998,
    log: Callable[[], str] | None = None,
    every: int = 200,
) -> torch.nn.Module:
    """Minimise `loss(*draw(step))` for `steps` updates or until `minutes` are spent; returns `module` with averaged weights.

    The learning rate rises over 2 % of the run and falls linearly to zero. All randomness in `draw` must depend on its step,
    so that a killed run can resume from its last checkpoint (one per minute, under the cache). `loss` may depend only on
    what is drawn and on the module, because a GPU replays it (`lib.methods.training`). Under `torchrun` each process draws
    its own batches and gradients are averaged: on a CPU, two processes with one thread each are almost twice as fast as one
    process with two.
    """
    rank, world = processes()
    path = checkpoint_of(name)
    optimiser = Muon(module, lr, adam_lr)
    module.train()
    ema = {k: v.detach().clone() for k, v in module.state_dict().items()}
    before = checkpoint.resume(path, module, optimiser, ema)
    done, spent = int(before.get("step", 0)), before.get("seconds", 0.0)
    updates = Updates(module, optimiser, loss, name, done, averages=ema, before_step=partial(average_gradients, module))
    started = saved = time.monotonic()
    running = None
    while done < steps:
        elapsed = spent + time.monotonic() - started
        progress = agreed(max(done / steps, 0.0 if minutes is None else elapsed / max(60 * minutes, 1e-9)))
        if progress >= 1:
            break
        factor = min(1.0, (progress + 1e-4) / 0.02) * (1 - progress)
        batch, rates = draw(world * done + rank), [group["base_lr"] * factor for group in optimiser.param_groups]
        done += 1
        updates(batch, rates, 1 - min(average, (1 + done) / (10 + done)))
        running = updates.last.clone() if running is None else running.lerp(updates.last, 0.02)
        if rank == 0 and done % every == 0:
            rate = done / max(elapsed, 1e-9)
            said = f"{name}: update {done}, loss {running:.4f}, {rate:.2f} updates/s, {progress:.0%} done"
            print(", ".join([said, *([log()] if log else [])]), flush=True)
        if rank == 0 and time.monotonic() - saved > 60:
            saved = time.monotonic()
            updates.check()
            checkpoint.save(path, module, optimiser, ema, step=done, seconds=spent + saved - started)
    updates.check()
    if rank == 0:
        checkpoint.save(path, module, optimiser, ema, step=done, seconds=spent + time.monotonic() - started)
    module.load_state_dict(ema)
    return module.eval()


def processes() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if DEVICE.type == "cuda" else "gloo")
    return dist.get_rank(), dist.get_world_size()


def agreed(value: float) -> float:
    """Rank 0's value, on every rank."""
    if processes()[1] == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=DEVICE)
    dist.broadcast(shared, 0)
    return float(shared)


def average_gradients(module: torch.nn.Module) -> None:
    """Average the gradients of all processes, in place."""
    world = processes()[1]
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if world == 1:
        return
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for g, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        g.copy_(part.view(g.shape) / world)


def spent(name: str) -> dict:
    """Updates, minutes and machine of a finished run, for its model card."""
    meta = checkpoint.numbers(checkpoint_of(name))
    where = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return {
        "updates": int(meta["step"]), "minutes": round(meta["seconds"] / 60, 1),
        "machine": f"{where}, {platform.machine()}", "precision": "bfloat16" if FAST_BFLOAT16 else "float32",
    }  # fmt: skip


def halve(path: Path) -> None:
    """Rewrite a safetensors file with its floating-point tensors in float16."""
    tensors = {k: v.half() if v.dtype.is_floating_point else v for k, v in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})


def write_card(folder: Path, card: dict) -> None:
    """Write a model card: how the model was made and how good it is, as JSON beside its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", "utf-8")
