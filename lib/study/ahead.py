"""Several stages at once, one process per core: on networks this small, two threads are hardly faster than one."""

import functools
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from threading import Thread

import torch

from lib.ground.cache import if_found
from lib.ground.precision import DEVICE


def make(study, wanted: Sequence[tuple], least: int = 2) -> None:
    """Make stages of a study in parallel and leave them in the cache, where the study then finds them.

    `wanted` are (name, *arguments) of its methods and properties; none may depend on another of them, and duplicates are
    made once. With a GPU or a single core, or if fewer than `least` stages are missing, nothing is done: the study makes
    each stage when asked for it. An error in a stage is raised here.
    """
    if DEVICE.type != "cpu" or min(cores(), len(wanted)) < 2:
        return
    wanted = [w for i, w in enumerate(wanted) if w not in wanted[:i] and if_found(lambda w=w: _ask(study, *w)) is None]
    if len(wanted) < least:
        return
    try:
        for done in as_completed([_pool().submit(_one, type(study), study.arguments, *w) for w in wanted]):
            done.result()
    except BaseException:  # cancel what waits; a pool that has lost a process would refuse all further work
        _pool().shutdown(cancel_futures=True)
        _pool.cache_clear()
        raise


def cores() -> int:
    """How many cores this process may use: all that the system allows it, or as many as STUDY_CORES says."""
    if given := os.environ.get("STUDY_CORES"):
        if not (given.isdecimal() and int(given)):
            raise ValueError(f"STUDY_CORES={given!r}: expected a whole number of at least 1, or nothing for all cores")
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _pool() -> ProcessPoolExecutor:
    """Single-threaded processes, kept as long as this one: each takes seconds to import what stages need."""
    return ProcessPoolExecutor(cores(), get_context("spawn"), _begin)


def _begin() -> None:
    """Set up a process of the pool: one thread for the work, and one that ends the process if its parent is killed;
    otherwise it would wait forever and hold its memory. An interrupt (a terminal sends it to all) ends it silently."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))
    torch.set_num_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def _ask(study, name: str, *arguments) -> bool:
    found = getattr(study, name)
    if callable(found):
        found(*arguments)
    return True


@functools.cache
def _study(kind: type, given: tuple[str, ...]):
    return kind(*given)


def _one(kind: type, given: tuple[str, ...], name: str, *arguments) -> None:
    _ask(_study(kind, given), name, *arguments)
