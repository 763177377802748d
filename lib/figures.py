"""Figures: one colour and marker a method everywhere, intervals always, units on the axes, no metadata in the files."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from lib.paths import reports

# Lightness rises from first to last, so that the order survives a grey print.
COLOURS = dict(zip(
    ("base", "human-labelled only", "+ unlabelled", "+ pre-training loss", "pre-training loss alone", "r = mean",
     "CLIP score", "reward, lambda = 0", "reward", "shuffled labels, lambda = 0", "shuffled labels, lambda = 0.5", "paper"),
    ("#3b3b3b", "#7a1f5c", "#b5446e", "#e07b39", "#4c7aa8", "#8fb7d3",
     "#5a5a5a", "#2f6f9f", "#e07b39", "#9a9a9a", "#c4c4c4", "#000000"), strict=True,
))  # fmt: skip
MARKERS = dict(zip(COLOURS, "osD^vPosD^vX", strict=True))


def style() -> None:
    """The study's look; call once a notebook."""
    sns.set_theme(context="notebook", style="ticks", font_scale=0.85)
    plt.rcParams |= {
        "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110, "savefig.dpi": 110,
        "savefig.bbox": "tight", "legend.frameon": False, "axes.titlesize": "medium", "font.family": "DejaVu Sans",
    }  # fmt: skip


def save(figure: Figure, name: str, size: str) -> Figure:
    """Write reports/figures/<name>.png without metadata; returns the figure, to be shown."""
    path = reports(size) / "figures" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
    return figure


def sheet(
    images: np.ndarray, columns: int, titles: Sequence[str] | None = None, rows: Sequence[str] | None = None,
    zoom: float = 1.0, marks: Sequence[str] | None = None,
) -> Figure:
    """A contact sheet of uint8 images [image, height, width, 3], row by row, every pixel drawn as a square.

    `titles` stand above each image, wrapped, `rows` left of each row; `marks` are colours of a frame around each image.
    """
    lines = -(-len(images) // columns)
    deep = max((len(textwrap.wrap(t, int(14 * zoom))) for t in titles), default=0) if titles else 0
    height = zoom * 1.06 + 0.13 * deep
    figure, axes = plt.subplots(lines, columns, figsize=(columns * zoom * 1.06, lines * height), squeeze=False)
    for i, axis in enumerate(axes.flat):
        axis.set(xticks=[], yticks=[])
        for side in axis.spines.values():
            side.set_visible(bool(marks) and i < len(images))
            if marks and i < len(images):
                side.set(color=marks[i], linewidth=2.5)
        if i < len(images):
            axis.imshow(images[i], interpolation="nearest")
            if titles:
                axis.set_title(textwrap.fill(titles[i], int(14 * zoom)), fontsize=7, pad=2)
    for axis, text in zip(axes[:, 0], rows or (), strict=False):
        axis.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=8)
    figure.subplots_adjust(wspace=0.06, hspace=0.06 + 0.14 * deep / zoom)
    return figure


def bars(
    values: Mapping[str, tuple[float, float, float]], axis, label: str, percent: bool = True,
    lines: Mapping[str, float] | None = None, paper: Mapping[str, float] | None = None,
) -> None:
    """Horizontal dots with intervals (value, low, high) by name; lines for chance or floor; crosses: the paper."""
    scale = 100 if percent else 1
    for i, (name, (value, low, high)) in enumerate(values.items()):
        colour = COLOURS.get(name, "#2f6f9f")
        axis.errorbar(
            scale * value, i, xerr=[[scale * (value - low)], [scale * (high - value)]], fmt=MARKERS.get(name, "o"),
            color=colour, markersize=6, capsize=3, linewidth=1.6,
        )
        if paper and name in paper:
            axis.plot(scale * paper[name], i, "X", color="black", markersize=8, label="paper" if i == 0 else None)
    for k, (name, at) in enumerate((lines or {}).items()):
        axis.axvline(scale * at, color="#777777", linestyle=("--", ":", "-.")[k % 3], linewidth=1.1, label=name)
    axis.set(yticks=range(len(values)), yticklabels=list(values), xlabel=label, ylim=(len(values) - 0.5, -0.5))
    if lines or paper:
        axis.legend(fontsize=7, loc="best")


def curves(
    lines: Mapping[str, Sequence[tuple[float, float, float, float]]], axis, xlabel: str, ylabel: str,
    floors: Mapping[str, float] | None = None,
) -> None:
    """Points (x, share, low, high) joined by name, x on a scale of doublings; lines for chance or baseline; in %."""
    for k, (name, points) in enumerate(lines.items()):
        x, value, low, high = np.array(sorted(points)).T * np.array([[1], [100], [100], [100]])
        axis.errorbar(
            x * 1.03**k, value, yerr=[value - low, high - value], fmt=("D-", "o--", "s:")[k % 3],
            color=("#2f6f9f", "#e07b39", "#7a1f5c")[k % 3], capsize=3, markersize=6, label=name,
        )  # fmt: skip
    for k, (name, at) in enumerate((floors or {}).items()):
        axis.axhline(100 * at, color="#777777", linestyle=("--", ":", "-.")[k % 3], linewidth=1.1, label=name)
    ticks = sorted({round(p[0]) for points in lines.values() for p in points})
    axis.set_xscale("log", base=2)
    axis.minorticks_off()
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.set_xticks([t for i, t in enumerate(ticks) if i == 0 or t > 1.25 * ticks[i - 1]])
    axis.xaxis.set_major_formatter(lambda t, _: f"{t:,.0f}")
    axis.legend(fontsize=7)


def reliability(scores: np.ndarray, good: np.ndarray, axis, bins: int = 10, label: str = "reward") -> list[dict]:
    """Share of good images against predicted reward, in bins of equal numbers, with 95 % binomial (Wilson) intervals."""
    order = np.argsort(scores)
    rows = []
    for part in np.array_split(order, bins):
        n, k, z = len(part), good[part].sum(), 1.96
        if n == 0:
            continue
        middle = (k + z * z / 2) / (n + z * z)
        half = z * np.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
        rows.append({"predicted": float(scores[part].mean()), "good": float(k / n), "low": float(middle - half),
                     "high": float(middle + half), "n": n})  # fmt: skip
    x, y = [r["predicted"] for r in rows], [r["good"] for r in rows]
    error = [[max(0, r["good"] - r["low"]) for r in rows], [max(0, r["high"] - r["good"]) for r in rows]]
    axis.errorbar(x, y, yerr=error, fmt="D-", color=COLOURS["reward"], capsize=3, markersize=5, label=label)
    axis.plot([0, 1], [0, 1], "--", color="#777777", linewidth=1, label="perfect calibration")
    axis.set(xlabel="predicted reward r", ylabel="share labelled good", xlim=(0, 1), ylim=(0, 1))
    axis.legend(fontsize=7)
    return rows


def alt(path: Path) -> str:
    """A figure's file name as words, for an alternative text."""
    return path.stem.replace("_", " ")
