"""The numbers that a notebook writes: result files, the list of quality figures, timings, and the README's values.

The same numbers always give the same files: sorted, rounded to six digits, without timestamps.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from IPython.display import Markdown, display, update_display

from lib.ground.cache import save_json
from lib.ground.paths import ROOT, published, reports, untried
from lib.ground.setups import NotServed
from lib.ground.sizes import SIZES

if TYPE_CHECKING:
    from lib.ground.stats import Interval

NOT_SERVED = "not served"  # in place of a result that a setup cannot serve: why
QUALITY = ("name", "value", "low", "high", "n", "seeds", "size", "notebook")
TIMING = ("notebook", "size", "seconds", "machine")


def write(name: str, rows, size: str, notebook: str) -> Path:
    """Store a result (a dict, a list of dicts or a DataFrame) as results/<name>.json."""
    if isinstance(rows, pd.DataFrame):
        rows = rows.to_dict("records")
    path = reports(size) / "results" / f"{checked_name(name)}.json"
    setup = {"setup": os.environ["STUDY_SETUP"]} if os.environ.get("STUDY_SETUP") else {}
    save_json(path, {"notebook": notebook, "size": size, "rows": plain(rows, name)} | setup)
    return path


def read(name: str, size: str):
    """The rows that `write` stored; raises FileNotFoundError that names the notebook to run first, or `NotServed`."""
    path = noted(reports(size) / "results" / f"{name}.json")
    if not path.exists():  # a trial builds on the results of the run that is not one
        path = noted(untried(size) / "results" / f"{name}.json")
    if not path.exists():
        raise FileNotFoundError(f"there is no result {name!r} of size {size} yet: run {maker(name)} at that size first")
    rows = json.loads(path.read_text("utf-8"))["rows"]
    if isinstance(rows, dict) and NOT_SERVED in rows:
        raise NotServed(rows[NOT_SERVED])
    return rows


def maker(name: str) -> str:
    """The notebook that writes a result."""
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        if f'report.write(\\"{name}\\"' in path.read_text("utf-8"):
            return f"notebook {path.stem}"
    return "the notebooks before this one"


def noted(path: Path) -> Path:
    """The path, whether or not it exists, noted as an input of the notebook that `lib.desk.run` is running."""
    if log := os.environ.get("STUDY_READS"):
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{path}\n")
    return path


def row(found: "Interval") -> dict:
    """A result's columns for an estimate: its value with bounds, and its numbers of prompts (clusters) and seeds."""
    return dict(value=found.value, low=found.low, high=found.high, prompts=found.clusters, seeds=found.seeds)


def columns(**found: "Interval") -> dict:
    """A result's columns for several estimates: NAME, NAME_low and NAME_high for each."""
    ends = (("", "value"), ("_low", "low"), ("_high", "high"))
    return {name + end: getattr(f, of) for name, f in found.items() for end, of in ends}


