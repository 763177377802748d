"""Figures: each method has the same colour and marker everywhere; always intervals, units on axes, no metadata in files."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from lib.ground.cache import atomic_write
from lib.ground.paths import reports

# Lightness increases from first to last, so that the order survives printing in grey.
COLOURS = dict(zip(
    ("base", "human-labelled only", "+ unlabelled", "full method", "pre-training loss alone", "constant reward",
     "CLIP score", "reward, lambda = 0", "reward", "shuffled labels, lambda = 0", "shuffled labels, lambda = 0.5", "paper"),
    ("#3b3b3b", "#7a1f5c", "#b5446e", "#e07b39", "#4c7aa8", "#8fb7d3",
     "#5a5a5a", "#2f6f9f", "#e07b39", "#9a9a9a", "#c4c4c4", "#000000"), strict=True,
))  # fmt: skip
MARKERS = dict(zip(COLOURS, "osD^vPosD^vX", strict=True))
# Rejection sampling: the scores by which images are chosen, and the judges of the chosen ones.
COLOURS |= {"random": "#b3b3b3", "oracle (judge-b)": "#1b1b1b", "judge-b": "#1b1b1b", "panel": "#b5446e",
            "reward, other seeds": "#8fb7d3"}  # fmt: skip
MARKERS |= {"random": "v", "oracle (judge-b)": "P", "judge-b": "P", "panel": "s", "reward, other seeds": "D"}
# Categories of prompts, and the trainings on counting.
COLOURS |= {"count": "#7a1f5c", "colour": "#e07b39", "background": "#2f6f9f", "truth on counting": "#7a1f5c",
            "half the updates": "#b5446e"}  # fmt: skip
MARKERS |= {"count": "o", "colour": "s", "background": "D", "truth on counting": "s", "half the updates": "D"}
# The reward direction (notebooks 06 and 10).
COLOURS |= {"reward direction": "#3a7d44"}
MARKERS |= {"reward direction": "*"}
# Preference: the scores that predict choices.
COLOURS |= {"chance": "#b3b3b3", "aesthetic predictor": "#4c7aa8", "people's guess": "#7a1f5c", "people": "#7a1f5c",
            "HPS": "#e07b39", "ceiling": "#1b1b1b", "adapted": "#8fb7d3",
            "adapted, negative prompt": "#2f6f9f", "base, negative prompt": "#777777",
            "regularisation only, negative prompt": "#b5446e"}  # fmt: skip
MARKERS |= {"chance": "v", "aesthetic predictor": "^", "people's guess": "s", "people": "s", "HPS": "D", "ceiling": "P",
            "adapted": "s", "adapted, negative prompt": "D", "base, negative prompt": "P",
            "regularisation only, negative prompt": "^"}  # fmt: skip

GOOD, OTHER = "#3a9a4a", "#bbbbbb"  # images that are called good, and all others


def style() -> None:
    """Set the study's style, regardless of the user's own settings; call once per notebook."""
    plt.rcdefaults()
    sns.set_theme(context="notebook", style="ticks", font_scale=0.85)
    plt.rcParams |= {
        "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110, "savefig.dpi": 110,
        "savefig.bbox": "tight", "legend.frameon": False, "axes.titlesize": "medium", "font.family": "DejaVu Sans",
    }  # fmt: skip


def save(figure: Figure, name: str, size: str) -> Figure:
    """Write the run's figures/<name>.png, without metadata, and its description, <name>.txt; returns the figure to show."""
    path = reports(size) / "figures" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    text = getattr(figure, "words", None) or described(figure)
    atomic_write(path.with_suffix(".txt"), text + "\n")
    shown = {"image/png": path.read_bytes(), "text/plain": text}, {"image/png": {"alt": text}}
    figure._repr_mimebundle_ = lambda **_: shown  # IPython's hook: the file itself, with its alternative text
    plt.close(figure)
    return figure


def described(figure: Figure) -> str:
    """Alternative text of a chart, from what was drawn: its axes, and each named point with its value."""
    charts = []
    for axis in figure.axes:
        names = {t: label.get_text() for t, label in zip(axis.get_yticks(), axis.get_yticklabels(), strict=False)}
        axes = " against ".join(t for t in (axis.get_ylabel(), axis.get_xlabel()) if t)
        points = []
        for drawn in axis.containers:
            if not isinstance(drawn, ErrorbarContainer) or not len(drawn[0].get_xdata()):
                continue
            x, y = drawn[0].get_xdata(), drawn[0].get_ydata()
            label = str(drawn.get_label())
            if not label.startswith("_"):
                values = "; ".join(f"{a:.3g}, {b:.3g}" for a, b in zip(x, y, strict=True))
                points.append(f"{label} ({values})" if len(x) <= 8 else label)
            elif len(x) == 1:
                points.append(f"{names.get(y[0], '')} {x[0]:.3g}".strip())
        lines = [str(line.get_label()) for line in axis.lines if len(line.get_xdata())]
        points += [t for t in lines if not t.startswith("_")]
        title = axis.get_title()
        charts.append(f"{title}{': ' if title and axes else ''}{axes}" + (f". Shown: {', '.join(points)}" if points else ""))
    return "Chart. " + " Beside it: ".join(filter(None, charts)) + "."


def sheet(
    images: np.ndarray, columns: int, titles: Sequence[str] | None = None, rows: Sequence[str] | None = None,
    zoom: float = 1.0, framed: Sequence[bool] | None = None, group: int | None = None,
) -> Figure:
    """A contact sheet of uint8 images [image, height, width, 3], row by row, every pixel drawn as a square.

    `titles` go above the images, wrapped, `rows` to the left of each row. If `framed` is given, images for which it is true
    have a green frame, others a grey one. Every `group` columns there is a gap.
    """
    lines = -(-len(images) // columns)
    deep = max((len(textwrap.wrap(t, int(14 * zoom))) for t in titles), default=0) if titles else 0
    height = zoom * 1.06 + 0.13 * deep
    figure, axes = plt.subplots(lines, columns, figsize=(columns * zoom * 1.06, lines * height), squeeze=False)
    for i, axis in enumerate(axes.flat):
        axis.set(xticks=[], yticks=[])
        for side in axis.spines.values():
            side.set_visible(framed is not None and i < len(images))
            if framed is not None and i < len(images):
                side.set(color=GOOD if framed[i] else OTHER, linewidth=2.5)
        if i < len(images):
            axis.imshow(images[i], interpolation="nearest")
            if titles:
                axis.set_title(textwrap.fill(titles[i], int(14 * zoom)), fontsize=7, pad=2)
    for axis, text in zip(axes[:, 0], rows or (), strict=False):
        axis.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=8)
    figure.subplots_adjust(wspace=0.06, hspace=0.06 + 0.14 * deep / zoom)
    for column, axis in ((k, a) for k in range(columns) if group for a in axes[:, k]):
        box = axis.get_position()
        axis.set_position([box.x0 + 0.3 * box.width * (column // group), box.y0, box.width, box.height])
    named = ", ".join(" ".join(t.split()) for t in dict.fromkeys(titles or ()) if t)
    in_rows = f", rows: {'; '.join(rows)}" if rows else ""
    figure.words = f"{len(images)} pictures{in_rows}" + (f": {named}." if named else ".")
    return figure


def alt(path: Path) -> str:
    """A saved figure's alternative text; if none was written, its file name as words."""
    words = path.with_suffix(".txt")
    return words.read_text("utf-8").strip() if words.exists() else path.stem.replace("_", " ")
