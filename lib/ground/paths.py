"""Where things are: shipped data, the cache of finished stages, and two folders of reports a size: the reader's and ours."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
MODELS = DATA / "models"
CACHE = Path(os.environ.get("STUDY_CACHE") or ROOT / ".cache").expanduser().absolute()  # never committed


def reports(size: str) -> Path:
    """Folder of what a run of one size writes: results/, figures/, notebooks/, site/ and lists. Never committed.

    It lies in reports/yours; that of a trial, a run with other parameters that STUDY_TRIAL in the environment names, in
    reports/trials. STUDY_REPORTS names another folder in place of reports/yours, with the trials in it.
    """
    trial = os.environ.get("STUDY_TRIAL")
    return _readers("trials") / trial / size if trial else untried(size)


def untried(size: str) -> Path:
    """The same folder where no trial runs: what a trial does not make itself, it reads there."""
    return _readers("yours") / size


def _readers(kind: str) -> Path:
    if given := os.environ.get("STUDY_REPORTS"):
        return Path(given).expanduser().absolute() / ("" if kind == "yours" else kind)
    return ROOT / "reports" / kind


def published(size: str) -> Path:
    """Folder of the committed results, figures and lists of one size, there or not; `make publish` alone writes it."""
    return ROOT / "reports" / size
