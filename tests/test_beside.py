"""Yours beside ours: what differs is named, what should by chance is counted, and nothing of ours is touched."""

import json

import numpy as np
import pytest

from lib.desk import beside
from lib.ground import paths

VALUES = {"gain": (0.10, 0.06, 0.14), "share": (0.50, 0.40, 0.60), "psnr": (32.0, None, None)}


def run(folder, verdict="reproduced", without=(), **values):
    """A run of two claims and three quality figures, with other values where they are given."""
    found = {k: v for k, v in (VALUES | values).items() if k not in without}
    entries = [dict(name=k, value=v, low=low, high=high, n=9, seeds=1, size=folder.name, notebook="06_trade")
               for k, (v, low, high) in found.items()]  # fmt: skip
    claims = [dict(verdict=v, value=0.4, claim="It does.") for v in (verdict, "not reproduced")]
    parts = [dict(name=name, unit="%", reason="", parts=[]) for name in ("Gains", "Wins")]
    (folder / "results").mkdir(parents=True)
    for name, rows in {"quality.json": entries, "claims.json": claims, "results/claim_parts.json": {"rows": parts}}.items():
        (folder / name).write_text(json.dumps(rows), "utf-8")
    return folder


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Where ours and yours are: two folders without any run."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.delenv("STUDY_REPORTS", raising=False)
    return tmp_path / "reports", tmp_path / "reports" / "yours"


def said(capsys, size="laptop", code=0):
    assert beside.main(["--size", size]) == code
    out = capsys.readouterr()
    return out.err if code else out.out


def test_two_runs_that_agree_say_so_and_the_page_has_every_row(folders, capsys):
    ours, yours = run(folders[0] / "laptop"), run(folders[1] / "laptop", gain=(0.11, 0.07, 0.15))
    before = {p: p.read_bytes() for p in ours.rglob("*.json")}
    text = said(capsys)
    assert "Verdicts: 2 of 2 agree." in text and "Values: 0 of 2 lie outside our 95 % interval" in text
    assert "expect fewer" in text and "We did not publish" not in text and "ours  " not in text
    page = (yours / "beside.md").read_text("utf-8")
    assert "| `gain` | 0.100 [0.060, 0.140] | 0.110 [0.070, 0.150] | yes | 17% |" in page
    assert "| `psnr` | 32.000 | 32.000 | no interval |  |" in page and "| Gains | reproduced | 40 % | 40 % |" in page
    assert {p: p.read_bytes() for p in folders[0].rglob("*.json") if "yours" not in p.parts} == before


def test_a_flipped_verdict_and_a_value_outside_our_interval_are_named(folders, capsys):
    run(folders[0] / "laptop"), run(folders[1] / "laptop", verdict="not reproduced", share=(0.61, 0.5, 0.7))
    text = said(capsys)
    assert "Verdicts: 1 of 2 agree." in text and "Values: 1 of 2 lie outside" in text
    assert [line.split("  ")[0] for line in text.splitlines() if "40 %" in line or "0.610" in line] == ["Gains", "share"]
    assert "| **no** |" in (folders[1] / "laptop" / "beside.md").read_text("utf-8")


def test_our_interval_is_the_yardstick_and_not_yours(folders, capsys):
    run(folders[0] / "laptop", gain=(0.10, 0.0, 0.2)), run(folders[1] / "laptop", gain=(0.15, 0.14, 0.16))
    assert "Values: 0 of 2 lie outside" in said(capsys)
    run(folders[0] / "gpu", gain=(0.15, 0.14, 0.16)), run(folders[1] / "gpu", gain=(0.10, 0.0, 0.2))
    assert "Values: 1 of 2 lie outside" in said(capsys, "gpu")


def test_what_only_one_run_has_is_a_row_and_counts_neither_way(folders, capsys):
    run(folders[0] / "laptop", without=("gain",)), run(folders[1] / "laptop", without=("share",))
    assert "Values: 0 of 0 lie outside" in said(capsys)
    page = (folders[1] / "laptop" / "beside.md").read_text("utf-8")
    assert "| `gain` | none | 0.100 [0.060, 0.140] | no interval |  |" in page and "| `share` | 0.500 [" in page
    parts = folders[1] / "laptop" / "results" / "claim_parts.json"
    parts.write_text(parts.read_text("utf-8").replace("Wins", "Draws"), "utf-8")
    text = said(capsys)
    assert "Verdicts: 1 of 3 agree." in text and "Draws" in text and "no such claim" in text


def test_a_size_that_we_never_published_is_held_against_our_largest_and_says_so(folders, capsys):
    for size in ("smoke", "evening", "gpu"):
        run(folders[0] / size)
    run(folders[1] / "laptop")
    text = said(capsys)
    assert "size laptop beside ours of size gpu" in text and "We did not publish size laptop" in text
    assert "expect fewer" not in text


def test_smoke_is_held_against_smoke_alone(folders, capsys):
    run(folders[0] / "gpu"), run(folders[1] / "smoke")
    assert "no published run" in said(capsys, "smoke")
    run(folders[0] / "smoke")
    assert "size smoke beside ours of size smoke" in said(capsys, "smoke")


def test_without_a_whole_run_it_says_what_to_do(folders, capsys):
    run(folders[0] / "laptop")
    assert "run `make reproduce SIZE=laptop` first" in said(capsys, code=1)


def test_the_terminal_shows_twelve_rows_and_counts_the_others(folders, capsys):
    many = {f"value {i:02d}": (0.9, 0.8, 1.0) for i in range(20)}
    run(folders[0] / "laptop", **{k: (0.1, 0.0, 0.2) for k in many}), run(folders[1] / "laptop", **many)
    text = said(capsys)
    assert sum(line.startswith("value ") for line in text.splitlines()) == 12 and "and 8 more" in text
    assert (folders[1] / "laptop" / "beside.md").read_text("utf-8").count("| `value ") == 20


@pytest.mark.parametrize("s_ours, s_yours", [(1.0, 1.0), (1.0, 2.0), (2.0, 1.0), (1.0, 0.0)])
def test_the_chance_of_a_value_outside_is_that_of_two_runs_drawn_anew(s_ours, s_yours):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, s_ours, 200_000), rng.normal(0, s_yours, 200_000)
    ours, yours = ({"low": -1.96 * s, "high": 1.96 * s} for s in (s_ours, s_yours))
    assert beside.chance_outside(ours, yours) == pytest.approx(np.mean(abs(a - b) > 1.96 * s_ours), abs=0.004)


def test_two_values_without_any_spread_are_not_expected_to_differ():
    assert beside.chance_outside({"low": 1.0, "high": 1.0}, {"low": 1.0, "high": 1.0}) == 0
