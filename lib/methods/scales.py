"""Guidance as an axis: at which guidance scale a model is used, by one rule for every model."""

from collections.abc import Mapping, Sequence

from lib.ground.checks import finite

SWEPT = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # scales of the base, in notebook 01
COMPARED = (1.5, 2.0, 3.0, 4.0, 6.0)  # scales at which models are compared, in notebook 06
BUDGET = 1.5  # the largest Fréchet distance at which a model may be used, over the base's smallest


def best_within(points: Sequence[Mapping], limit: float) -> Mapping:
    """The point of the highest `good` share, in [0, 1], among those whose `frechet` distance is at most `limit`.

    Where none is, the point of the smallest distance, and a line says so; among equals, the first. Raises ValueError on no
    points.
    """
    if not len(points):
        raise ValueError("no scales to choose among: give at least one point")
    finite("good shares", [p["good"] for p in points])
    distances = finite("distances", [p["frechet"] for p in points])
    if within := [p for p in points if p["frechet"] <= limit]:
        return max(within, key=lambda p: p["good"])
    print(f"no distance is at most {limit:.1f}: the smallest, {min(distances):.1f}, is taken")
    return min(points, key=lambda p: p["frechet"])
