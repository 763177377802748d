"""Votes are counted as the paper counts them, and what a model wins of itself is no win."""

import numpy as np
import pandas as pd
import pytest

from lib.feedback import tallies
from lib.feedback.votes import CELLS, PAPER_OUTCOMES, PAPER_SHARES
from lib.world.prompts import evaluation_prompts, parse
from lib.world.scenes import UNSEEN

PROMPTS = evaluation_prompts()


def by_lot(chances, seed: int, prompts=PROMPTS) -> pd.DataFrame:
    """A tally of nine raters who agree, with these chances of a win, a loss and a tie on each prompt."""
    vote = np.random.default_rng(seed).choice((1, -1, 0), size=len(prompts), p=chances)
    return tallies.tally(np.tile(vote, (9, 1)), prompts)


def share(rows, outcome: str) -> dict:
    (row,) = [r for r in rows if r["outcome"] == outcome]
    return row


def test_seven_votes_of_nine_decide_for_a_side_or_for_a_tie_and_six_for_nothing():
    columns = {"win": (7, 1, 1), "lose": (0, 7, 2), "tie": (1, 1, 7), "none": (6, 0, 3), "none too": (2, 1, 6)}
    found = np.array([[1] * w + [-1] * lose + [0] * t for w, lose, t in columns.values()]).T
    table = tallies.tally(found, PROMPTS[:5])
    assert table.outcome.tolist() == ["win", "lose", "tie", "none", "none"]
    assert table.win.tolist() == pytest.approx([w / 9 for w, _, _ in columns.values()])
    shares = {r["outcome"]: r["value"] for r in tallies.outcomes(table)}
    assert shares == pytest.approx({"win": 0.2, "lose": 0.2, "tie": 0.2, "none": 0.4})


def test_cells_split_by_category_and_by_seen_objects():
    prompts = evaluation_prompts()
    unseen = np.array([parse(p).object in UNSEEN for p in prompts])
    found = np.tile(np.where(unseen, -1, 1), (9, 1))
    table = {(r["category"], r["objects"], r["vote"]): r for r in tallies.shares(tallies.tally(found, prompts))}
    assert len(table) == 3 * (1 + len(CELLS)) and table["all", "all", "win"]["value"] == 0.5
    for category, objects in CELLS:
        assert table[category, objects, "win" if objects == "seen" else "lose"]["value"] == 1
        assert table[category, objects, "tie"]["prompts"] == 20


def test_several_tallies_give_their_mean_and_each_share():
    several = [by_lot((0.5, 0.2, 0.3), seed) for seed in range(6)]
    alone = [share(tallies.outcomes(t), "win") for t in several]
    row = share(tallies.outcomes(*several), "win")
    assert row["each"] == [a["value"] for a in alone] == [a["each"][0] for a in alone]
    assert row["value"] == pytest.approx(np.mean(row["each"])) and row["low"] < row["value"] < row["high"]
    assert row["high"] - row["low"] < alone[0]["high"] - alone[0]["low"]
    shares = {r["vote"]: r["value"] for r in tallies.shares(*several) if r["category"] == "all"}
    assert shares == pytest.approx({v: np.mean([t[v].mean() for t in several]) for v in ("win", "lose", "tie")})


def test_tallies_of_other_prompts_or_another_order_are_not_taken_together():
    a, b = by_lot((0.5, 0.2, 0.3), 0), by_lot((0.5, 0.2, 0.3), 1, PROMPTS[::-1])
    for count in (lambda: tallies.outcomes(a, b), lambda: tallies.in_excess(a, [b]), lambda: tallies.shares(a, b)):
        with pytest.raises(ValueError, match="^tallies must be of the same prompts in the same order$"):
            count()


