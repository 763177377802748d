"""Charts of the study: values with their intervals, always; each draws on an axis that the notebook gives it."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lib.desk.figures import COLOURS, MARKERS
from lib.ground.checks import finite


def bars(
    values: Mapping[str, tuple[float, float, float] | None], axis, label: str, percent: bool = True,
    lines: Mapping[str, float] | None = None, paper: Mapping[str, float] | None = None,
    limits: tuple[float, float] | None = None,
) -> None:
    """Horizontal dots with intervals (value, low, high) by name, or a heading (None); lines for chance or floor; crosses:
    the paper. Spaces at its end tell a name from that of another group. Of a dot beyond the `limits` of the axis an arrow
    shows where it lies, and its value."""
    scale = 100 if percent else 1
    for i, (name, (value, low, high)) in ((i, v) for i, v in enumerate(values.items()) if v[1] is not None):
        colour = COLOURS.get(name := name.rstrip(), "#2f6f9f")
        axis.errorbar(
            scale * value, i, xerr=[[scale * (value - low)], [scale * (high - value)]], fmt=MARKERS.get(name, "o"),
            color=colour, markersize=6, capsize=3, linewidth=1.6,
        )
        for edge, side in zip(limits or (), (-1, 1), strict=False):
            if side * scale * value > side * edge:
                axis.annotate(
                    f"{scale * value:.0f}", (edge, i), xytext=(-18 * side, 0), textcoords="offset points", fontsize=7,
                    va="center", ha="center", color=colour, arrowprops=dict(arrowstyle="->", color=colour),
                )  # fmt: skip
        if paper and name in paper:
            axis.plot(scale * paper[name], i, "X", color="black", markersize=8, label="paper" if i == 0 else None)
    for k, (name, at) in enumerate((lines or {}).items()):
        axis.axvline(scale * at, color="#777777", linestyle=("--", ":", "-.")[k % 3], linewidth=1.1, label=name)
    names = [name.rstrip() for name in values]
    axis.set(yticks=range(len(values)), yticklabels=names, xlabel=label, ylim=(len(values) - 0.5, -0.5))
    for tick, found in zip(axis.get_yticklabels(), values.values(), strict=False):  # none where another axis has them
        tick.set_fontweight("bold" if found is None else "normal")
    if limits:
        axis.set_xlim(limits)
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


def votes(rows: Sequence[Mapping], axis, label: str, limits: tuple[float, float] = (-3, 103)) -> None:
    """Shares of queries by outcome with intervals, a block for each pair of sides; crosses: the paper.

    Rows of `a`, `b`, `outcome` (win, lose, tie), `value`, `low`, `high`, `paper` (None without) and, where several pairs of
    sets were compared, the share of `each` (small dots); shares in [0, 1], or their differences with `limits` in %.
    """
    looks = {"win": ("#1b1b1b", "o", "won"), "lose": ("#b5446e", "s", "lost"), "tie": ("#8fb7d3", "v", "tied")}
    places, names = [], []
    for i, row in enumerate(rows):
        place = i + 0.7 * len({(r["a"], r["b"]) for r in rows[: i + 1]})
        colour, marker, name = looks[row["outcome"]]
        value, low, high = (100 * row[k] for k in ("value", "low", "high"))
        axis.errorbar(value, place, xerr=[[value - low], [high - value]], fmt=marker, color=colour, capsize=3, markersize=6,
                      label="simulated raters" if i == 0 else None)  # fmt: skip
        if len(each := row.get("each", ())) > 1:
            axis.plot(100 * np.array(each), [place + 0.3] * len(each), ".", color="#9a9a9a", markersize=4,
                      label="single pairs of sets" if row["outcome"] == "win" else None)  # fmt: skip
        if row["paper"] is not None:
            axis.plot(100 * row["paper"], place - 0.3, "X", color="#e07b39", markeredgecolor="black", markersize=7,
                      label="people (paper)" if i == 0 else None)  # fmt: skip
        places.append(place)
        names.append(f"{row['a']} against {row['b']}: {name}" if row["outcome"] == "win" else name)
    axis.set(yticks=places, yticklabels=names, xlabel=label, xlim=limits, ylim=(places[-1] + 0.7, 0))
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
    x, y = np.clip([r["predicted"] for r in rows], 5e-4, 1 - 5e-4), [r["good"] for r in rows]
    error = [[max(0, r["good"] - r["low"]) for r in rows], [max(0, r["high"] - r["good"]) for r in rows]]
    axis.errorbar(x, y, yerr=error, fmt=MARKERS.get(label, "D") + "-",
                  color=COLOURS.get(label, COLOURS["reward"]), capsize=3, markersize=5, label=label)  # fmt: skip
    line = np.linspace(4e-4, 1 - 4e-4, 2_000)
    axis.plot(line, line, "--", color="#777777", linewidth=1, label="perfect calibration")
    axis.set(xlabel=f"predicted reward r (log-odds scale)\n{len(scores):,} images", ylabel="share labelled good")
    axis.set_xscale("logit")  # most rewards are near 0 or 1
    axis.set(xlim=(4e-4, 1 - 4e-4), ylim=(0, 1), xticks=(t := (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)), xticklabels=t)
    axis.minorticks_off()
    axis.legend(fontsize=7)
    return rows


def claims(rows: Sequence[Mapping], figure_size: tuple[float, float] = (9, 8)) -> Figure:
    """Each tested claim's value with its interval beside the paper's, `rows` of claims.json with `name` and `unit`.

    Marker shape is the verdict, filled where the claim holds; a panel for shares, one for differences, one for relative
    changes. Where the paper's difference is negative, the sign is turned.
    """
    look = {"reproduced": ("o", "#2f6f9f"), "not reproduced": ("s", "#e07b39"), "not resolved": ("D", "#777777"),
            "by construction": ("^", "#2f6f9f")}  # fmt: skip
    rows = [r for r in rows if r["value"] is not None and r["unit"] in ("%", "points", "%change")]
    panels = {
        "share (%)": [r for r in rows if r["unit"] == "%"],
        "difference (points), to the right as in the paper": [r for r in rows if r["unit"] == "points"],
        "relative difference (%), to the right as in the paper": [r for r in rows if r["unit"] == "%change"],
    }
    heights = [max(1, len(part)) for part in panels.values()]
    figure, axes = plt.subplots(3, 1, figsize=figure_size, height_ratios=heights, layout="constrained")
    for axis, (label, part) in zip(axes, panels.items(), strict=True):
        axis.axvline(0, color="#777777", linestyle="--", linewidth=1, label="_")
        for i, r in enumerate(part):
            marker, colour = look[r["verdict"]]
            turn = -100 if turned(r) else 100
            ends = [turn * (r[k] if r[k] is not None else r["value"]) for k in ("low", "high")]
            x = turn * r["value"]
            error = [[x - min(ends)], [max(ends) - x]]
            filled = colour if marker in "o^" else "white"
            axis.errorbar(x, i, xerr=error, fmt=marker, color=colour, markerfacecolor=filled, capsize=3, markersize=7)
            if r["paper_value"] is not None:
                axis.plot(turn * r["paper_value"], i - 0.25, "X", color="black", markersize=7, clip_on=False, zorder=3)
        names = [f"{r['name']} ({'sign turned, ' * turned(r)}n = {r['n']}, seeds = {r['seeds']})" for r in part]
        axis.margins(x=0.05)
        axis.set(yticks=range(len(part)), yticklabels=names, xlabel=label, ylim=(max(1, len(part)) - 0.5, -0.5))
        axis.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes[2].set_xscale("symlog", linthresh=20)  # one wide interval must not hide the others
    axes[2].xaxis.set_major_formatter("{x:g}")
    for verdict, (marker, colour) in look.items():
        axes[0].plot([], [], marker, color=colour, markerfacecolor=colour if marker in "o^" else "white", label=verdict)
    axes[0].plot([], [], "X", color="black", label="paper")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=8)
    return figure


def turned(row: Mapping) -> bool:
    """Whether a claim is that a difference is negative, by its rule or else by the paper's value."""
    return row["unit"] != "%" and ("bound below" in row["rule"] and "bound above" not in row["rule"]
                                   or (row["paper_value"] or 0) < 0)  # fmt: skip
