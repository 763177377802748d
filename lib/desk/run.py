"""The strict runner: `python -m lib.desk.run NOTEBOOK... --size SIZE [--setup SETUP] [-p NAME=VALUE] [--force] [--check] …`.

A notebook runs only if something that determines it has changed (`lib.desk.fresh`), isolated from the user's own settings.
With -p it is a trial, which writes to its own folder, reports/trials/NAME=VALUE, and changes nothing else. A setup other
than `mini` has a folder in reports/setups.
Exit code 2: the request was wrong; 1: a cell failed (or, with --check, a notebook is stale).
"""

import argparse
import ast
import os
import re
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from lib.desk import parameters
from lib.desk.costs import cpu_hours
from lib.desk.execution import execute
from lib.desk.fresh import is_fresh
from lib.desk.rehearsal import rehearsing
from lib.ground.paths import CACHE, reports
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
        stale = [n for n in notebooks if options.force or not is_fresh(n, given, options.size)]
        if stale:
            ask_for_patience(options.size, options.patient)
        with ExitStack() as stack:
            for number, notebook in enumerate(notebooks, 1):
                if not options.force and is_fresh(notebook, given, options.size):  # one before it may have made it stale
                    print(f"fresh {notebook.stem}", flush=True)
                    continue
                if stale[1:2] == [notebook] and not given:  # the first measures how fast this machine is
                    stack.enter_context(rehearsing(stale[2:], options.size))
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


if __name__ == "__main__":
    sys.exit(main())
