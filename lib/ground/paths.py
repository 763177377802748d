"""Where things are: shipped data, the cache of finished stages, and two report folders per size, the reader's and ours."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
MODELS = DATA / "models"
CACHE = Path(os.environ.get("STUDY_CACHE") or ROOT / ".cache").expanduser().absolute()  # never committed


def reports(size: str) -> Path:
    """Folder for what a run of one size writes: results/, figures/, notebooks/, site/ and lists. Never committed.

    It is in reports/yours; for a trial, a run with other parameters named by the environment variable STUDY_TRIAL, it is in
    reports/trials; with a setup other than `mini`, named by STUDY_SETUP, in reports/setups. STUDY_REPORTS names a folder to
    use in place of reports/yours, which then contains trials and setups, too.
    """
    trial = os.environ.get("STUDY_TRIAL")
    return _readers("trials") / trial / os.environ.get("STUDY_SETUP", "") / size if trial else untried(size)


def untried(size: str) -> Path:
    """The folder of the run that is not a trial: a trial reads from there what it does not make itself."""
    setup = os.environ.get("STUDY_SETUP")
    return _readers("setups") / setup / size if setup else _readers("yours") / size


def _readers(kind: str) -> Path:
    if given := os.environ.get("STUDY_REPORTS"):
        return Path(given).expanduser().absolute() / ("" if kind == "yours" else kind)
    return ROOT / "reports" / kind


def published(size: str) -> Path:
    """Folder of one size's committed results, figures and lists, whether or not it exists; only `make publish` writes it."""
    return ROOT / "reports" / size
