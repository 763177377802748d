"""Training updates as one function of fixed tensors: replayed as a CUDA graph on a GPU, called directly elsewhere.

With networks as small as the study's, a GPU mostly waits for small kernels to be launched: with 256 + 256 images,
fine-tuning made 12 updates per second on an H100, but 63 when a whole update (forward and backward pass, clipping, AdamW,
moving average) was captured once and replayed. The CPU waits for the GPU only to check the loss.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lib.ground.precision import DEVICE

EVERY = 50 if DEVICE.type == "cpu" else 1_000  # updates between checkpoints: about half a minute
LOOK = 50  # replayed updates between checks that the losses were finite: each check waits for the GPU
MOST_GRAPHS = 4  # shapes of batches that are captured; batches of further shapes are run directly

Replay = Callable[[], None]


def adamw(parameters: Iterable[nn.Parameter], rate: float, weight_decay: float = 1e-2) -> torch.optim.AdamW:
    """AdamW with PyTorch's betas (0.9, 0.999) and eps (1e-8); on a GPU fused, with its step counts there."""
    on_gpu = DEVICE.type == "cuda"
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay, fused=on_gpu or None, capturable=on_gpu)


def sent(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; copies from the CPU to a GPU are asynchronous."""
    pinned = x.device.type == "cpu" and device.type == "cuda"
    return (x.pin_memory() if pinned else x).to(device, non_blocking=pinned)


def cuda_graph(body: Callable[[], None]) -> Replay:
    """What `body` launches on the GPU, as one CUDA graph. `body` first runs three times, as PyTorch requires."""
    here, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(here)
    with torch.cuda.stream(side):
        for _ in range(3):
            body()
    here.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay


class Updates:
    """Updates of a module by an optimiser: each is one call with a batch of tensors, which `loss` maps to a number.

    `loss` may depend only on the batch and the module, and must not wait for the GPU; `before_step` acts on the gradients,
    for instance to clip them. `averages` are moving averages by names in the module's state, changed in place. `what` names
    the run in errors; `done` is the number of updates already made in an earlier part of it. `capture` turns a function into
    a replay; with None it is called directly. Load checkpoints first: from here on the tensors stay the same objects.
    """

    def __init__(
        self, module: nn.Module, optimiser: torch.optim.Optimizer, loss: Callable[..., Tensor], what: str, done: int = 0, *,
        before_step: Callable[[], object] = lambda: None, averages: Mapping[str, Tensor] | None = None,
        capture: Callable[[Callable[[], None]], Replay] | None = cuda_graph if DEVICE.type == "cuda" else None,
    ):  # fmt: skip
        self.optimiser, self.loss, self.what, self.before_step, self.capture = optimiser, loss, what, before_step, capture
        self.state, self.averages = module.state_dict(), dict(averages or {})
        self.device = next(module.parameters()).device
        self.done, self.count = done, torch.tensor(done, device=self.device)
        self.last = torch.zeros((), device=self.device)  # the loss of the last update
        self.failed = torch.tensor([-1.0, 0.0], dtype=torch.float64, device=self.device)  # first non-finite update, its loss
        self.graphs: dict[tuple, tuple[list[Tensor], Replay]] = {}
        self.share: float | Tensor = 0.0
        if capture:  # values that change between updates must be in tensors
            self.share = torch.zeros((), device=self.device)
            for group in optimiser.param_groups:
                group["lr"] = torch.tensor(group["lr"], device=self.device)

    def __call__(self, batch: Sequence[Tensor], rates: Sequence[float], share: float = 0.0) -> None:
        """One update with learning rates `rates` of the optimiser's groups; averages move by `share` to the new weights.

        Raises ValueError if a loss was not finite: at once, or for replayed updates in the next `check`.
        """
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = written(group["lr"], rate)
        self.share = written(self.share, share)
        batch = [sent(x, self.device) for x in batch]
        held, replay = self._graph(batch) if self.capture else (batch, None)
        if replay:
            for fixed, x in zip(held, batch, strict=True):
                fixed.copy_(x)
            replay()
        else:
            self._update(batch)
        self.done += 1
        if not replay or self.done % LOOK == 0:
            self.check()

    def check(self) -> float:
        """The loss of the last update; raises ValueError if the loss of any update was not finite. Waits for the GPU."""
        update, loss = self.failed.tolist()
        if update >= 0:
            raise ValueError(f"the {self.what} loss is {loss} at update {update:.0f}: lower the learning rate")
        return self.last.item()

    def _update(self, batch: Sequence[Tensor]) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss(*batch)
        loss.backward()
        self.before_step()
        self.optimiser.step()
        with torch.no_grad():
            move([(mean, self.state[name]) for name, mean in self.averages.items()], self.share)
            self.last.copy_(loss)
            first = (self.failed[0] < 0) & ~self.last.isfinite()
            self.failed.copy_(torch.where(first, torch.stack([self.count.double(), self.last.double()]), self.failed))
            self.count += 1

    def _graph(self, batch: list[Tensor]) -> tuple[list[Tensor], Replay | None]:
        """Tensors that hold a batch of this shape, and the update on them (None: no graph)."""
        shape = tuple((x.shape, x.stride(), x.dtype) for x in batch)
        if shape not in self.graphs and len(self.graphs) < MOST_GRAPHS:
            held, before = [x.clone() for x in batch], self._saved()
            try:
                self.graphs[shape] = held, self.capture(lambda: self._update(held))
            except RuntimeError as error:
                self.capture = None
                print(f"no CUDA graph of {self.what}, so updates run without one: {str(error).splitlines()[0]}")
            self._restore(before)
        return self.graphs.get(shape, (batch, None)) if self.capture else (batch, None)

    def _changing(self) -> dict:
        """All tensors that an update changes, by location."""
        inner = {(id(p), k): v for p, state in self.optimiser.state.items() for k, v in state.items()}
        return inner | self.state | {("mean", k): v for k, v in self.averages.items()} | {
            "last loss": self.last, "failed update": self.failed, "updates done": self.count}  # fmt: skip

    def _saved(self) -> dict:
        return {place: x.clone() for place, x in self._changing().items()}

    @torch.no_grad()
    def _restore(self, before: dict) -> None:
        """Undo the updates since `before`; new optimiser state is set to zeros, its initial value."""
        for place, x in self._changing().items():
            x.copy_(before[place]) if place in before else x.zero_()


def written(place: float | Tensor, value: float) -> float | Tensor:
    """The value, written into the tensor if `place` is one, so that a graph finds it."""
    return place.fill_(value) if isinstance(place, Tensor) else value


def move(pairs: Sequence[tuple[Tensor, Tensor]], share: float | Tensor) -> None:
    """Move the first tensor of each pair by `share`, in [0, 1], towards the second, in place; integer tensors are copied."""
    means, targets = ([pair[i] for pair in pairs if pair[0].is_floating_point()] for i in (0, 1))
    if means and not isinstance(share, Tensor):
        torch._foreach_lerp_(means, targets, share)
    elif means:
        gaps = torch._foreach_sub(targets, means)
        torch._foreach_mul_(gaps, share)
        torch._foreach_add_(means, gaps)
    for mean, target in pairs:
        if not mean.is_floating_point():
            mean.copy_(target)
