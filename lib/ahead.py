"""Several stages at once, one process a core: two threads on networks as small as these are hardly faster than one."""

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from threading import Thread

import torch

from lib.cache import NotMade, only_found
from lib.precision import DEVICE


def make(study, wanted: Sequence[tuple]) -> None:
    """Make stages of a `Study` and leave them in the cache, where the study then finds them.

    `wanted` are (name, *arguments) of its methods and properties; none may need another of them, and one wanted twice is
    made once. With a GPU or a single core nothing is done ahead, nor where one stage alone is missing: the study makes each
    when asked. An error in one is raised here.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if DEVICE.type != "cpu" or min(cores, len(wanted)) < 2:
        return
    wanted = [w for i, w in enumerate(wanted) if w not in wanted[:i] and not _made(study, *w)]
    if len(wanted) < 2:
        return
    with ProcessPoolExecutor(min(cores, len(wanted)), get_context("spawn"), _begin) as pool:
        for done in as_completed([pool.submit(_one, study.name, *w) for w in wanted]):
            done.result()


def _begin() -> None:
    """In a process of the pool: one thread for the work, and one that ends the process when its parent was killed, for which
    it would else wait forever, with all its memory."""
    torch.set_num_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def _made(study, name: str, *arguments) -> bool:
    """Whether the study finds a stage, and all that it needs, in the cache."""
    try:
        with only_found():
            _ask(study, name, *arguments)
    except NotMade:
        return False
    return True


def _ask(study, name: str, *arguments) -> None:
    found = getattr(study, name)
    if callable(found):
        found(*arguments)


@functools.cache
def _study(size: str):
    from lib.study import Study  # here, because the study imports this module

    return Study(size)


def _one(size: str, name: str, *arguments) -> None:
    _ask(_study(size), name, *arguments)
