"""Keeps the user's own settings away from notebooks that are run for the record, and from tests."""

import os
import sys
from pathlib import Path

from lib.ground.paths import CACHE, ROOT

# Settings of the user that would reach a kernel.
THEIRS = ("JUPYTER_CONFIG_PATH", "JUPYTER_PREFER_ENV_PATH", "LANGUAGE", "MATPLOTLIBRC", "PYTHONBREAKPOINT", "PYTHONDEVMODE",
          "PYTHONINSPECT", "PYTHONOPTIMIZE", "PYTHONSTARTUP", "PYTHONWARNINGS")  # fmt: skip


def fence() -> None:
    """Set this process's environment so that the kernels it starts use its own interpreter, can import `lib`, and ignore the
    user's startup files, configuration of matplotlib, Jupyter and IPython, locale and warning settings. Needs no home."""
    own = CACHE.absolute() / "settings"
    folders = {name: str(own / name.lower()) for name in (
        "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR",
    )}  # fmt: skip
    for folder in folders.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    for name in [n for n in os.environ if n in THEIRS or n.startswith(("LC_", "TQDM_"))]:
        del os.environ[name]
    for name in ("STUDY_CACHE", "STUDY_REPORTS"):  # a kernel starts in another folder
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ |= folders | {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "LC_ALL": "C", "TZ": "UTC",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "JUPYTER_PATH": str(Path(sys.prefix) / "share" / "jupyter"),  # a kernel in the user's home would win
    }  # fmt: skip
