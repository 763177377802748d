"""Updates of a network in several processes: the mean over the global batch, however it is shared out and cut into parts.

Trained weights stay float32 (Micikevicius et al. 2018) and run under autocast in bfloat16 or float16; what is frozen may be
half (`lib.scale.halves`). Each process sums the weighted losses of its items, micro-batch by micro-batch; their weights are
divided by the size of the global batch beforehand, so that neither processes nor micro-batches change the mean.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lib.ground.domains import check
from lib.ground.setups import Training
from lib.methods.training import adamw, move
from lib.scale import checkpoints
from lib.scale.checkpoints import Checkpoints

MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # accelerate's names
TRACKERS = ("", "tensorboard", "wandb", "comet_ml", "mlflow", "aim", "clearml", "dvclive", "swanlab", "trackio")


@dataclass(frozen=True)
class Upkeep:
    """What a run does besides learning; it changes nothing about the result."""

    every: int = 500  # updates between checkpoints
    most: int = 2  # checkpoints kept, the newest
    look: int = 10  # updates between checks that the loss is finite: each waits for the GPU
    validate: int = 0  # updates between grids of validation images; 0: none
    tracker: str = ""  # accelerate's name of one, such as tensorboard; empty: none

    def __post_init__(self):
        check(self, "at least 1", validate="at least 0", tracker="")
        if self.tracker not in TRACKERS:
            raise ValueError(f"unknown tracker {self.tracker!r}: expected one of {', '.join(TRACKERS[1:])}, or nothing")


def optimiser_of(parameters: list[nn.Parameter], rate: float, training: Training, weight_decay: float = 1e-2):
    """AdamW on float32 weights or, if the setup says so, its 8-bit variant (Dettmers et al. 2022), which changes results."""
    if any(p.dtype != torch.float32 for p in parameters):
        raise ValueError("trained weights must be float32: updates of a half would be rounded away")
    if not training.eight_bit_adam:
        return adamw(parameters, rate, weight_decay)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ValueError("eight_bit_adam needs the package bitsandbytes: install it, or set it to false") from None
    return AdamW8bit(parameters, lr=rate, weight_decay=weight_decay)


class Average:
    """A moving average of weights, float32, by one call for all of them; with `offload` in the CPU's memory."""

    def __init__(self, parameters: Mapping[str, Tensor], offload: bool = False):
        self.parameters, self.offload = parameters, offload
        self.means = {n: p.detach().to("cpu" if offload else p.device, copy=True) for n, p in parameters.items()}

    @torch.no_grad()
    def update(self, share: float) -> None:
        """Move by `share`, in [0, 1], towards the weights."""
        now = [(m, self.parameters[n].detach().to(m.device)) for n, m in self.means.items()]
        move(now, share)


