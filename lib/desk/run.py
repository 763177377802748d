"""The strict runner: `python -m lib.desk.run NOTEBOOK... --size SIZE [--setup SETUP] [-p NAME=VALUE] [--force] [--check] …`.

A notebook runs only if something that determines it has changed (`lib.desk.fresh`), isolated from the user's own settings.
With -p it is a trial, which writes to its own folder, reports/trials/NAME=VALUE, and changes nothing else. A setup other
than `mini` has a folder in reports/setups.
Exit code 2: the request was wrong; 1: a cell failed (or, with --check, a notebook is stale).
"""

import argparse
import ast
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lib.desk import parameters
from lib.desk.costs import cpu_hours
from lib.desk.fence import fence
from lib.desk.fresh import digest_if_there, fingerprint, is_fresh, libraries, quality_of, record_of, written
from lib.desk.report import timing
from lib.ground.cache import file_digest, save_json
from lib.ground.paths import CACHE, ROOT, reports
from lib.ground.setups import setup_named
from lib.ground.sizes import SIZES

PATIENCE = 3  # hours of work that need no confirmation


class Refused(Exception):
    """A request that cannot be met, explained in one line."""


def main(argv: list[str] | None = None) -> int:
    """Run the stale notebooks among those given, in order, up to the first that fails."""
    try:
        options = arguments(argv)
        notebooks = [Path(path) for path in options.notebooks]
        given = dict(pairs := [literal(text) for text in options.parameter])
        if len(given) < len(pairs):
            refuse("-p sets a parameter twice: set it once")
        setup = set_up(str(given.pop("setup", options.setup)))
        for notebook in notebooks:
            check_parameters(notebook, given | setup)
        if given:
            os.environ.setdefault("STUDY_TRIAL", trial_of(given))
        given |= setup
        if options.check:
            return check(notebooks, given, options.size)
        for folder, variable in ((reports(options.size), "STUDY_REPORTS"), (CACHE, "STUDY_CACHE")):
            require_writable(folder, variable)
        if any(options.force or not is_fresh(n, given, options.size) for n in notebooks):
            ask_for_patience(options.size, options.patient)
        for number, notebook in enumerate(notebooks, 1):
            if not options.force and is_fresh(notebook, given, options.size):
                print(f"fresh {notebook.stem}", flush=True)
                continue
            print(f"running {notebook.stem} ({number} of {len(notebooks)})", flush=True)
            if not execute(notebook, given, options.size):
                return 1
        if given:
            what = "trial" if os.environ.get("STUDY_TRIAL") else "setup"
            print(f"this was a {what}: its results, figures and notebook are in {reports(options.size)}")
    except Refused as refusal:
        print(f"run: {refusal}", file=sys.stderr)
        return 2
    return 0


def check(notebooks: list[Path], given: dict, size: str) -> int:
    """Name the stale notebooks; returns 1 if there are any."""
    stale = [notebook.stem for notebook in notebooks if not is_fresh(notebook, given, size)]
    print("\n".join(f"stale {name}" for name in stale) or "all fresh")
    return 1 if stale else 0


# --- the request ------------------------------------------------------------------------------------


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line; any error in it is refused in one line."""
    parser = argparse.ArgumentParser(prog="python -m lib.desk.run", description=main.__doc__)
    parser.error = refuse
    parser.add_argument("notebooks", nargs="+", metavar="NOTEBOOK")
    parser.add_argument("--size", default="laptop", help=f"one of {', '.join(SIZES)} (default: laptop)")
    parser.add_argument("--setup", default="mini", help="the name or file of what the study is made of (default: mini)")
    parser.add_argument("-p", dest="parameter", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--force", action="store_true", help="run fresh notebooks too")
    parser.add_argument("--check", action="store_true", help="run nothing; list the stale notebooks")
    parser.add_argument("--patient", action="store_true", help="do not ask before many hours of work")
    options = parser.parse_args(argv)
    if options.size not in SIZES:
        refuse(f"unknown size {options.size!r}: expected one of {', '.join(SIZES)}")
    return options


def set_up(name: str) -> dict[str, str]:
    """The parameter that names a setup; its results get a folder by an environment variable. Nothing for `mini`."""
    os.environ.pop("STUDY_SETUP", None)
    if name == "mini":
        return {}
    path = str(Path(name).expanduser().absolute()) if name.endswith(".toml") else name  # a kernel starts in another folder
    try:
        os.environ["STUDY_SETUP"] = setup_named(path).identity
    except (OSError, ValueError) as error:
        refuse(str(error))
    return {"setup": path}


def refuse(reason: str) -> None:
    """Raise the refusal."""
    raise Refused(reason)


def literal(text: str) -> tuple[str, object]:
    """`NAME=VALUE`, with the value as a Python literal if it is one, otherwise as text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        refuse(f"-p {text}: write it as NAME=VALUE")
    if name == "size":
        refuse("-p size=...: use --size")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def trial_of(given: dict) -> str:
    """The folder of a trial, named after its parameters."""
    return re.sub(r"[^\w.,=+-]+", "_", ",".join(f"{name}={value}" for name, value in given.items()))[:100]


