"""Where things are: shipped data, the cache of finished stages, and two folders of reports a size: the reader's and ours."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
MODELS = DATA / "models"
CACHE = Path(os.environ.get("STUDY_CACHE") or ROOT / ".cache").expanduser().absolute()  # never committed


def reports(size: str) -> Path:
    """Folder of what a run of one size writes: results/, figures/, notebooks/, site/ and lists. Never committed.

    The environment variable STUDY_REPORTS names another folder than reports/yours for all sizes.
    """
    base = Path(os.environ.get("STUDY_REPORTS") or ROOT / "reports" / "yours").expanduser().absolute()
    return base / size


def published(size: str) -> Path:
    """Folder of the committed results, figures and lists of one size, there or not; `make publish` alone writes it."""
    return ROOT / "reports" / size
