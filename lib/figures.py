"""Figures: one colour and marker a method everywhere, intervals always, units on the axes, no metadata in the files."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from lib.cache import atomic_write
from lib.checks import finite
from lib.paths import reports

# Lightness rises from first to last, so that the order survives a grey print.
COLOURS = dict(zip(
    ("base", "human-labelled only", "+ unlabelled", "+ pre-training loss", "pre-training loss alone", "r = mean",
     "CLIP score", "reward, lambda = 0", "reward", "shuffled labels, lambda = 0", "shuffled labels, lambda = 0.5", "paper"),
    ("#3b3b3b", "#7a1f5c", "#b5446e", "#e07b39", "#4c7aa8", "#8fb7d3",
     "#5a5a5a", "#2f6f9f", "#e07b39", "#9a9a9a", "#c4c4c4", "#000000"), strict=True,
))  # fmt: skip
MARKERS = dict(zip(COLOURS, "osD^vPosD^vX", strict=True))
# Rejection sampling: what images are chosen by, and what measures the chosen.
COLOURS |= {"random": "#b3b3b3", "oracle (judge-b)": "#1b1b1b", "judge-b": "#1b1b1b", "panel": "#b5446e",
            "reward, other seeds": "#8fb7d3"}  # fmt: skip
MARKERS |= {"random": "v", "oracle (judge-b)": "P", "judge-b": "P", "panel": "s", "reward, other seeds": "D"}
# Preference: what foretells choices.
COLOURS |= {"chance": "#b3b3b3", "aesthetic predictor": "#4c7aa8", "people's guess": "#7a1f5c", "people": "#7a1f5c",
            "HPS": "#e07b39", "ceiling": "#1b1b1b", "reward-weighted (Lee)": "#e07b39", "adapted": "#8fb7d3",
            "adapted, negative prompt": "#2f6f9f", "base, negative prompt": "#777777",
            "regularisation only, negative prompt": "#b5446e"}  # fmt: skip
MARKERS |= {"chance": "v", "aesthetic predictor": "^", "people's guess": "s", "people": "s", "HPS": "D", "ceiling": "P",
            "reward-weighted (Lee)": "v", "adapted": "s", "adapted, negative prompt": "D", "base, negative prompt": "P",
            "regularisation only, negative prompt": "^"}  # fmt: skip


def style() -> None:
    """The study's look, whatever the user's own settings are; call once a notebook."""
    plt.rcdefaults()
    sns.set_theme(context="notebook", style="ticks", font_scale=0.85)
    plt.rcParams |= {
        "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110, "savefig.dpi": 110,
        "savefig.bbox": "tight", "legend.frameon": False, "axes.titlesize": "medium", "font.family": "DejaVu Sans",
    }  # fmt: skip


def save(figure: Figure, name: str, size: str) -> Figure:
    """Write reports/figures/<name>.png without metadata, and its words in <name>.txt; returns the figure, to be shown."""
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
    """A chart in words, from what was drawn: axes, and each named point with its value; for an alternative text."""
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
    named = ", ".join(" ".join(t.split()) for t in dict.fromkeys(titles or ()) if t)
    in_rows = f", rows: {'; '.join(rows)}" if rows else ""
    figure.words = f"{len(images)} pictures{in_rows}" + (f": {named}." if named else ".")
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


def legend_above(axis, columns: int = 2) -> None:
    """The legend above the axes, where it hides no point."""
    axis.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns)


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
    legend_above(axis)


def series(
    rows: Sequence[Mapping], axis, x: str, by: str, label: str, percent: bool = True, ticks: Sequence[float] | None = None
) -> None:
    """Lines with intervals, one for each value of `by`: rows of `x`, `value`, `low`, `high`; doublings of x in equal steps.

    Lines stand slightly beside one another, so that intervals at one `x` can be told apart.
    """
    names, scale = list(dict.fromkeys(r[by] for r in rows)), 100 if percent else 1
    for i, name in enumerate(names):
        part = [r for r in rows if r[by] == name]
        at = [r[x] * 2 ** (0.07 * (i - (len(names) - 1) / 2)) for r in part]
        value, low, high = (scale * np.array([r[k] for r in part]) for k in ("value", "low", "high"))
        axis.errorbar(at, value, yerr=[value - low, high - value], fmt=MARKERS.get(name, "o") + "-", capsize=3,
                      color=COLOURS.get(name, "#2f6f9f"), markersize=5, linewidth=1.4, label=name)  # fmt: skip
    ticks = sorted({r[x] for r in rows}) if ticks is None else ticks
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.set(ylabel=label)


def positions(rows: Sequence[Mapping], axis, x: str, y: str, label: str) -> None:
    """Named points with intervals both ways: rows of `point` and, of x and y, value, `_low` and `_high`.

    Shapes tell points apart without colour; the first is the base.
    """
    for i, row in enumerate(rows):
        bars = [[[row[k] - row[k + "_low"]], [row[k + "_high"] - row[k]]] for k in (x, y)]
        shade = COLOURS["base"] if i == 0 else plt.get_cmap("viridis")(0.15 + 0.7 * (i - 1) / max(1, len(rows) - 2))
        axis.errorbar(row[x], row[y], *reversed(bars), fmt="osD^vPX"[i % 7], color=shade, capsize=3, label=row["point"])
    axis.set(ylabel=label)
    if axis.get_subplotspec().is_first_row():  # the rows below show the same points
        legend_above(axis)


def votes(rows: Sequence[Mapping], axis, label: str) -> None:
    """Shares of queries by outcome with intervals, a block for each pair of sides; crosses: the paper.

    Rows of `a`, `b`, `outcome` (win, lose, tie), `value`, `low`, `high` and `paper` (None without), shares in [0, 1].
    """
    looks = {"win": ("#1b1b1b", "o", "won"), "lose": ("#b5446e", "s", "lost"), "tie": ("#8fb7d3", "v", "tied")}
    places, names = [], []
    for i, row in enumerate(rows):
        place = i + 0.7 * len({(r["a"], r["b"]) for r in rows[: i + 1]})
        colour, marker, name = looks[row["outcome"]]
        value, low, high = (100 * row[k] for k in ("value", "low", "high"))
        axis.errorbar(value, place, xerr=[[value - low], [high - value]], fmt=marker, color=colour, capsize=3, markersize=6,
                      label="simulated raters" if i == 0 else None)  # fmt: skip
        if row["paper"] is not None:
            axis.plot(100 * row["paper"], place - 0.3, "X", color="#e07b39", markeredgecolor="black", markersize=7,
                      label="people (paper)" if i == 0 else None)  # fmt: skip
        places.append(place)
        names.append(f"{row['a']} against {row['b']}: {name}" if row["outcome"] == "win" else name)
    axis.set(yticks=places, yticklabels=names, xlabel=label, xlim=(-3, 103), ylim=(places[-1] + 0.7, 0))
    axis.grid(axis="x", color="#e3e3e3", linewidth=0.8)
    axis.legend(fontsize=7, loc="lower right")


def reliability(scores: np.ndarray, good: np.ndarray, axis, bins: int = 10, label: str = "reward") -> list[dict]:
    """Share of good images against predicted reward, in bins of equal numbers, with 95 % binomial (Wilson) intervals."""
    order = np.argsort(finite("scores", scores))
    finite("labels", good)
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
    axis.errorbar(x, y, yerr=error, fmt=MARKERS.get(label, "D") + "-",
                  color=COLOURS.get(label, COLOURS["reward"]), capsize=3, markersize=5, label=label)  # fmt: skip
    axis.plot([0, 1], [0, 1], "--", color="#777777", linewidth=1, label="perfect calibration")
    axis.set(xlabel=f"predicted reward r (n = {len(scores):,} images)", ylabel="share labelled good")
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.legend(fontsize=7)
    return rows


def alt(path: Path) -> str:
    """A saved figure's words, for an alternative text; its file name as words where none were written."""
    words = path.with_suffix(".txt")
    return words.read_text("utf-8").strip() if words.exists() else path.stem.replace("_", " ")