def check_parameters(notebook: Path, given: dict) -> None:
    """Refuse a notebook that is missing, lacks a parameter that is given, has a parameter (given or default) outside its
    domain, or has a dict with a duplicate key."""
    if not notebook.is_file():
        refuse(f"there is no notebook {notebook}")
    try:
        cells = parameters.cells(notebook)
        if (source := parameters.parameters_cell(cells)) is None:
            refuse(f"{notebook.name} has no cell tagged `parameters`")
        names = parameters.parameters(source)
        if unknown := [name for name in ("size", *given) if name not in names]:
            refuse(f"{notebook.name} has no parameter {', '.join(unknown)}: its parameters are {', '.join(names)}")
        parameters.check_values(source, given)
    except (SyntaxError, ValueError) as error:
        refuse(f"{notebook.name}: {error}")
    for cell in (c for c in cells if c["cell_type"] == "code"):
        for key in parameters.keys_twice("".join(cell["source"])):
            refuse(f"{notebook.name}: a dict has the key {key} twice and would keep only the last: rename or remove one")


def require_writable(folder: Path, variable: str) -> None:
    """Refuse a folder that cannot be written to, before anything is computed for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        refuse(f"cannot write to {folder} ({error.strerror}): set {variable} to a folder that you can write to")


def ask_for_patience(size: str, patient: bool) -> None:
    """If a size takes many hours on a CPU, say how long and ask whether to start, or refuse if no one can answer."""
    hours = cpu_hours(size)
    if patient or hours < PATIENCE or has_gpu():
        return
    said = f"size {size} takes about {hours:,.0f} hours on two CPU cores, and there is no GPU"
    if not sys.stdin.isatty():
        refuse(f"{said}: add --patient (make PATIENCE=1) to start it anyway, or choose a smaller size")
    if input(f"{said}. Start it? [y/N] ").strip().lower() not in ("y", "yes"):
        refuse("not started")


def has_gpu() -> bool:
    """Whether the study computes on a GPU here."""
    from lib.ground.precision import DEVICE  # PyTorch takes seconds to import

    return DEVICE.type != "cpu"


# --- execution --------------------------------------------------------------------------------------


def execute(notebook: Path, given: dict, size: str) -> bool:
    """Run one notebook in a kernel of this interpreter; False (and one line) if a cell fails."""
    record = record_of(notebook, size)
    done, failed = record.with_suffix(".ipynb"), record.with_suffix(".failed.ipynb")
    partial, reads = record.with_suffix(".partial.ipynb"), record.with_suffix(".reads")
    record.parent.mkdir(parents=True, exist_ok=True)
    for old in (record, failed, reads, *reports(size).rglob(".*.partial")):  # left by a run killed while writing
        old.unlink(missing_ok=True)
    made_by, before, started = fingerprint(notebook, given, size), written(size), time.monotonic()
    fence()
    os.environ["STUDY_READS"] = str(reads)  # report.noted lists what the notebook reads in it
    import papermill  # only now: it reads the environment

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
    timing(notebook.stem, size, seconds, machine())  # before the record: a run killed in between is repeated
    inputs = {os.path.relpath(name, ROOT) for name in reads.read_text("utf-8").splitlines()} if reads.exists() else ()
    reads.unlink(missing_ok=True)
    save_json(record, {
        "fingerprint": made_by,
        "libraries": libraries(),
        "inputs": {name: digest_if_there(ROOT / name) for name in inputs},
        "outputs": {name: file_digest(reports(size) / name) for name in outputs},
        "quality": quality_of(notebook, size),
        "executed": file_digest(done),
    })  # fmt: skip
    print(f"done {notebook.stem} in {seconds / 60:.1f} min", flush=True)
    return True


def describe(error: Exception) -> str:
    """Which cell failed and why, in one line."""
    kind = getattr(error, "ename", type(error).__name__)
    where = f"in cell [{error.exec_count}]: {kind}" if hasattr(error, "exec_count") else kind
    lines = str(getattr(error, "evalue", error)).strip().splitlines() or [""]
    return f"{where}: {lines[0]}"


def machine() -> dict:
    """The machine on which the time was measured."""
    gpu = None
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpu = ", ".join(subprocess.run(query, capture_output=True, text=True).stdout.splitlines()) or None
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count(), "gpu": gpu}


if __name__ == "__main__":
    sys.exit(main())
