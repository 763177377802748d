"""Numbers leave a notebook rounded, sorted and finite, and reach the README only by name."""

import json

import numpy as np
import pandas as pd
import pytest

from lib.desk import readme, report


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDY_REPORTS", str(tmp_path))
    return tmp_path


def put(name="gain", value=0.127, low=0.02, high=0.234, size="laptop", **other):
    rest = {"n": 150, "seeds": 3, "size": size, "notebook": "05_tuning"} | other
    report.quality(name, value, low, high, **rest)


def test_a_result_is_the_same_bytes_when_its_numbers_are_the_same(reports):
    rows = [{"b": np.float32(1 / 3), "a": np.int64(2), "c": None}]
    path = report.write("table_2", rows, "laptop", "02_feedback")
    first = path.read_bytes()
    report.write("table_2", [{"c": None, "a": 2, "b": 0.33333334}], "laptop", "02_feedback")
    assert path.read_bytes() == first
    assert path == reports / "results" / "table_2.json"
    assert report.read("table_2", "laptop") == [{"a": 2, "b": 0.333333, "c": None}]


def test_a_table_is_a_list_of_rows_in_its_order():
    report.write("t", pd.DataFrame({"method": ["z", "a"], "x": [1.5, 2.0]}), "laptop", "n")
    assert report.read("t", "laptop") == [{"method": "z", "x": 1.5}, {"method": "a", "x": 2.0}]


def test_smoke_results_never_land_among_a_readers(reports):
    report.write("t", {"x": 1}, "smoke", "n")
    put(size="smoke")
    assert sorted(p.name for p in reports.iterdir()) == ["smoke"]


@pytest.mark.parametrize("bad", [float("nan"), np.inf, np.array([1, np.nan]), {1, 2}, pd.NaT])
def test_what_is_no_number_is_refused_by_name(bad):
    with pytest.raises(ValueError, match=r"^t\.x"):
        report.write("t", {"x": bad}, "laptop", "n")


def test_a_quality_figure_replaces_its_older_self_and_the_list_is_sorted(reports):
    for name in ("zeta", "alpha", "zeta"):
        put(name, value=0.2 if name == "alpha" else 0.1)
    put("zeta", value=0.15)
    put("zeta", value=30.2, low=None, high=None, size="full")
    entries = json.loads((reports / "quality.json").read_text("utf-8"))
    assert [(e["name"], e["size"], e["value"]) for e in entries] == [
        ("alpha", "laptop", 0.2), ("zeta", "full", 30.2), ("zeta", "laptop", 0.15),
    ]  # fmt: skip
    assert set(entries[0]) == {"name", "value", "low", "high", "n", "seeds", "size", "notebook"}
    assert list(report.quality_table("laptop")["name"]) == ["alpha", "zeta"]
    assert list(report.quality_table("smoke").columns) == list(report.QUALITY)


@pytest.mark.parametrize(
    "wrong", [{"value": 0.01}, {"value": 0.3}, {"value": float("nan")}, {"value": None}, {"n": 0}]
)
def test_a_quality_figure_outside_its_interval_or_without_number_is_refused(wrong, reports):
    with pytest.raises(ValueError):
        put(**wrong)
    assert not (reports / "quality.json").exists()


def test_a_quality_list_with_an_unknown_key_is_refused(reports):
    (reports / "quality.json").write_text('[{"name": "x", "colour": "red"}]')
    with pytest.raises(ValueError, match="unknown or missing keys: colour, high"):
        put()


def test_intervals_read_as_in_a_paper():
    assert report.percent(0.344, 0.301, 0.389) == "34.4 % [30.1, 38.9]"
    assert report.percent(0.344) == "34.4 %"
    assert report.points(0.08, 0.044, 0.119) == "+8.0 points [4.4, 11.9]"
    assert report.points(-0.028) == "-2.8 points"
    assert report.interval(29.96, 29.5, 30.44, digits=1) == "30.0 [29.5, 30.4]"
    assert report.interval(-1.234, None, None) == "-1.23"


def test_the_readme_gets_its_values_once(tmp_path):
    put()
    report.timing("05_tuning", "laptop", 930.0, {"cores": 2})
    report.timing("06_trade", "laptop", 300.0, {"cores": 2})
    report.timing("06_trade", "full", 9000.0, {"cores": 2})
    page = tmp_path / "README.md"
    page.write_text(
        "Up <!-- value:gain_percent -->?<!-- /value --> (<!-- value:gain_points --><!-- /value -->), "
        "<!-- value:minutes_05_tuning -->\n<!-- /value --> of "
        "<!-- value:minutes_total --><!-- /value --> min."
    )
    values = readme.readme_values("laptop")
    assert readme.fill_readme(page, values) is True
    assert readme.fill_readme(page, values) is False
    assert page.read_text("utf-8") == (
        "Up <!-- value:gain_percent -->12.7 % [2.0, 23.4]<!-- /value --> "
        "(<!-- value:gain_points -->+12.7 points [2.0, 23.4]<!-- /value -->), "
        "<!-- value:minutes_05_tuning -->15.5<!-- /value --> of "
        "<!-- value:minutes_total -->20<!-- /value --> min."
    )


def test_a_notebook_opens_with_its_last_answer_and_its_minutes_at_each_size():
    assert "not run yet" in report.opening("05_tuning", "laptop").data
    report.answer("05_tuning", "12.7 % [2.0, 23.4]", "laptop")
    report.timing("05_tuning", "laptop", 930.0, {"cores": 2})
    report.timing("05_tuning", "smoke", 30.0, {"cores": 2})
    said = report.opening("05_tuning", "laptop").data
    assert "12.7 % [2.0, 23.4]" in said
    assert "smoke: 0.5 min (2 cores); laptop: 15.5 min (2 cores); full: not run yet" in said
    with pytest.raises(ValueError, match="one line"):
        report.answer("05_tuning", "two\nlines", "laptop")


@pytest.mark.parametrize(
    "text, why",
    [("<!-- value:gian -->1<!-- /value -->", "no value is known for gian"),
     ("<!-- value:gain -->1", "not closed"),
     ("<!-- value:gain -->1 <!-- value:gain -->2<!-- /value -->", "not closed")],
)  # fmt: skip
def test_a_readme_marker_that_cannot_be_filled_is_an_error(tmp_path, text, why):
    page = tmp_path / "README.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=why):
        readme.fill_readme(page, {"gain": "1"})
    assert page.read_text("utf-8") == text


def test_a_smoke_run_leaves_the_readme_alone(monkeypatch):
    monkeypatch.setattr(readme, "fill_readme", lambda *_: pytest.fail("README touched"))
    assert readme.main(["--size", "smoke"]) == 0
