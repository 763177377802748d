"""Agreement of raters, accuracy on pairs, votes, and intervals from resampled prompts and seeds."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from statsmodels.stats import inter_rater
from statsmodels.stats.proportion import proportion_confint

from lib.ground.checks import finite
from lib.ground.seeds import rng_of

LEVELS = ("nominal", "ordinal", "interval")


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds, from `n` items in `clusters` (prompts) and, if there are several, `seeds`."""

    value: float
    low: float
    high: float
    n: int
    clusters: int
    seeds: int = 1

    def __str__(self) -> str:
        return (
            f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n = {self.n:,} ({self.clusters:,} clusters)"
        )


# ---- agreement of raters ---------------------------------------------------------------------------------


def _matrix(ratings: ArrayLike) -> np.ndarray:
    ratings = finite("ratings", np.asarray(ratings, float), missing=True)
    if ratings.ndim != 2:
        raise ValueError(f"ratings must be a table of items x raters, got an array of {ratings.ndim} dimension(s)")
    if not ((~np.isnan(ratings)).sum(1) > 1).any():
        raise ValueError("agreement needs at least one item with two ratings")
    return ratings


def _counts(ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many raters gave each item each value, float [item, value], and the values in ascending order, [value]."""
    values = np.unique(ratings[~np.isnan(ratings)])
    return np.stack([(ratings == v).sum(1) for v in values], 1).astype(float), values


def krippendorff_alpha(ratings: ArrayLike, level: str = "nominal") -> float:
    """Krippendorff's alpha of ratings [item, rater], NaN where missing: 1 is agreement, 0 chance.

    `level` sets the distance between two values: `nominal` (0 or 1), `ordinal` (squared difference of mid-ranks)
    or `interval` (squared difference). Items with fewer than two ratings do not count. NaN if all ratings have
    the same value, where alpha is undefined. Krippendorff 2011, Computing Krippendorff's alpha-reliability.
    """
    if level not in LEVELS:
        raise ValueError(f"unknown level {level!r}: expected one of {', '.join(LEVELS)}")
    ratings = _matrix(ratings)
    counts, values = _counts(ratings[(~np.isnan(ratings)).sum(1) > 1])
    pairs_of_one = counts / (counts.sum(1, keepdims=True) - 1)
    coincidences = counts.T @ pairs_of_one - np.diag(pairs_of_one.sum(0))  # [value, value]
    totals = coincidences.sum(0)
    place = totals.cumsum() - totals / 2 if level == "ordinal" else values
    distance = 1 - np.eye(len(values)) if level == "nominal" else (place[:, None] - place) ** 2
    expected = (np.outer(totals, totals) * distance).sum() / (totals.sum() - 1)
    return float(1 - (coincidences * distance).sum() / expected) if expected else float("nan")


def fleiss_kappa(ratings: ArrayLike) -> float:
    """Fleiss' kappa of nominal ratings [item, rater], NaN where missing: 1 is agreement, 0 chance.

    Fleiss 1971 (statsmodels) for complete tables. With missing ratings, Gwet's generalisation (2014, Handbook of
    Inter-Rater Reliability, 4th edition): agreement over items with two or more ratings, chance from the mean
    share of each value over items with any. NaN if all ratings have the same value.
    """
    ratings = _matrix(ratings)
    counts, _ = _counts(ratings)
    if counts.shape[1] == 1:
        return float("nan")
    if not np.isnan(ratings).any():
        return float(inter_rater.fleiss_kappa(counts))
    given = counts.sum(1)
    agreeing = ((counts**2).sum(1) - given)[given > 1] / (given * (given - 1))[given > 1]  # share of pairs
    chance = ((counts[given > 0] / given[given > 0, None]).mean(0) ** 2).sum()
    return float((agreeing.mean() - chance) / (1 - chance))


def votes(wins: ArrayLike, losses: ArrayLike, ties: ArrayLike, share: float = 2 / 3) -> pd.DataFrame:
    """Both ways to read votes: one row per query, with its `outcome` and its vote shares `win`, `lose` and `tie`.

    `wins`, `losses` and `ties` are numbers of votes [query]. A side takes the query (outcome `win` or `lose`)
    with more than `share` of all votes, tie votes included; otherwise it is a `tie`. More than two thirds of
    9 votes means the 7 of Lee et al. 2023, Figure 4; the means of the shares correspond to their Table 5.
    """
    if not 0.5 <= share < 1:
        raise ValueError(f"share must be in [0.5, 1), so that only one side can exceed it, got {share}")
    counts = np.stack(np.broadcast_arrays(*(np.atleast_1d(v) for v in (wins, losses, ties))), 1).astype(float)
    total = finite("votes", counts).sum(1)
    if not (counts >= 0).all() or not (total > 0).all():
        raise ValueError("votes must be counts of zero or more, and every query needs at least one vote")
    needed = share * total + 1e-9  # 2/3 is not exact
    outcome = np.select([counts[:, 0] > needed, counts[:, 1] > needed], ["win", "lose"], "tie")
    return pd.DataFrame(counts / total[:, None], columns=["win", "lose", "tie"]).assign(outcome=outcome)


# ---- accuracy on pairs -----------------------------------------------------------------------------------


def grouped_pairwise_accuracy(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike) -> pd.DataFrame:
    """Accuracy on pairs of a good and a bad image of one prompt: one row per group, with `right` and `pairs`.

    `scores` [item], higher is better; `labels` [item], 1 (good), 0 (bad) or NaN (left out); `groups` [item],
    the prompts. `right` in [0, 1] is the share of pairs whose good item has the higher score, ties counting half:
    the area under the ROC curve, from ranks (Mann & Whitney 1947). Groups without a pair are left out. For all
    pairs: `cluster_bootstrap(t.right, t.index, weights=t.pairs)`.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels, float)
    table = pd.DataFrame({"score": scores, "label": labels, "group": groups})
    if (lost := table.group.isna()).any():
        raise ValueError(f"{lost.sum()} of {len(table)} items have no group: every item needs its prompt")
    table = table.dropna(subset="label")
    if not table.label.isin((0, 1)).all():
        raise ValueError("labels must be 1 (good), 0 (bad) or NaN (left out)")
    finite("scores of labelled items", np.where(np.isnan(labels), 0, scores))
    ranks = table.groupby("group").score.rank()  # ties share their mean rank
    sums = pd.DataFrame({"good": table.label, "n": 1.0, "ranks": ranks * table.label}).groupby(table.group).sum()
    sums["pairs"] = (sums.good * (sums.n - sums.good)).astype(int)
    sums = sums[sums.pairs > 0]
    if sums.empty:
        raise ValueError("no group has both a good and a bad item: label more images per prompt, or more prompts")
    return sums.assign(right=(sums.ranks - sums.good * (sums.good + 1) / 2) / sums.pairs)[["right", "pairs"]]


