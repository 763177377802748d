"""The strict runner: `python -m lib.run NOTEBOOK... --size SIZE [-p NAME=VALUE] [--force] [--check]`.

A notebook is run only when something that makes it changed: its cells, the code of `lib`, its parameters,
the shipped models and labels, the results that it read, or the files that it wrote. Exit code 2: the request
was wrong; 1: a cell failed (or, with --check, a notebook is stale).
"""

import argparse
import ast
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from lib.cache import code_digest, digest_of, file_digest, save_json
from lib.config import SIZES
from lib.paths import DATA, MODELS, ROOT, reports
from lib.report import quality_entries, timing


class Refused(Exception):
    """A request that cannot be met, said in one line."""


def main(argv: list[str] | None = None) -> int:
    """Run the stale ones among the notebooks, in the order given, up to the first that fails."""
    try:
        options = arguments(argv)
        notebooks = [Path(path) for path in options.notebooks]
        given = dict(literal(text) for text in options.parameter)
        for notebook in notebooks:
            check_parameters(notebook, given)
        if options.check:
            return check(notebooks, given, options.size)
        for number, notebook in enumerate(notebooks, 1):
            if not options.force and is_fresh(notebook, given, options.size):
                print(f"fresh {notebook.stem}", flush=True)
                continue
            print(f"running {notebook.stem} ({number} of {len(notebooks)})", flush=True)
            if not execute(notebook, given, options.size):
                return 1
    except Refused as refusal:
        print(f"run: {refusal}", file=sys.stderr)
        return 2
    return 0


def check(notebooks: list[Path], given: dict, size: str) -> int:
    """Name the stale notebooks; 1 when there are any."""
    stale = [notebook.stem for notebook in notebooks if not is_fresh(notebook, given, size)]
    print("\n".join(f"stale {name}" for name in stale) or "all fresh")
    return 1 if stale else 0


# --- the request ------------------------------------------------------------------------------------


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line; anything wrong in it is refused in one line."""
    parser = argparse.ArgumentParser(prog="python -m lib.run", description=main.__doc__)
    parser.error = refuse
    parser.add_argument("notebooks", nargs="+", metavar="NOTEBOOK")
    parser.add_argument("--size", default="laptop", help=f"one of {', '.join(SIZES)} (default: laptop)")
    parser.add_argument("-p", dest="parameter", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--force", action="store_true", help="run fresh notebooks too")
    parser.add_argument("--check", action="store_true", help="run nothing, name the stale notebooks")
    options = parser.parse_args(argv)
    if options.size not in SIZES:
        refuse(f"unknown size {options.size!r}: one of {', '.join(SIZES)}")
    return options


def refuse(reason: str) -> None:
    """Raise the refusal."""
    raise Refused(reason)


def literal(text: str) -> tuple[str, object]:
    """`NAME=VALUE` with the value as a Python literal where it is one, as text where it is not."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        refuse(f"-p {text}: write it as NAME=VALUE")
    if name == "size":
        refuse("-p size=...: use --size")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def check_parameters(notebook: Path, given: dict) -> None:
    """Refuse a notebook that is missing, or whose parameters cell does not define every name given."""
    if not notebook.is_file():
        refuse(f"no notebook {notebook}")
    tagged = [c for c in cells(notebook) if "parameters" in c["metadata"].get("tags", [])]
    if not tagged:
        refuse(f"{notebook.name} has no cell tagged `parameters`")
    names = [
        target.id
        for statement in ast.parse("".join(tagged[0]["source"])).body
        if isinstance(statement, (ast.Assign, ast.AnnAssign))
        for target in getattr(statement, "targets", None) or [statement.target]
        if isinstance(target, ast.Name)
    ]
    if unknown := [name for name in ("size", *given) if name not in names]:
        refuse(f"{notebook.name} defines no parameter {', '.join(unknown)}: it has {', '.join(names)}")


def cells(notebook: Path) -> list[dict]:
    """The cells of a notebook file."""
    try:
        return json.loads(notebook.read_text("utf-8"))["cells"]
    except (ValueError, KeyError):
        refuse(f"{notebook} is not a notebook")


# --- freshness --------------------------------------------------------------------------------------


def fingerprint(notebook: Path, given: dict, size: str) -> str:
    """Digest of all that decides what the notebook shows."""
    code = [p for p in (ROOT / "lib").glob("*.py") if p.name != "run.py"]
    data = [p for p in [*MODELS.rglob("SHA256SUMS"), *(DATA / "labels").rglob("*")] if p.is_file()]
    return digest_of({
        "cells": [[c["cell_type"], "".join(c["source"])] for c in cells(notebook)],
        "lib": {p.name: code_digest(p.read_text("utf-8")) for p in code},
        "parameters": {"size": size, **{name: repr(value) for name, value in given.items()}},
        "data": {p.relative_to(DATA).as_posix(): file_digest(p) for p in data},
    })  # fmt: skip


