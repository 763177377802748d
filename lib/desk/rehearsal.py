"""While a notebook runs, a process of the lowest priority executes later ones for the cache alone, when a core would wait.

A notebook leaves a core idle wherever it works by itself or waits for the longest of several stages, which is an eighth of a
run on two cores. Notebooks 08 and 09 need nothing of those between 01 and themselves, but for 09's last section. What a
rehearsal writes besides stages is thrown away, and whether it failed or was stopped is of no account: a notebook then makes
for itself what it does not find.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from lib.desk.execution import execute
from lib.ground.paths import ROOT

REHEARSED = ("08_preference_score", "09_preference_adaptation")


@contextmanager
def rehearsing(notebooks: Sequence[Path], size: str) -> Iterator[None]:
    """Context in which another process rehearses those of the notebooks that it can."""
    later = [n for n in notebooks if n.stem in REHEARSED]
    if not later:
        yield
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as reports:
        command = [sys.executable, "-m", "lib.desk.rehearsal", size, *(str(n.absolute()) for n in later)]
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"STUDY_REPORTS": reports, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield
        finally:
            process.kill()
            process.wait()


def main(size: str, *notebooks: str) -> None:
    """Execute the notebooks on a CPU with more than one core, until all are done or the process that began this one ends."""
    from lib.ground.precision import DEVICE  # PyTorch takes seconds to import, and the runner does not need it
    from lib.study.ahead import cores

    if DEVICE.type != "cpu" or cores() < 2:
        return
    os.nice(19)
    os.environ |= {"STUDY_CORES": "1", "OMP_NUM_THREADS": "1"}  # one core, and the memory of one process
    Thread(target=lambda: os._exit(sys.stdin.read() != ""), daemon=True).start()  # read to its end when that process ends
    for notebook in notebooks:
        execute(Path(notebook), {}, size)


if __name__ == "__main__":
    main(*sys.argv[1:])