# ---- intervals -------------------------------------------------------------------------------------------


def cluster_bootstrap(
    values: ArrayLike,
    clusters: ArrayLike,
    statistic: Callable[[np.ndarray], float] | None = None,
    weights: ArrayLike | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of the mean of `values`, [item] or [seed, item], over resampled `clusters` and seeds.

    Images of one prompt resemble each other, so whole prompts (`clusters` [item]) are drawn, with replacement;
    with several seeds of one experiment, seeds are drawn too, crossed with prompts (Owen 2007, The pigeonhole
    bootstrap). `weights`, [item] or of the values' shape, make it a ratio: sum of weight x value over sum of
    weights. `statistic` replaces the mean and gets the drawn values; for a statistic of several columns, pass
    `np.arange(n)` as values. Draws on which it is NaN are left out, up to 5 %. The interval always contains the
    estimate. It is too narrow with few seeds or prompts: k of them show (k - 1) / k of their variance.
    """
    lost = np.asarray(pd.isna(clusters))
    values, clusters = np.asarray(values), np.asarray(clusters)
    if values.ndim not in (1, 2) or clusters.shape != values.shape[-1:]:
        raise ValueError(f"need one cluster per item, got shapes {values.shape} (values) and {clusters.shape} (clusters)")
    if statistic is not None and weights is not None:
        raise ValueError("weights apply to the mean only: pass np.arange(n) as values and apply them inside the statistic")
    if lost.any():
        raise ValueError(f"{lost.sum()} of {len(clusters)} items have no cluster: every item needs its prompt")
    names, member = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"need at least 2 clusters to draw from, got {len(names)}: use items of more prompts")
    rng, table = rng_of(seed), np.atleast_2d(values)  # [seed, item]
    seeds, k = len(table), len(names)
    if statistic is None:
        table = table.astype(float)
        weights = finite("weights", np.broadcast_to(1.0 if weights is None else np.asarray(weights, float), table.shape))
        if not (weights >= 0).all() or not weights.any():
            raise ValueError("weights must be at least 0 and not all 0")
        finite("values with a weight", np.where(weights > 0, table, 0))
        products = np.where(weights > 0, weights * table, 0)
        above, below = (np.stack([np.bincount(member, row, k) for row in t]) for t in (products, weights))
        value = above.sum() / below.sum()  # above, below: [seed, cluster]
        taken = rng.multinomial(k, np.full(k, 1 / k), draws)  # [draw, cluster]
        times = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws)  # [draw, seed]
        top, bottom = (((taken @ t.T) * times).sum(1) for t in (above, below))
        drawn = np.divide(top, bottom, out=np.full(draws, np.nan), where=bottom > 0)
    else:
        finite("values", values)
        members = np.split(np.argsort(member, kind="stable"), np.bincount(member).cumsum()[:-1])
        value, drawn = statistic(values), np.empty(draws)
        for i in range(draws):
            rows = np.concatenate([members[c] for c in rng.integers(k, size=k)])
            chosen = table[rng.integers(seeds, size=seeds)][:, rows]
            drawn[i] = statistic(chosen if values.ndim == 2 else chosen[0])
    if not np.isfinite(value) or np.isnan(drawn).mean() > 0.05:
        raise ValueError("the statistic is NaN on these items, or on more than 5 % of the draws")
    low, high = finite("the statistic's bounds", np.nanquantile(drawn, ((1 - level) / 2, (1 + level) / 2)))
    value, low, high = float(value), float(min(value, low)), float(max(value, high))
    return Interval(value, low, high, len(clusters), k, seeds)


def paired_difference(a: ArrayLike, b: ArrayLike, clusters: ArrayLike, **options) -> Interval:
    """Mean of `a` - `b` on the same items, [item] or [seed, item], with the interval of `cluster_bootstrap`.

    Both arms are resampled together, so a prompt's difficulty for both cancels out.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"a paired difference needs the same items on both sides, got shapes {a.shape} and {b.shape}")
    return cluster_bootstrap(a - b, clusters, **options)


def relative_difference(a: ArrayLike, b: ArrayLike, clusters: ArrayLike, draws: int = 500) -> Interval:
    """Mean of `a` over mean of `b`, minus 1, on the same items, [item] or [seed, item], with the interval of
    `cluster_bootstrap`. Raises ValueError if the mean of `b` is not above 0 on these items or on more than 5 % of draws."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"a relative difference needs the same items on both sides, got shapes {a.shape} and {b.shape}")

    def ratio(both: np.ndarray) -> float:
        return both.real.mean() / both.imag.mean() - 1 if both.imag.mean() > 0 else float("nan")

    both = finite("values", a) + 1j * finite("values", b)  # one number per item, so that its two sides are drawn together
    return cluster_bootstrap(both, clusters, statistic=ratio, draws=draws)


def share_interval(right: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """The share of true items, `right` [item], with its Wilson interval for independent items: value, low, high."""
    right = np.asarray(right)
    if not len(right):
        raise ValueError("a share needs at least one item")
    if (wrong := ~np.isin(right, (0, 1))).any():
        raise ValueError(f"{wrong.sum()} of {len(right)} items are neither true nor false, such as {right[wrong][0]}")
    low, high = proportion_confint(right.sum(), len(right), 1 - level, method="wilson")
    value = float(right.mean())
    return value, min(float(low), value), max(float(high), value)  # with none wrong, 1 - 1e-16 becomes 1