def record_of(notebook: Path, size: str) -> Path:
    """Where a notebook's last run is remembered."""
    return reports(size) / "notebooks" / f"{notebook.stem}.json"


def is_fresh(notebook: Path, given: dict, size: str) -> bool:
    """Nothing that makes the notebook changed since its last run, nor anything that it wrote."""
    try:
        record = json.loads(record_of(notebook, size).read_text("utf-8"))
        found = {name: file_digest(reports(size) / name) for name in record["outputs"]}
        read = {name: digest_if_there(ROOT / name) for name in record["inputs"]}
    except (OSError, ValueError, KeyError):
        return False
    return (
        record["fingerprint"] == fingerprint(notebook, given, size)
        and record["outputs"] == found
        and record["inputs"] == read
        and record["quality"] == quality_of(notebook, size)
        and record_of(notebook, size).with_suffix(".ipynb").exists()
    )


def digest_if_there(path: Path) -> str | None:
    """Digest of the file, None without one: a result that appears makes its readers stale too."""
    return file_digest(path) if path.is_file() else None


def quality_of(notebook: Path, size: str) -> str:
    """Digest of the quality figures that carry the notebook's name."""
    return digest_of([e for e in quality_entries(size) if Path(e["notebook"]).stem == notebook.stem])


def written(size: str) -> dict[str, int]:
    """Result and figure files, with the time (ns) of their last writing."""
    files = [p for kind in ("results", "figures") for p in (reports(size) / kind).rglob("*") if p.is_file()]
    return {p.relative_to(reports(size)).as_posix(): p.stat().st_mtime_ns for p in files}


# --- execution --------------------------------------------------------------------------------------


def execute(notebook: Path, given: dict, size: str) -> bool:
    """Run one notebook in a kernel of this very interpreter; False (and one line) when a cell fails."""
    record = record_of(notebook, size)
    done, failed = record.with_suffix(".ipynb"), record.with_suffix(".failed.ipynb")
    partial, reads = record.with_suffix(".partial.ipynb"), record.with_suffix(".reads")
    record.parent.mkdir(parents=True, exist_ok=True)
    for old in (record, failed, reads):
        old.unlink(missing_ok=True)
    made_by, before, started = fingerprint(notebook, given, size), written(size), time.monotonic()
    set_kernel_environment()
    os.environ["STUDY_READS"] = str(reads)  # report.noted lists there what the notebook reads
    import papermill  # after the environment, which it reads

    try:
        papermill.execute_notebook(
            str(notebook), str(partial), {"size": size, **given},
            kernel_name="python3", language="python", cwd=str(ROOT), progress_bar=False, log_output=False,
            extra_arguments=["--log-level=ERROR"],
        )  # fmt: skip
    except Exception as error:
        if partial.exists():
            os.replace(partial, failed)
        reads.unlink(missing_ok=True)
        print(f"run: {notebook.stem} failed {describe(error)}", file=sys.stderr)
        return False
    seconds = time.monotonic() - started
    os.replace(partial, done)
    outputs = [name for name, when in written(size).items() if before.get(name) != when]
    inputs = {os.path.relpath(name, ROOT) for name in reads.read_text("utf-8").splitlines()} if reads.exists() else ()
    reads.unlink(missing_ok=True)
    save_json(record, {
        "fingerprint": made_by,
        "inputs": {name: digest_if_there(ROOT / name) for name in inputs},
        "outputs": {name: file_digest(reports(size) / name) for name in outputs},
        "quality": quality_of(notebook, size),
    })  # fmt: skip
    timing(notebook.stem, size, seconds, machine())
    print(f"done {notebook.stem} in {seconds / 60:.1f} min", flush=True)
    return True


def describe(error: Exception) -> str:
    """Which cell failed and why, in one line."""
    kind = getattr(error, "ename", type(error).__name__)
    where = f"in cell [{error.exec_count}]: {kind}" if hasattr(error, "exec_count") else kind
    lines = str(getattr(error, "evalue", error)).strip().splitlines() or [""]
    return f"{where}: {lines[0]}"


def set_kernel_environment() -> None:
    """Let the kernel be this interpreter's own, able to import `lib`, with a fixed hash seed."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    os.environ["PYTHONHASHSEED"] = "0"
    # A python3 kernel in the user's home would otherwise come first.
    os.environ["JUPYTER_PATH"] = str(Path(sys.prefix) / "share" / "jupyter")


def machine() -> dict:
    """What the minutes were measured on."""
    gpu = None
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpu = ", ".join(subprocess.run(query, capture_output=True, text=True).stdout.splitlines()) or None
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count(), "gpu": gpu}


if __name__ == "__main__":
    sys.exit(main())
