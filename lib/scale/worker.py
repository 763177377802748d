"""One process of a stage that runs in several: `accelerate launch -m lib.scale.worker config.json`, started by `launch`.

Every process runs the same task on its share. A process that fails writes down why, in one line, for the notebook.
"""

import gc
import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import gather_object

from lib.ground.cache import computed_by, digest_of, save_json
from lib.ground.setups import Setup, setup_named
from lib.ground.source import own_fingerprint
from lib.scale.launch import SECONDARY, TOLD
from lib.scale.tuning import MIXED


def main(path: Path) -> int:
    """Run the task that a config file describes or, in a folder, tasks as they come; returns the exit status."""
    threading.Thread(target=end_with_launcher, daemon=True).start()
    status = stay(path) if path.is_dir() else once(path)
    if not status:
        PartialState().destroy_process_group()
    return status


def stay(folder: Path) -> int:
    """Run the configs whose paths are put into a folder, one after the other, until one fails or standard input ends."""
    from lib.images import models

    for number in itertools.count():
        call = folder / f"{number:06d}.task"
        while not call.exists():
            time.sleep(0.02)
        if status := once(Path(call.read_text("utf-8"))):
            return status
        models.load_clip.cache_clear()  # some tasks tune it in place
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        (folder / f"{number:06d}.{os.environ.get('RANK', 0)}.done").touch()


def once(path: Path) -> int:
    """Run the task that a config file describes; returns the exit status."""
    rank = int(os.environ.get("RANK", 0))
    try:
        config = json.loads(path.read_text("utf-8"))
        run(config)
    except BaseException as error:
        traceback.print_exc()
        kind = SECONDARY if secondary(error) else "error"
        said = {"kind": kind, "time": time.time(), "message": in_one_line(error)}
        save_json(path.parent / f"error-{rank}.json", said)
        return 1
    return 0


def run(config: dict) -> None:
    """Set this process up and run the config's task."""
    from lib.scale.tasks import TASKS

    task, setup, tracker = TASKS[config["task"]], setup_named(config["setup"]), config.get("upkeep", {}).get("tracker", "")
    accelerator = accelerator_of(setup, tracker, Path(config["folder"]))
    same = digest_of([config, computed_by(), own_fingerprint("lib.scale.tasks")])
    agree(accelerator, "the task, the code or library versions", same)
    if tracker:
        accelerator.init_trackers("study", {"task": config["task"], "setup": setup.name})
    task(accelerator, setup, config, tell_of(accelerator))
    for used in accelerator.trackers:  # the next task goes on with this group of processes
        used.finish()


def accelerator_of(setup: Setup, tracker: str = "", folder: Path | None = None) -> Accelerator:
    """This process's `accelerate`, on its GPU if there are any, in the setup's precision."""
    if tracker and tracker not in map(str, get_available_trackers()):
        raise ValueError(f"the tracker {tracker} needs its package: install it, or choose no tracker")
    wrapper = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(
        mixed_precision=MIXED[setup.training.precision], cpu=not torch.cuda.is_available(), log_with=tracker or None,
        project_dir=str(folder) if tracker else None, kwargs_handlers=[wrapper],
    )  # fmt: skip


def agree(accelerator: Accelerator, what: str, value: str) -> None:
    """Raise ValueError unless all processes have the same value."""
    values = gather_object([value]) if accelerator.num_processes > 1 else [value]
    if len(set(values)) > 1:
        other = next(i for i, v in enumerate(values) if v != values[0])
        raise ValueError(f"processes 0 and {other} disagree about {what}: all hosts need the same files and environment")


def tell_of(accelerator: Accelerator) -> Callable[[str], None]:
    """A function that shows a line in the notebook, once for all processes."""
    return lambda line: print(TOLD + line, flush=True) if accelerator.is_main_process else None


def secondary(error: BaseException) -> bool:
    """Whether an error only says that another process has gone, or that this one was told to end."""
    gone = ("gloo/", "Connection closed by peer", "Connection reset by peer", "NCCL")
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and any(g in str(error) for g in gone)
    )


def in_one_line(error: BaseException) -> str:
    """The error in one line; where GPU memory was exhausted, what to lower."""
    if isinstance(error, torch.OutOfMemoryError):
        return ("GPU memory is exhausted: lower training.micro_batch or the batch of images, set gradient_checkpointing or "
                "ema_offload = true, or use more processes")  # fmt: skip
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, ValueError | FileNotFoundError) else f"{type(error).__name__}: {text}"


def end_with_launcher() -> None:
    """End this process when its standard input ends, because the notebook has ended or was killed."""
    try:
        while os.read(0, 1):
            pass
    except OSError:
        return
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