def quality(
    name: str, value: float, low: float | None, high: float | None, n: int, seeds, size: str, notebook: str
) -> None:
    """Store one quality figure, with its interval (None: it has none), in quality.json, replacing its previous entry.

    `n` is the number of units behind the interval; `seeds` is the number of runs, or a list of them. Shares are in [0, 1].
    """
    entry = dict(zip(QUALITY, (checked_name(name), value, low, high, n, seeds, size, notebook), strict=True))
    entry = plain(entry, name)
    if value is None or (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{name}: value {value} lies outside its interval [{low}, {high}]")
    if not n > 0:
        raise ValueError(f"{name}: n must be at least 1, got {n}")
    upsert(reports(size) / "quality.json", entry, ("name",), QUALITY)


def quality_entries(folder: Path) -> list[dict]:
    """The quality figures in a folder of reports: none if nothing was written."""
    return read_list(folder / "quality.json", QUALITY)


def quality_table(size: str) -> pd.DataFrame:
    """The quality figures of one size as a table, sorted by name."""
    return pd.DataFrame(quality_entries(reports(size)), columns=QUALITY)


def timing(notebook: str, size: str, seconds: float, machine: Mapping) -> None:
    """Store a notebook's execution time in timings.json; with a warm cache it says little."""
    entry = dict(zip(TIMING, (notebook, size, round(seconds, 1), dict(machine)), strict=True))
    upsert(reports(size) / "timings.json", plain(entry, notebook), ("notebook",), TIMING)


# --- what was published -----------------------------------------------------------------------------


def best_published() -> str | None:
    """The largest size that we ran and committed; None if there is none. Numbers of size smoke mean nothing."""
    return next((s for s in reversed(SIZES) if s != "smoke" and (published(s) / "claims.json").exists()), None)


def claims_of(folder: Path) -> list[dict]:
    """The claims in a folder of reports: each row of claims.json with its name, unit, reason and states of parts."""
    rows, more = (json.loads((folder / name).read_text("utf-8")) for name in ("claims.json", "results/claim_parts.json"))
    return [row | extra for row, extra in zip(rows, more["rows"], strict=True)]


# --- a notebook's first screen ----------------------------------------------------------------------


class Opening(Markdown):
    """A notebook's answer and running time; displayed so that `answer` can update it in place."""

    def _ipython_display_(self) -> None:
        display(Markdown(self.data), display_id="opening")


def opening(notebook: str, size: str) -> Opening:
    """The answer of the notebook's last run here at this size, or else ours, and the time of its last run at each size."""
    name, best = f"results/answer_{checked_name(notebook)}.json", best_published() if mini() else None
    path, whose = reports(size) / name, f"size {size}"
    if not path.exists() and best:
        path, whose = published(best) / name, f"ours, size {best}; size {size} has not been run here yet"
    text = json.loads(path.read_text("utf-8"))["rows"]["text"] if path.exists() else "not run yet"
    takes = "; ".join(f"{s}: {took(notebook, s)}" for s in SIZES)
    return Opening(f"**Answer in one line** ({whose}): {text}\n\n**Takes** (last run): {takes}")


def took(notebook: str, size: str) -> str:
    """The minutes of a notebook's last run at one size, here or else ours, and the machine."""
    for folder, whose in ((reports(size), ""), *([(published(size), ", ours")] if mini() else ())):
        for entry in read_list(folder / "timings.json", TIMING):
            if entry["notebook"] == notebook:
                machine = entry["machine"].get("gpu") or f"{entry['machine'].get('cores')} cores"
                return f"{entry['seconds'] / 60:.1f} min ({machine}{whose})"
    return "not run yet"


def mini() -> bool:
    """Whether the setup is `mini`: ours is, so a run with another is never compared with ours."""
    return not os.environ.get("STUDY_SETUP")


def answer(notebook: str, text: str, size: str) -> Markdown:
    """Store the one-line answer as results/answer_<notebook>.json, and update the first screen."""
    if not text.strip() or "\n" in text:
        raise ValueError(f"{notebook}: the answer must be one line of text, got {text!r}")
    write(f"answer_{notebook}", {"text": text}, size, notebook)
    update_display(Markdown(opening(notebook, size).data), display_id="opening")
    return Markdown(f"**Answer in one line**: {text}")


# --- text -------------------------------------------------------------------------------------------


def interval(value: float, low: float | None, high: float | None, digits: int = 2, unit: str = "") -> str:
    """`0.34 [0.30, 0.39]`, or the value alone if there is no interval."""
    unit = f" {unit}" if unit else ""
    if low is None or high is None:
        return f"{value:.{digits}f}{unit}"
    return f"{value:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"


def percent(value: float, low: float | None = None, high: float | None = None) -> str:
    """A share in [0, 1] as `34.4 % [30.1, 38.9]`."""
    return interval(*(None if x is None else 100 * x for x in (value, low, high)), digits=1, unit="%")


def points(value: float, low: float | None = None, high: float | None = None) -> str:
    """A difference of shares, in [-1, 1], as `+8.0 points [4.4, 11.9]`."""
    text = interval(*(None if x is None else 100 * x for x in (value, low, high)), digits=1, unit="points")
    return "+" + text if value > 0 else text


# --- files ------------------------------------------------------------------------------------------


def checked_name(name: str) -> str:
    """The name, if it is valid for a file and for a README marker."""
    if not re.fullmatch(r"\w+", name):
        raise ValueError(f"invalid name {name!r}: use only letters, digits and _")
    return name


def plain(obj, where: str):
    """Plain JSON values: numpy unwrapped, floats rounded to six significant digits; refuses NaN and infinities."""
    if isinstance(obj, Mapping):
        return {str(key): plain(value, f"{where}.{key}") for key, value in obj.items()}
    if isinstance(obj, (list, tuple, np.ndarray)):
        return [plain(value, f"{where}[{i}]") for i, value in enumerate(obj)]
    if isinstance(obj, (bool, np.bool_)):
        return bool(obj)
    if isinstance(obj, (int, np.integer)):
        return int(obj)
    if isinstance(obj, (float, np.floating)):
        if not math.isfinite(obj):
            raise ValueError(f"{where} is {obj}: give a finite number, or None if there is no value")
        return float(f"{obj:.6g}")
    if obj is None or isinstance(obj, str):
        return obj
    raise ValueError(f"{where} is a {type(obj).__name__}: give numbers, text, lists or dicts")


def read_list(path: Path, keys: tuple[str, ...]) -> list[dict]:
    """A file's list of entries (empty if there is no file), each with exactly these keys."""
    entries = json.loads(path.read_text("utf-8")) if path.exists() else []
    for entry in entries:
        if wrong := sorted(set(entry) ^ set(keys)):
            raise ValueError(f"{path.name}: entry {entry} has unknown or missing keys: {', '.join(wrong)}")
    return entries


def upsert(path: Path, entry: dict, identity: tuple[str, ...], keys: tuple[str, ...]) -> None:
    """Add the entry, replacing one with the same identity; the list stays sorted by identity."""
    entries = {tuple(e[k] for k in identity): e for e in [*read_list(path, keys), entry]}
    save_json(path, [entries[key] for key in sorted(entries)])
