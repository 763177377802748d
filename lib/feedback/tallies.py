"""Vote counts: by two thirds of nine votes and as mean shares, beside the paper's, and in excess of a model against itself.

Each comparison is one tally. A model against itself has several tallies, of pairs of sets drawn at random: they show what
votes say when there is no difference.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from lib.feedback.votes import CELLS, PAPER_OUTCOMES, PAPER_SHARES
from lib.ground.stats import Interval, cluster_bootstrap, votes
from lib.world.prompts import parse
from lib.world.scenes import UNSEEN

VOTES = ("win", "lose", "tie")  # for A, for B, for neither
OUTCOMES = (*VOTES, "none")  # which of these has two thirds of the votes; none: no two-thirds majority


def tally(found: np.ndarray, prompts: Sequence[str]) -> pd.DataFrame:
    """One row per prompt: vote shares `win`, `lose`, `tie`, two-thirds `outcome` (of OUTCOMES), `category`, `objects`."""
    if (wrong := ~np.isin(found, (1, -1, 0))).any():
        count = f"{wrong.sum()} of {found.size}"
        raise ValueError(f"{count} votes, such as {found[wrong][0]}, are not 1 (A), -1 (B) or 0 (tie)")
    table = votes(*((found == v).sum(0) for v in (1, -1, 0)))
    undecided = table.outcome == "tie"
    table.loc[undecided, "outcome"] = np.where(table.tie[undecided] > 2 / 3 + 1e-9, "tie", "none")
    named = [parse(p) for p in prompts]
    return table.assign(
        prompt=list(prompts), category=[n.category for n in named],
        objects=["unseen" if n.object in UNSEEN else "seen" for n in named],
    )  # fmt: skip


def _each(tables: Sequence[pd.DataFrame], value: Callable[[pd.DataFrame], pd.Series]) -> np.ndarray:
    """A value for each prompt in each tally, float [tally, prompt]; raises ValueError if the tallies' prompts differ."""
    if any(t.prompt.tolist() != tables[0].prompt.tolist() for t in tables):
        raise ValueError("tallies must be of the same prompts in the same order")
    return np.stack([value(t) for t in tables]).astype(float)


def outcomes(*tables: pd.DataFrame) -> list[dict]:
    """The share of queries with each outcome by two thirds, with 95 % intervals over prompts.

    For several tallies this is their mean, with an interval over prompts and tallies; `each` has the share in each tally.
    """
    rows = []
    for outcome in OUTCOMES:
        found = _each(tables, lambda t, o=outcome: t.outcome == o)
        f = cluster_bootstrap(found, tables[0].prompt)
        rows.append(dict(outcome=outcome, value=f.value, low=f.low, high=f.high, prompts=f.clusters,
                         each=found.mean(1).tolist()))  # fmt: skip
    return rows


def in_excess(table: pd.DataFrame, null: Sequence[pd.DataFrame]) -> list[dict]:
    """The shares of queries won, lost and tied by two thirds, minus the mean shares in the `null` tallies, of a model
    against itself; 95 % intervals over prompts and those tallies."""
    rows = []
    for outcome in VOTES:
        found, *by_chance = _each([table, *null], lambda t, o=outcome: t.outcome == o)
        f = cluster_bootstrap(found - np.stack(by_chance), table.prompt)
        rows.append(dict(outcome=outcome, value=f.value, low=f.low, high=f.high, prompts=f.clusters))
    return rows


def won_less_lost(*tables: pd.DataFrame) -> dict[str, Interval]:
    """Net votes (won minus lost) by both readings, with 95 % intervals over prompts and, if there are several, tallies."""
    mean = _each(tables, lambda t: t.win - t.lose)
    outright = _each(tables, lambda t: t.outcome == "win") - _each(tables, lambda t: t.outcome == "lose")
    return {name: cluster_bootstrap(x, tables[0].prompt) for name, x in (("mean share", mean), ("two thirds", outright))}


def shares(*tables: pd.DataFrame) -> list[dict]:
    """Mean vote shares, overall and by category and objects, with 95 % intervals over prompts (and tallies)."""
    first, rows = tables[0], []
    cells = {(c, o): ((first.category == c) & (first.objects == o)).to_numpy() for c, o in CELLS}
    for (category, objects), part in ({("all", "all"): np.ones(len(first), bool)} | cells).items():
        for vote in VOTES if part.sum() > 1 else ():
            f = cluster_bootstrap(_each(tables, lambda t, v=vote: t[v])[:, part], first.prompt[part])
            rows.append(dict(category=category, objects=objects, vote=vote, value=f.value, low=f.low, high=f.high,
                             prompts=f.clusters))  # fmt: skip
    return rows


def beside_paper(rows: Sequence[dict], a: str, b: str, question: str) -> list[dict]:
    """Rows of `outcomes` or `shares`, with what was compared and the share among the paper's people (None: not asked)."""
    people = {}
    if voted := PAPER_OUTCOMES.get((a, b), {}).get(question):
        people |= dict(zip(OUTCOMES, (*voted, 100 - sum(voted)), strict=True))
        for cell, percent in zip(CELLS, PAPER_SHARES[a, b][question], strict=True):
            people |= {(*cell, vote): x for vote, x in zip(VOTES, percent, strict=True)}
    said = [people.get(r["outcome"] if "outcome" in r else (r["category"], r["objects"], r["vote"])) for r in rows]
    of = dict(a=a, b=b, question=question)
    return [of | r | dict(paper=None if x is None else x / 100) for r, x in zip(rows, said, strict=True)]