class Tuning:
    """A network's training in this and the other processes; `what` names it in messages, `folder` holds its checkpoints.

    `network` may have frozen parameters; those with gradients are trained. With `average`, a moving average is kept.
    """

    def __init__(
        self, accelerator, network: nn.Module, what: str, folder: Path, training: Training, upkeep: Upkeep, *,
        weight_decay: float = 1e-2, clip: float | None = 1.0, average: bool = False,
    ):  # fmt: skip
        self.accelerator, self.what, self.upkeep, self.clip = accelerator, what, upkeep, clip
        self.weights = {n: p for n, p in network.named_parameters() if p.requires_grad}
        self.optimiser = optimiser_of(list(self.weights.values()), 0.0, training, weight_decay)
        self.average = Average(self.weights, training.ema_offload) if average else None
        self.checkpoints, self.done = Checkpoints(folder, upkeep.most), 0
        self.total = torch.zeros((), device=accelerator.device)  # losses since the last look, on this process
        self._resume()
        self.network = accelerator.prepare(network)  # after the weights were loaded: processes start from the main one's
        self.stepper = accelerator.prepare(self.optimiser)
        self.mean, self.looked, self.first, self.started = 0.0, self.done, self.done, time.monotonic()

    def update(self, losses: Iterable[Callable[[], Tensor]], rate: float, share: float = 0.0) -> None:
        """One update: each of `losses` gives a micro-batch's part of the global mean; together with those of the other
        processes they sum to it. The moving average goes by `share` towards the new weights."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        for loss, last in with_last(losses):
            with self._alone(last):
                value = loss()
                self.accelerator.backward(value * self.accelerator.num_processes)  # gradients are averaged over processes
            self.total += value.detach()
        if self.clip is not None:
            self.accelerator.clip_grad_norm_(self.weights.values(), self.clip)
        self.stepper.step()
        if self.average:
            self.average.update(share)
        self.done += 1

    def upkeep_due(self, updates: int, tell: Callable[[str], None]) -> None:
        """After each update: look at the loss, report, and keep a checkpoint, when due; the last of `updates` is checked."""
        last, kept = self.done == updates, self.done % self.upkeep.every == 0
        if last or kept or self.done % self.upkeep.look == 0:
            loss = self.look()
            speed = (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)
            self.accelerator.log({"loss": loss, "updates per second": speed}, step=self.done)
            if kept and not last:
                self.save()
                tell(f"{self.what}: update {self.done} of {updates}, loss {loss:.4f}")

    def look(self) -> float:
        """The mean loss of the updates since the last look, over all processes; ValueError if it is not finite."""
        if self.done > self.looked:
            total = float(self.accelerator.reduce(self.total, reduction="sum"))
            self.mean, self.looked = total / (self.done - self.looked), self.done
            self.total.zero_()
        if not math.isfinite(self.mean):
            raise ValueError(f"the {self.what} loss is {self.mean} by update {self.done}: lower the learning rate")
        return self.mean

    def save(self) -> None:
        """Keep a checkpoint of the trained weights, their average and the optimiser."""
        scaler = self.accelerator.scaler
        tensors = {"weights": self.weights, "optimiser": checkpoints.optimiser_tensors(self.optimiser)}
        tensors |= {"average": self.average.means} if self.average else {}
        self.checkpoints.save(self.accelerator, self.done, tensors, {"scaler": scaler.state_dict() if scaler else {}})

    @torch.no_grad()
    def _resume(self) -> None:
        if (path := self.checkpoints.newest(self.accelerator)) is None:
            return
        groups = [("weights", self.weights)] + ([("average", self.average.means)] if self.average else [])
        for name, here in groups:
            for key, value in checkpoints.tensors(path, name).items():
                here[key].copy_(value)
        checkpoints.load_optimiser(self.optimiser, checkpoints.tensors(path, "optimiser"))
        numbers = checkpoints.numbers(path)
        self.done = numbers["update"]
        if self.accelerator.scaler and numbers["scaler"]:
            self.accelerator.scaler.load_state_dict(numbers["scaler"])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Context in which the network has its averaged weights, if there are any."""
        own = {n: w.detach().clone() for n, w in self.weights.items()} if self.average else {}
        with torch.no_grad():
            for name in own:
                self.weights[name].copy_(self.average.means[name])
            yield
            for name, weight in own.items():
                self.weights[name].copy_(weight)

    def _alone(self, last: bool):
        """Gradients are exchanged between processes with the last micro-batch only."""
        return nullcontext() if last else self.accelerator.no_sync(self.network)


def with_last(things: Iterable) -> Iterator[tuple[object, bool]]:
    """Each thing, with whether it is the last; one thing ahead at most is drawn."""
    things = iter(things)
    try:
        now = next(things)
    except StopIteration:
        return
    for coming in things:
        yield now, False
        now = coming
    yield now, True


def micro_batches(count: int, size: int) -> list[slice]:
    """Slices of at most `size` that cover `count` items; size 0: one slice."""
    size = size or max(1, count)
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]


def ahead(make: Callable[[int], object], numbers: Sequence[int]) -> Iterator[tuple[int, object]]:
    """Each number with what `make` gives for it, made while the one before is being used."""
    with ThreadPoolExecutor(1) as pool:
        coming = None
        for i, number in enumerate(numbers):
            now = coming or pool.submit(make, number)
            coming = pool.submit(make, numbers[i + 1]) if i + 1 < len(numbers) else None
            yield number, now.result()


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights as safetensors in their own precision, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {n: w.detach().cpu().contiguous(memory_format=torch.contiguous_format) for n, w in weights.items()}
    save_file(plain, new := path.with_suffix(".partial"), {"format": "pt"})
    new.replace(path)


def plain(spec) -> dict:
    """A spec's fields, for a tracker: numbers, strings and booleans."""
    return {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in asdict(spec).items()}