def claims(rows: Sequence[Mapping], figure_size: tuple[float, float] = (9, 8)) -> Figure:
    """Each tested claim's value with its interval beside the paper's, `rows` of claims.json with `name` and `unit`.

    Marker shape is the verdict; a panel for shares and their differences, one for relative changes.
    """
    look = {"reproduced": ("o", "#2f6f9f"), "not reproduced": ("s", "#e07b39")}
    rows = [r for r in rows if r["value"] is not None and r["unit"] in ("%", "points", "%change")]
    absolute = "share, mean reward or cosine x 100, or a difference of them (%, points)"
    panels = {absolute: [r for r in rows if r["unit"] != "%change"],
              "relative difference (%)": [r for r in rows if r["unit"] == "%change"]}  # fmt: skip
    heights = [max(1, len(part)) for part in panels.values()]
    figure, axes = plt.subplots(2, 1, figsize=figure_size, height_ratios=heights, layout="constrained")
    for axis, (label, part) in zip(axes, panels.items(), strict=True):
        axis.axvline(0, color="#777777", linestyle="--", linewidth=1, label="_")
        for i, r in enumerate(part):
            marker, colour = look[r["verdict"]]
            low, high = (r[k] if r[k] is not None else r["value"] for k in ("low", "high"))
            x, error = 100 * r["value"], [[100 * (r["value"] - low)], [100 * (high - r["value"])]]
            filled = colour if marker == "o" else "white"
            axis.errorbar(x, i, xerr=error, fmt=marker, color=colour, markerfacecolor=filled, capsize=3, markersize=7)
            if r["paper_value"] is not None:
                axis.plot(100 * r["paper_value"], i - 0.25, "X", color="black", markersize=7)
        names = [f"{r['name']} (n = {r['n'] or 'not given'}, seeds = {r['seeds']})" for r in part]
        axis.set(yticks=range(len(part)), yticklabels=names, xlabel=label, ylim=(max(1, len(part)) - 0.5, -0.5))
        axis.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes[1].set_xscale("symlog", linthresh=20)  # one wide interval must not hide the others
    axes[1].xaxis.set_major_formatter("{x:g}")
    for verdict, (marker, colour) in look.items():
        axes[0].plot([], [], marker, color=colour, markerfacecolor=colour if marker == "o" else "white", label=verdict)
    axes[0].plot([], [], "X", color="black", label="paper")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    return figure
