"""The benchmark's rates: items over seconds, of every part, and bfloat16 left as it was."""

import numpy as np

from lib.desk import bench
from lib.ground import precision


def test_a_rate_is_items_over_the_seconds_of_the_best_counted_round(monkeypatch):
    clock, rounds = iter(np.cumsum([0, 4, 0, 2, 0, 5])), []
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    assert bench.rate(lambda: rounds.append(1), 10) == 10 / 2
    assert len(rounds) == 4  # one is not counted


def test_float32_is_timed_where_bfloat16_is_fast_and_then_switched_back(monkeypatch):
    monkeypatch.setattr(bench, "rate", lambda work, count: work())
    for fast, expected in ((True, {"x": True, "x, in float32": False}), (False, {"x": False})):
        monkeypatch.setattr(precision, "FAST_BFLOAT16", fast)
        assert bench.in_both_precisions("x", lambda: precision.FAST_BFLOAT16, 1) == expected
        assert precision.FAST_BFLOAT16 is fast


def test_every_part_of_the_study_has_a_rate(monkeypatch):
    monkeypatch.setattr(bench, "IMAGES", 2)
    monkeypatch.setattr(bench, "UPDATES", 1)
    found = bench.rates()
    assert {"scenes rendered", "images sampled", "updates of a reward", "updates in fine-tuning"} <= set(found)
    assert all(np.isfinite(x) and x > 0 for x in found.values())
