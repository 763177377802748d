"""One update and one image with random weights of Stable Diffusion v1's shape: `python -m lib.scale.measure [--shape true]`.

Writes time, peak memory and operations to `measured/<shape>.json` in the cache, against which notebook 90 checks its
arithmetic; ours are in data/setups/measured. At its true size on a CPU it takes 17 GB and several minutes: float32, gradient
checkpointing, micro-batches of 1, no moving average.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lib.ground.cache import save_json
from lib.ground.paths import CACHE
from lib.ground.setups import FOLDER, Sampling, Setup, Training
from lib.methods.training import sent
from lib.scale import blank, budget, unets
from lib.scale.drawing import Drawing, drawn
from lib.scale.draws import items
from lib.scale.halves import DTYPES, halve_frozen
from lib.scale.tuning import Tuning, Upkeep, micro_batches
from lib.scale.worker import accelerator_of

RESOLUTION = {"true": 512, "tiny": 64}
PLACES = (CACHE / "measured", FOLDER / "measured")  # what was measured here, and by us


@dataclass(frozen=True)
class Noise:
    """Random latents with captions, in place of encoded images."""

    shape: tuple[int, int, int]
    count: int = 8

    def __len__(self) -> int:
        return self.count

    def latents(self, rows: Sequence[int]) -> torch.Tensor:
        """Standard normal latents of some rows, float32 [row, channel, height, width]."""
        return torch.stack([torch.randn(self.shape, generator=torch.Generator().manual_seed(r)) for r in rows])

    def captions(self, rows: Sequence[int]) -> list[str]:
        """Captions of some rows."""
        return [f"a photograph of number {r}" for r in rows]


def measured(shape: str, batch: int = 4, steps: int = 2, precision: str = "fp32") -> dict:
    """Seconds and operations of one update (its global batch in micro-batches of 1) and of one image, and peak memory."""
    setup = setup_of({"shape": shape, "steps": steps, "precision": precision})
    accelerator = accelerator_of(setup)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        torch.manual_seed(0)
        pipe = blank.blank_pipeline(Path(folder), shape).to(accelerator.device)
        image = timed(lambda: list(drawn(pipe, ["a dog"], [0], Drawing.of(setup, {}), 1)))
        trainable(pipe, setup.training)
        update = timed(one_update(accelerator, pipe, setup.training, batch, Path(folder)))
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _peak()
    return {
        "shape": shape, "batch": batch, "steps": steps, "precision": precision, "device": accelerator.device.type,
        "threads": torch.get_num_threads(), "torch": torch.__version__, "peak_bytes": peak,
        **{f"image_{k}": v for k, v in image.items()}, **{f"update_{k}": v for k, v in update.items()},
    }  # fmt: skip


def setup_of(found: dict) -> Setup:
    """The setup that a measurement is of, for its arithmetic."""
    how = Sampling(RESOLUTION[found["shape"]], 7.5, "pndm", found["steps"], found["steps"])
    training = Training(found["precision"], "even", micro_batch=1, gradient_checkpointing=True)
    return replace(Setup(), sampling=how, training=training)


def one_update(accelerator, pipe, training: Training, batch: int, folder: Path) -> Callable[[], None]:
    """A function that does one update of what learns in the U-Net on random latents."""
    shape = (pipe.unet.config.in_channels, pipe.unet.config.sample_size, pipe.unet.config.sample_size)
    loss = unets.Loss(pipe, [unets.Stream(Noise(shape))], [1 / batch], unets.EMPTY, training)
    tuning = Tuning(accelerator, pipe.unet, "measured", folder, training, Upkeep())

    def update() -> None:
        drawn = items([8], [batch], shape, pipe.scheduler.config.num_train_timesteps, "even", [torch.Generator()])
        arrays = loss.batch(drawn)
        parts = [[sent(x[here], accelerator.device) for x in arrays] for here in micro_batches(batch, training.micro_batch)]
        tuning.update((lambda p=p: loss(tuning.network, *p) for p in parts), 1e-5)

    return update


def trainable(pipe, training: Training) -> None:
    """Make ready what the options train: the whole U-Net in float32, or a LoRA on it; the rest is frozen in half."""
    halve_frozen(pipe, DTYPES[training.precision])
    if training.lora_rank:
        unets.add_lora(pipe.unet, training.lora_rank, DTYPES[training.precision])
    else:
        pipe.unet.requires_grad_(True)
    pipe.unet.train()
    if training.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()


class Operations(TorchDispatchMode):
    """Counts operations by PyTorch's own formulas, in `total`. (`FlopCounterMode` also follows modules, and while it does so
    keeps the activations of every backward pass: 10 GB too many here.)"""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Seconds that `work` takes, seconds of the CPU's threads in them (on a machine shared with others, divided by their
    number, they say what it would take alone), and its operations as PyTorch counts them while it runs."""
    with Operations() as counter:
        start, busy = time.perf_counter(), time.process_time()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return {"seconds": round(seconds, 3), "cpu_seconds": round(busy, 3), "operations": counter.total}


def kept() -> list[dict]:
    """All measurements, the reader's before ours of the same shape; raises FileNotFoundError if there are none."""
    found = {p.stem: p for place in reversed(PLACES) for p in sorted(place.glob("*.json"))}
    if not found:
        raise FileNotFoundError(f"nothing was measured in {PLACES[0]}: run `python -m lib.scale.measure`")
    return [json.loads(found[shape].read_text("utf-8")) for shape in RESOLUTION if shape in found]


def beside(found: dict) -> dict:
    """A measurement beside the arithmetic: its operations as shares of it, the update's rate, and the peak memory.

    A CPU's rate is that of its threads while they ran: what other work took of a shared machine does not count.
    """
    setup, n = setup_of(found), budget.networks(found["shape"], RESOLUTION[found["shape"]])
    update, image = budget.update_operations(n, setup.training, found["batch"]), budget.image_operations(n, setup.sampling)
    busy = found["update_cpu_seconds"] / found["threads"] if found["device"] == "cpu" else found["update_seconds"]
    return {
        "shape": found["shape"],
        "update counted": found["update_operations"] / update,
        "image counted": found["image_operations"] / image,
        "GFLOP/s": found["update_operations"] / busy / 1e9,
        "GB": found["peak_bytes"] / 1e9,
    }


def _peak() -> int:
    """Peak resident memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> int:
    """Measure and write the file; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(RESOLUTION), default="tiny")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    options = parser.parse_args()
    found = measured(options.shape, precision=options.precision)
    save_json(PLACES[0] / f"{options.shape}.json", found)
    for name, value in found.items():
        print(f"{name:18} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
