"""Where things are: shipped data, the cache of finished stages, and the reports of each size."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
MODELS = DATA / "models"
CACHE = Path(os.environ.get("STUDY_CACHE") or ROOT / ".cache").expanduser().absolute()  # never committed


def reports(size: str) -> Path:
    """Folder of one size's results/, figures/ and notebooks/; `smoke` never shares one with a reader's.

    The environment variable STUDY_REPORTS puts the whole tree elsewhere (the tests do).
    """
    base = Path(os.environ.get("STUDY_REPORTS") or ROOT / "reports").expanduser().absolute()
    return base / "smoke" if size == "smoke" else base
