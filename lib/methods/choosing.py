"""Rules, fixed before any measurement, that choose a model's guidance scale and the settings of a grid.

They maximise the panel's good share on prompts that no evaluation uses, within a budget of Fréchet distance on captions that
are used for nothing else.
"""

from collections.abc import Mapping, Sequence

from lib.ground.checks import finite

SWEPT = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # guidance scales of the base, in notebook 01
COMPARED = (1.5, 2.0, 3.0, 4.0, 6.0)  # scales at which models are compared, in notebook 06
BUDGET = 1.5  # the largest distance at which a model may be used, relative to the base's smallest
STRENGTHS = (1.0, 2.0, 4.0, 8.0)  # of the reward direction: `lib.methods.arithmetic`


def best_within(points: Sequence[Mapping], limit: float) -> Mapping:
    """The point with the highest `good` share, in [0, 1], among those whose `frechet` distance is at most `limit`.

    If there is none, the point with the smallest distance, and a line says so; of equal points, the first. Raises ValueError
    if there are no points.
    """
    if not len(points):
        raise ValueError("no points to choose from: give at least one")
    finite("good shares", [p["good"] for p in points])
    distances = finite("distances", [p["frechet"] for p in points])
    if within := [p for p in points if p["frechet"] <= limit]:
        return max(within, key=lambda p: p["good"])
    print(f"no distance is at most {limit:.1f}, so the point with the smallest, {min(distances):.1f}, is used")
    return min(points, key=lambda p: p["frechet"])


def budget(base: Sequence[Mapping], used: float | None = None) -> float:
    """The largest distance at which a model may be used, from the base's points at the guidance scales: `BUDGET` times the
    smallest or, given the scale at which the base is `used`, at least its distance there.

    Raises ValueError if no point has that scale.
    """
    limit = BUDGET * min(p["frechet"] for p in base)
    if used is None:
        return limit
    there = [p["frechet"] for p in base if p["scale"] == used]
    if not there:
        scales = ", ".join(f"{p['scale']:g}" for p in base)
        raise ValueError(f"there is no point at guidance scale {used:g}: expected one of {scales}")
    return max(limit, *there)


def each_at_its_best(base: Sequence[Mapping], model: Sequence[Mapping], used: float) -> tuple[Mapping, Mapping]:
    """The points of the base and of a model that are compared, both by `best_within` under one limit: the budget of a base
    that is `used` at this guidance scale or, for a model that exceeds it at every scale, that model's smallest distance,
    which the base may then reach, too."""
    limit = max(budget(base, used), min(p["frechet"] for p in model))
    return best_within(base, limit), best_within(model, limit)


def settled(rows: Sequence[Mapping], budget: float | None = None) -> Mapping:
    """The row of a grid that is used: the first (the grid's centre), unless another is ahead with an interval above 0.

    A row has `gain`; `ahead_low`, the lower bound of its gain minus the centre's; and `farther` with its lower bound
    `farther_low`, its distance relative to the base's, minus 1. A row is over the budget if even this lower bound says that
    its distance exceeds `budget` times the base's; without a budget (None) distances are not used. If the centre is over the
    budget, the best of the others replaces it; if all are, the row with the smallest distance does, and a line says so.
    Raises ValueError if there are no rows.
    """
    if not len(rows):
        raise ValueError("no rows to choose from: give at least one")
    finite("gains", [r["gain"] for r in rows])
    within = [r for r in rows if budget is None or finite("distances", r["farther_low"]) <= budget - 1]
    if not within:
        print(f"all settings increase the distance by over {budget - 1:.0%}, so the one with the smallest increase is used")
        return min(rows, key=lambda r: r["farther"])
    ahead = [r for r in within if r is not rows[0] and r["ahead_low"] > 0]
    if within[0] is rows[0] and not ahead:
        return rows[0]
    return max(ahead or within, key=lambda r: r["gain"])