def test_won_less_lost_has_both_readings():
    found = np.array([[1] * 7 + [-1] * 2, [1] * 5 + [-1] * 4]).T
    both = tallies.won_less_lost(tallies.tally(found, PROMPTS[:2]))
    assert both["mean share"].value == pytest.approx((5 / 9 + 1 / 9) / 2) and both["two thirds"].value == pytest.approx(0.5)
    turned = tallies.won_less_lost(tallies.tally(-found, PROMPTS[:2]))
    assert all(turned[k].value == pytest.approx(-both[k].value) for k in both)


# ---- in excess of a model against itself ------------------------------------------------------------------------------


def test_a_model_is_not_in_excess_of_itself():
    null = [by_lot((0.25, 0.2, 0.55), seed) for seed in range(20)]
    every = [tallies.in_excess(t, null) for t in null]
    for outcome in ("win", "lose", "tie"):  # on average over the pairs of the null exactly nothing
        assert np.mean([share(rows, outcome)["value"] for rows in every]) == pytest.approx(0, abs=1e-12)
    fresh = [tallies.in_excess(by_lot((0.25, 0.2, 0.55), seed), null) for seed in range(100, 140)]
    inside = [share(rows, "win")["low"] <= 0 <= share(rows, "win")["high"] for rows in fresh]
    assert np.mean(inside) >= 0.85


def test_what_is_won_beyond_chance_is_the_share_less_the_nulls_mean():
    null = [by_lot((0.25, 0.2, 0.55), seed) for seed in range(20)]
    better = by_lot((0.6, 0.05, 0.35), 50)
    rows = tallies.in_excess(better, null)
    assert [r["outcome"] for r in rows] == ["win", "lose", "tie"] and {r["prompts"] for r in rows} == {len(PROMPTS)}
    for row in rows:
        mean = np.mean([(t.outcome == row["outcome"]).mean() for t in null])
        assert row["value"] == pytest.approx((better.outcome == row["outcome"]).mean() - mean)
    assert share(rows, "win")["low"] > 0.2 and share(rows, "lose")["high"] < 0


def test_the_interval_of_an_excess_is_over_prompts_and_pairs():
    """A null of one pair is known no better than the comparison; of twenty, far better."""
    null, taken = [by_lot((0.25, 0.2, 0.55), seed) for seed in range(20)], by_lot((0.6, 0.05, 0.35), 50)
    width = [share(tallies.in_excess(taken, n), "win") for n in (null[:1], null)]
    width = [r["high"] - r["low"] for r in width]
    raw = share(tallies.outcomes(taken), "win")
    assert raw["high"] - raw["low"] < width[1] < 0.9 * width[0]
    sure = by_lot((1, 0, 0), 0)  # where all prompts say the same, the pairs alone make it wide
    (row,) = [r for r in tallies.in_excess(sure, [sure] * 5 + [by_lot((0, 1, 0), 0)] * 15) if r["outcome"] == "win"]
    assert row["value"] == pytest.approx(0.75) and row["low"] < 0.6 and row["high"] > 0.85


# ---- beside the paper -------------------------------------------------------------------------------------------------


def test_each_row_stands_beside_what_the_papers_people_said_of_it():
    table, pair = by_lot((0.5, 0.2, 0.3), 0), ("full method", "base + rejection")
    rows = tallies.beside_paper(tallies.outcomes(table), *pair, "fidelity")
    assert [r["paper"] for r in rows] == pytest.approx([0.03, 0.20, 0.0, 0.77])
    assert {(r["a"], r["b"], r["question"]) for r in rows} == {(*pair, "fidelity")}
    cells = tallies.beside_paper(tallies.shares(table), *pair, "fidelity")
    found = {(r["category"], r["objects"], r["vote"]): r["paper"] for r in cells}
    assert found["count", "unseen", "lose"] == pytest.approx(0.522) and found["all", "all", "win"] is None
    assert sum(x is not None for x in found.values()) == 3 * len(CELLS)
    null = tallies.beside_paper(tallies.outcomes(table), "base again", "base", "alignment")
    assert {r["paper"] for r in null} == {None} and len(PAPER_OUTCOMES) == len(PAPER_SHARES) == 3
