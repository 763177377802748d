"""The benchmark's rates: items over seconds, their arithmetic, and the share of the machine's own matrix rate."""

import numpy as np
import pytest
import torch

from lib.desk import bench


def test_a_rate_is_items_over_the_seconds_of_the_best_counted_round(monkeypatch):
    clock, rounds = iter(np.cumsum([0, 1, 0, 4, 0, 2, 0, 5])), []
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    found = bench.rate("x", lambda: rounds.append(1), 10)
    assert found.items == 10 / 2 and found.operations is None
    assert len(rounds) == 4  # the first is not counted, though it was the fastest


def test_arithmetic_is_that_of_one_item():
    a = torch.ones(8, 16)
    found = bench.rate("x", lambda: [a @ a.T for _ in range(3)], 3, of=lambda: a @ a.T)
    assert found.operations == 2 * 8 * 8 * 16


def test_the_matrix_rate_is_that_of_multiplying_two_square_matrices(monkeypatch):
    monkeypatch.setattr(bench, "seconds", lambda work: work() is None or 0.5)
    monkeypatch.setattr(bench.precision, "FAST_BFLOAT16", True)
    assert bench.matrix_rate(torch.float32, 4) == 2 * 4**3 / 0.5
    monkeypatch.setattr(bench, "matrix_rate", lambda dtype: 7.0)
    assert bench.matrix_rates() == {torch.float32: 7.0, torch.bfloat16: 7.0}
    monkeypatch.setattr(bench.precision, "FAST_BFLOAT16", False)
    assert bench.matrix_rates() == {torch.float32: 7.0}


def test_every_part_of_the_study_has_a_rate_and_a_line(monkeypatch, capsys):
    monkeypatch.setattr(bench, "BATCHES", (2,))
    monkeypatch.setattr(bench, "UPDATES", {(1, 1): 1})
    monkeypatch.setattr(bench, "matrix_rates", lambda: {torch.float32: 1e12, torch.bfloat16: 2e12})
    bench.main()
    lines = capsys.readouterr().out.splitlines()
    assert "1,000 GFLOP/s in float32" in lines[0] and "2,000 GFLOP/s in bfloat16" in lines[0]
    named = [line[43:].strip() for line in lines[2:]]
    for part in ("rendered", "sampled", "judged", "images embedded", "prompts embedded", "of a reward", "in fine-tuning"):
        assert any(part in name for name in named)
    assert all(float(line.split()[0].replace(",", "")) > 0 for line in lines[2:])


def test_work_of_more_than_a_minute_is_timed_once(monkeypatch):
    clock, rounds = iter([0, 61]), []
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    assert bench.seconds(lambda: rounds.append(1)) == 61 and len(rounds) == 1


@pytest.mark.parametrize("operations, share", [(5e11, "50%"), (None, "")])
def test_the_share_is_of_the_rate_in_the_precision_of_the_work(operations, share, monkeypatch, capsys):
    monkeypatch.setattr(bench, "matrix_rates", lambda: {torch.float32: 1e12, torch.bfloat16: 2e12})
    monkeypatch.setattr(bench, "rates", lambda: [bench.Rate("some work", 1.0, operations)])
    bench.main()
    assert share in capsys.readouterr().out.splitlines()[-1]
