"""Whether a notebook's last run is still valid: its cells, the code of `lib`, its parameters, the files in `data`, the
libraries, the results that it read and the files that it wrote are unchanged.
"""

import json
import os
from pathlib import Path

from lib.desk.parameters import cells
from lib.desk.report import quality_entries
from lib.ground.cache import digest_of, file_digest
from lib.ground.paths import DATA, ROOT, reports
from lib.ground.setups import setup_named
from lib.ground.source import COMPUTING, DRAWING, code_digest, versions

# Modules that affect no notebook.
BESIDE = ("bench", "beside", "campaign", "environment", "execution", "export", "fresh", "gallery", "pack", "publish",
          "readme", "rehearsal", "run", "site")  # fmt: skip


def libraries() -> dict[str, str]:
    """Versions of the libraries that compute and draw here."""
    return versions((*COMPUTING, *DRAWING))


def fingerprint(notebook: Path, given: dict, size: str, run_with: dict | None = None) -> str:
    """Digest of all that determines what the notebook shows, except the results that it reads; `run_with` are library
    versions to use instead of those here."""
    modules = [p for package in ("lib", "pretrain") for p in (ROOT / package).rglob("*.py") if p.stem not in BESIDE]
    data = [p for p in DATA.rglob("*") if p.is_file() and not p.name.startswith(".") and p.suffix != ".md"]
    setup = {"setup": setup_digests(given["setup"])} if given.get("setup", "mini") != "mini" else {}
    return digest_of({
        "cells": [[c["cell_type"], "".join(c["source"])] for c in cells(notebook)],
        "code": {p.relative_to(ROOT).as_posix(): code_digest(p.read_text("utf-8")) for p in modules},
        "parameters": {"size": size, **{name: repr(value) for name, value in given.items()}},
        "data": {p.relative_to(DATA).as_posix(): file_digest(p) for p in data},
        "libraries": libraries() if run_with is None else run_with,
        "settings": {name: os.environ.get(name, "") for name in ("STUDY_BFLOAT16", "STUDY_SEED")} | setup,
    })  # fmt: skip


def setup_digests(name: str) -> dict[str, str | None]:
    """What tells whether a setup or what people said in it has changed: its identity and the digests of its small files."""
    setup = setup_named(name)
    said = (setup.raters.labels, setup.raters.choices, f"{setup.raters.images}/shards.json", setup.fidelity.captions)
    return {"identity": setup.identity} | {path: digest_if_there(Path(path)) for path in said if path}


def record_of(notebook: Path, size: str) -> Path:
    """The record of a notebook's last run."""
    return reports(size) / "notebooks" / f"{notebook.stem}.json"


def is_fresh(notebook: Path, given: dict, size: str, elsewhere: bool = False) -> bool:
    """Whether neither what determines the notebook nor what it wrote has changed since its last run; with `elsewhere`, that
    run may have used other libraries."""
    try:
        record = json.loads(record_of(notebook, size).read_text("utf-8"))
        found = {name: file_digest(reports(size) / name) for name in record["outputs"]}
        executed = file_digest(record_of(notebook, size).with_suffix(".ipynb"))
        read = {name: digest_if_there(ROOT / name) for name in record["inputs"]}
    except (OSError, ValueError, KeyError):
        return False
    return (
        record["fingerprint"] == fingerprint(notebook, given, size, record["libraries"] if elsewhere else None)
        and record["outputs"] == found
        and record["inputs"] == read
        and record["quality"] == quality_of(notebook, size)
        and record["executed"] == executed
    )


def digest_if_there(path: Path) -> str | None:
    """Digest of the file, or None if it does not exist: a result that appears also makes its readers stale."""
    return file_digest(path) if path.is_file() else None


def quality_of(notebook: Path, size: str) -> str:
    """Digest of the quality figures that belong to the notebook."""
    return digest_of([e for e in quality_entries(reports(size)) if Path(e["notebook"]).stem == notebook.stem])


def written(size: str) -> dict[str, int]:
    """Result and figure files and the claims, with their modification times (ns)."""
    files = [p for kind in ("results", "figures") for p in (reports(size) / kind).rglob("*") if p.is_file()]
    files += [p for p in [reports(size) / "claims.json"] if p.exists()]
    return {p.relative_to(reports(size)).as_posix(): p.stat().st_mtime_ns for p in files}
