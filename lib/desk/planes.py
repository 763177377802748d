"""Charts of two quantities that were both measured, such as alignment against fidelity: intervals both ways, always."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke

from lib.desk.charts import legend_above
from lib.desk.figures import COLOURS, MARKERS

OUTLINE = [withStroke(linewidth=2.5, foreground="white")]  # of labels that lie on lines


def positions(rows: Sequence[Mapping], axis, x: str, y: str, label: str, joined: bool = False) -> None:
    """Named points with intervals both ways: rows of `point` and, of x and y, value, `_low` and `_high`.

    Shapes tell points apart without colour; the first is the base. The others are `joined` where they have an order.
    """
    if joined:
        axis.plot([r[x] for r in rows[1:]], [r[y] for r in rows[1:]], "-", color="#b3b3b3", linewidth=1, zorder=0, label="_")
    for i, row in enumerate(rows):
        bars = [[[row[k] - row[k + "_low"]], [row[k + "_high"] - row[k]]] for k in (x, y)]
        shade = COLOURS["base"] if i == 0 else plt.get_cmap("viridis")(0.15 + 0.7 * (i - 1) / max(1, len(rows) - 2))
        axis.errorbar(row[x], row[y], *reversed(bars), fmt="osD^vPX"[i % 7], color=shade, capsize=3, label=row["point"])
    axis.set(ylabel=label)
    if axis.get_subplotspec().is_first_row():  # the rows below show the same points
        legend_above(axis)


def labelled(rows: Sequence[Mapping], axis, x: str, y: str, arrow: tuple[str, str] | None = None) -> None:
    """Named points with intervals both ways and their names beside them, and an arrow from one to another.

    Rows of `model` and, of x and y, value, `_low` and `_high`; y is a share in [0, 1], shown in %.
    """
    place = {r["model"]: (r[x], 100 * r[y]) for r in rows}
    for r in rows:
        name, colour = r["model"], COLOURS.get(r["model"], "#2f6f9f")
        reach = [[[s * (r[k] - r[f"{k}_low"])], [s * (r[f"{k}_high"] - r[k])]] for k, s in ((y, 100), (x, 1))]
        _, caps, reaches = axis.errorbar(
            *place[name], *reach, fmt=MARKERS.get(name, "o"), color=colour, markersize=8, label=name
        )  # fmt: skip
        for mark in (*caps, *reaches):
            mark.set_alpha(0.45)
    axis.get_xlim(), axis.get_ylim()  # settles the scale, which matplotlib puts off
    middle = {name: axis.transData.transform(at) for name, at in place.items()}
    taken = [(px - 6, px + 6, py - 6, py + 6) for px, py in middle.values()]  # left, right, lower, upper ends, in pixels
    for name, at in place.items():
        px, py = middle[name]
        wide, sides = 7.5 * len(name), ((9, 7), (9, -17), (-9, 7), (-9, -17), (9, 21), (9, -31))
        boxes = [(px + dx - wide * (dx < 0), px + dx + wide * (dx > 0), py + dy, py + dy + 12) for dx, dy in sides]
        free = [k for k, (a, b, c, d) in enumerate(boxes) if all(b < e or f < a or d < g or h < c for e, f, g, h in taken)]
        (dx, dy), box = (x[free[0] if free else 0] for x in (sides, boxes))
        taken.append(box)
        axis.annotate(name, at, xytext=(0.7 * dx, 0.7 * dy), textcoords="offset points", fontsize=8,
                      ha="right" if dx < 0 else "left", color=COLOURS.get(name, "#2f6f9f"),
                      path_effects=OUTLINE)  # fmt: skip
    if arrow:
        start, end = (place[name] for name in arrow)
        axis.annotate("", end, start, arrowprops=dict(arrowstyle="->", color="#777777", linewidth=1.2, shrinkA=7, shrinkB=7))


def paths(rows: Sequence[Mapping], axis, x: str, y: str, by: str, at: str, percent: bool = True) -> None:
    """Points joined in the order of `rows`, a line for each value of `by`; each with intervals both ways and its `at`.

    Of x and y there are value, `_low` and `_high`; y is a share in [0, 1] where `percent`.
    """
    names = list(dict.fromkeys(r[by] for r in rows))
    for name in names:
        part, scale = [r for r in rows if r[by] == name], {x: 1, y: 100 if percent else 1}
        here = {k: scale[k] * np.array([r[k] for r in part]) for k in (x, y)}
        reach = {k: scale[k] * np.array([[r[k] - r[f"{k}_low"], r[f"{k}_high"] - r[k]] for r in part]).T for k in (x, y)}
        colour = COLOURS.get(name, "#2f6f9f")
        _, caps, reaches = axis.errorbar(
            here[x], here[y], reach[y], reach[x], fmt=MARKERS.get(name, "o") + "-", color=colour, capsize=0, markersize=6,
            linewidth=1.6, elinewidth=0.9, label=name,
        )  # fmt: skip
        for mark in (*caps, *reaches):
            mark.set_alpha(0.4)
        side = (6, 4) if names.index(name) % 2 else (-6, 4)
        for r, *place in zip(part, here[x], here[y], strict=True):
            axis.annotate(f"{r[at]:g}", place, xytext=side, textcoords="offset points", fontsize=8, color=colour,
                          ha="left" if side[0] > 0 else "right", path_effects=OUTLINE)  # fmt: skip
