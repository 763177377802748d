"""Whether the whole study runs where last digits differ: size smoke in either precision, on one and two threads, with other
seeds of everything: `make sturdy` (about six minutes a run on two cores).

Each run is cold, with a cache and reports of its own in a temporary folder; `--keep FOLDER` keeps those, and goes on there.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Training in bfloat16 (1) or float32 (0), threads, seed of the study: each value beside each other one at least once.
RUNS = ((0, 1, 0), (1, 2, 0), (0, 2, 1), (1, 1, 2), (0, 1, 3))


def run(folder: Path, bfloat16: int, threads: int, seed: int) -> str | None:
    """The last line of what went wrong, None when every notebook ran."""
    own = {"STUDY_BFLOAT16": str(bfloat16), "STUDY_SEED": str(seed), "OMP_NUM_THREADS": str(threads),
           "STUDY_CACHE": str(folder / "cache"), "STUDY_REPORTS": str(folder / "reports")}  # fmt: skip
    notebooks = sorted(str(p) for p in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    command = [sys.executable, "-m", "lib.desk.run", *notebooks, "--size", "smoke"]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    return None if result.returncode == 0 else (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]


def main(folder: Path) -> int:
    """Run all of RUNS, tell of each, and return how many failed."""
    failed = 0
    for bfloat16, threads, seed in RUNS:
        name, started = f"{'bfloat16' if bfloat16 else 'float32'}, {threads} thread(s), seed {seed}", time.monotonic()
        fault = run(folder / name.replace(", ", "-").replace(" ", "_"), bfloat16, threads, seed)
        failed += fault is not None
        print(f"{name}: {fault or 'all notebooks ran'} ({(time.monotonic() - started) / 60:.1f} min)", flush=True)
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    kept = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(kept or Path(temporary)))
