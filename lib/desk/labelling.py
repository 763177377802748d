"""Labelling in a notebook: the panel where a person can answer, and what has been answered where nobody can."""

from pathlib import Path
from typing import TYPE_CHECKING

from IPython import get_ipython
from IPython.display import Markdown

from lib.feedback.sessions import Session
from lib.feedback.store import Store
from lib.feedback.tasks import Tasks

if TYPE_CHECKING:
    from lib.desk.widget import LabellingPanel


def panel(path: Path | str, rater: str, tasks: Tasks, **options) -> "LabellingPanel | Markdown":
    """The panel in which `rater` answers `tasks` into the store `path` (a file, made if missing); options as of `Session`.

    Where nobody can answer, as in `make reproduce`, it is a line that says what the store holds, and makes no file.
    """
    if live():
        from lib.desk.widget import LabellingPanel  # a machine that only computes has no widgets

        return LabellingPanel(Session(Store.open(path), rater, tasks, **options))
    return Markdown(held(Path(path)))


def live() -> bool:
    """Whether a person can answer: the kernel's front end takes input, which papermill and nbconvert do not."""
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin"))


def held(path: Path) -> str:
    """How many answers a store holds, by rater, in one line."""
    if not path.exists():
        return f"Nobody has answered yet (there is no {path.name}): run this cell in JupyterLab, VS Code or Colab to do so."
    with Store.open(path) as store:
        counts = store.rows().rater.value_counts().sort_index()
    return f"{path.name} holds {counts.sum():,} answers" + "".join(f", {n:,} of {who}" for who, n in counts.items()) + "."
