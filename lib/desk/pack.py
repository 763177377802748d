"""The study as one archive for a machine with CUDA PyTorch and no network: `python -m lib.desk.pack FILE [--python 3.12]`.

It contains the tracked files except the reports' figures, wheels of the packages that such a machine lacks, and there.sh,
the only command to run there. Exit code 1: it cannot be made. Making it needs git and, for the wheels, the network.
"""

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lib.ground.paths import ROOT

LIMIT = 64  # MB
# Packages that run the notebooks, and those that the other machine already has, each with all its requirements.
NEEDED = ("diffusers", "ipykernel", "open_clip_torch", "papermill")
THERE = ("accelerate", "numpy", "pandas", "peft", "pyarrow", "scipy", "seaborn", "statsmodels", "timm", "torch",
         "torchmetrics", "torchvision", "transformers")  # fmt: skip
TAGS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
COMMAND = """#!/bin/sh
# sh there.sh SIZE [NOTEBOOK...]: all notebooks at that size, or those; PYTHON=python3.12 names the Python with PyTorch.
set -e
cd "$(dirname "$0")"
size="${1:?say which size, such as gpu}"
shift
python="${PYTHON:-python3}"
"$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target .cache/site wheels/*.whl
export PYTHONPATH="$PWD/.cache/site:$PWD" PYTHONUTF8=1
whole=
if [ $# -eq 0 ]; then whole=yes; set -- notebooks/[0-9]*.ipynb; fi
"$python" -m lib.desk.run "$@" --size "$size" --patient
if [ "$whole" ]; then "$python" -m lib.desk.beside --size "$size"; fi
"""


def required(roots: tuple[str, ...], python: str) -> set[str]:
    """The installed distributions among `roots` and all their requirements for this version of Python on Linux."""
    found, left = set(), [canonicalize_name(name) for name in roots]
    where = {"extra": "", "python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux",
             "platform_system": "Linux", "platform_machine": "x86_64"}  # fmt: skip
    while left:
        name = left.pop()
        try:
            needs = [Requirement(line) for line in distribution(name).requires or ()]
        except PackageNotFoundError:  # of another system or Python
            continue
        found.add(name)
        wanted = {canonicalize_name(r.name) for r in needs if r.marker is None or r.marker.evaluate(where)}
        left += wanted - found
    return found


def wheels(folder: Path, python: str) -> list[Path]:
    """Download the packages that the other machine lacks, in this environment's versions."""
    lacking = sorted(required(NEEDED, python) - required(THERE, python))
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", python,
               "--implementation", "cp", *(f"--platform={tag}_x86_64" for tag in TAGS), "-d", str(folder)]  # fmt: skip
    done = subprocess.run([*command, *(f"{name}=={distribution(name).version}" for name in lacking)], capture_output=True,
                          text=True)  # fmt: skip
    if done.returncode:
        raise ValueError(f"pip could not download the wheels: {done.stderr.strip().splitlines()[-1:]}")
    return sorted(folder.glob("*.whl"))


def tracked() -> list[str]:
    """The tracked files, except the reports' figures."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise ValueError(f"git does not know which files belong to {ROOT}: pack from a clone")
    names = [name for name in done.stdout.split("\0") if name]
    return [name for name in names if not (name.startswith("reports/") and "/figures/" in name)]


def pack(file: Path, python: str) -> float:
    """Write the archive, completely or not at all; returns its size in MB."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.partial")
    try:
        with tempfile.TemporaryDirectory() as folder, tarfile.open(new, "w:gz") as archive:
            for name in tracked():
                archive.add(ROOT / name, f"study/{name}")
            for wheel in wheels(Path(folder), python):
                archive.add(wheel, f"study/wheels/{wheel.name}")
            command = tarfile.TarInfo("study/there.sh")
            command.size, command.mode = len(COMMAND), 0o755
            archive.addfile(command, io.BytesIO(COMMAND.encode()))
        if (size := new.stat().st_size / 1e6) > LIMIT:
            raise ValueError(f"the archive would have {size:.0f} MB, more than {LIMIT}")
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
    return size


def main(argv: list[str] | None = None) -> int:
    """Pack the study, and say what to do with the archive."""
    parser = argparse.ArgumentParser(prog="python -m lib.desk.pack", description=main.__doc__)
    parser.add_argument("file", nargs="?", default=".cache/study.tar.gz", type=Path)
    parser.add_argument("--python", default="3.12", help="the other machine's version (default: 3.12)")
    options = parser.parse_args(argv)
    try:
        size = pack(options.file.expanduser().absolute(), options.python)
    except (OSError, ValueError) as error:
        print(f"pack: {error}", file=sys.stderr)
        return 1
    print(f"{options.file}: {size:.0f} MB, for Python {options.python} with {', '.join(THERE)}. There:")
    print(f"tar -xzf {options.file.name} && sh study/there.sh gpu")
    print("and bring back study/reports/yours/gpu")
    return 0


if __name__ == "__main__":
    sys.exit(main())
