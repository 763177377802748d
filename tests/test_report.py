"""Numbers leave a notebook rounded, sorted and finite, and reach the README only by name."""

import json
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat import v4

from lib.desk import publish, readme, report
from lib.ground import paths
from lib.ground.sizes import SIZES


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
    assert path == reports / "laptop" / "results" / "table_2.json"
    assert report.read("table_2", "laptop") == [{"a": 2, "b": 0.333333, "c": None}]


def test_a_table_is_a_list_of_rows_in_its_order():
    report.write("t", pd.DataFrame({"method": ["z", "a"], "x": [1.5, 2.0]}), "laptop", "n")
    assert report.read("t", "laptop") == [{"method": "z", "x": 1.5}, {"method": "a", "x": 2.0}]


def test_each_size_has_a_folder_of_its_own_below_the_readers(reports, monkeypatch):
    for size in SIZES:
        report.write("t", {"x": size}, size, "n")
        put(size=size)
    assert sorted(p.name for p in reports.iterdir()) == sorted(SIZES)
    assert all(report.read("t", size) == {"x": size} and len(report.quality_table(size)) == 1 for size in SIZES)
    monkeypatch.delenv("STUDY_REPORTS")
    assert paths.reports("gpu") == paths.ROOT / "reports" / "yours" / "gpu" != paths.published("gpu")


@pytest.mark.parametrize("bad", [float("nan"), np.inf, np.array([1, np.nan]), {1, 2}, pd.NaT])
def test_what_is_no_number_is_refused_by_name(bad):
    with pytest.raises(ValueError, match=r"^t\.x"):
        report.write("t", {"x": bad}, "laptop", "n")


def test_a_quality_figure_replaces_its_older_self_and_the_list_is_sorted(reports):
    for name in ("zeta", "alpha", "zeta"):
        put(name, value=0.2 if name == "alpha" else 0.1)
    put("zeta", value=0.15)
    put("zeta", value=30.2, low=None, high=None, size="full")
    entries = json.loads((reports / "laptop" / "quality.json").read_text("utf-8"))
    assert [(e["name"], e["size"], e["value"]) for e in entries] == [("alpha", "laptop", 0.2), ("zeta", "laptop", 0.15)]
    assert set(entries[0]) == {"name", "value", "low", "high", "n", "seeds", "size", "notebook"}
    assert list(report.quality_table("laptop")["name"]) == ["alpha", "zeta"]
    assert list(report.quality_table("smoke").columns) == list(report.QUALITY)


@pytest.mark.parametrize(
    "wrong", [{"value": 0.01}, {"value": 0.3}, {"value": float("nan")}, {"value": None}, {"n": 0}]
)
def test_a_quality_figure_outside_its_interval_or_without_number_is_refused(wrong, reports):
    with pytest.raises(ValueError):
        put(**wrong)
    assert not list(reports.rglob("quality.json"))


def test_a_quality_list_with_an_unknown_key_is_refused(reports):
    (reports / "laptop").mkdir()
    (reports / "laptop" / "quality.json").write_text('[{"name": "x", "colour": "red"}]')
    with pytest.raises(ValueError, match="unknown or missing keys: colour, high"):
        put()


def test_intervals_read_as_in_a_paper():
    assert report.percent(0.344, 0.301, 0.389) == "34.4 % [30.1, 38.9]"
    assert report.percent(0.344) == "34.4 %"
    assert report.points(0.08, 0.044, 0.119) == "+8.0 points [4.4, 11.9]"
    assert report.points(-0.028) == "-2.8 points"
    assert report.interval(29.96, 29.5, 30.44, digits=1) == "30.0 [29.5, 30.4]"
    assert report.interval(-1.234, None, None) == "-1.23"


def test_the_readme_gets_its_values_once(tmp_path, reports):
    put()
    report.timing("05_tuning", "laptop", 930.0, {"cores": 2})
    report.timing("06_trade", "laptop", 300.0, {"cores": 2})
    page = tmp_path / "README.md"
    page.write_text(
        "Up <!-- value:gain_percent -->?<!-- /value --> (<!-- value:gain_points --><!-- /value -->), "
        "<!-- value:minutes_05_tuning -->\n<!-- /value --> of "
        "<!-- value:minutes_total --><!-- /value --> min."
    )
    values = readme.readme_values(reports / "laptop")
    assert readme.fill_readme(page, values) is True
    assert readme.fill_readme(page, values) is False
    assert page.read_text("utf-8") == (
        "Up <!-- value:gain_percent -->12.7 % [2.0, 23.4]<!-- /value --> "
        "(<!-- value:gain_points -->+12.7 points [2.0, 23.4]<!-- /value -->), "
        "<!-- value:minutes_05_tuning -->15.5<!-- /value --> of "
        "<!-- value:minutes_total -->20<!-- /value --> min."
    )


def test_confirmatory_runs_stand_side_by_side_the_last_with_the_numbers_of_the_page():
    name, other = list(readme.COMPARED)[:2]
    earlier = [{"run": run, "name": name, "value": 0.01 * run, "low": 0.0, "high": 0.05} for run in (1, 2)]
    lines = readme.confirmatory([{"name": other, "value": -0.02, "low": None, "high": None}], earlier).strip().split("\n")
    assert lines[0] == "| | run 1 | run 2 | run 3 |" and len(lines) == 2 + len(readme.COMPARED)
    assert lines[2].endswith("| +1.0 [0.0, 5.0] | +2.0 [0.0, 5.0] | not measured |")
    assert lines[3].endswith("| not measured | not measured | -2.0 |")


def test_a_notebook_opens_with_its_last_answer_and_its_minutes_at_each_size(ours):
    assert "not run yet" in report.opening("05_tuning", "laptop").data
    report.answer("05_tuning", "12.7 % [2.0, 23.4]", "laptop")
    report.timing("05_tuning", "laptop", 930.0, {"cores": 2})
    report.timing("05_tuning", "smoke", 30.0, {"cores": 2})
    said = report.opening("05_tuning", "laptop").data
    assert "12.7 % [2.0, 23.4]" in said
    assert "smoke: 0.5 min (2 cores); laptop: 15.5 min (2 cores); evening: not run yet; gpu: not run yet" in said
    with pytest.raises(ValueError, match="one line"):
        report.answer("05_tuning", "two\nlines", "laptop")


@pytest.mark.parametrize(
    "text, why",
    [("<!-- value:gian -->1<!-- /value -->", "there is no value for the markers gian"),
     ("<!-- value:gain -->1", "lacks its opening or its closing part"),
     ("<!-- value:gain -->1 <!-- value:gain -->2<!-- /value -->", "lacks its opening or its closing part")],
)  # fmt: skip
def test_a_readme_marker_that_cannot_be_filled_is_an_error(tmp_path, text, why):
    page = tmp_path / "README.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=why):
        readme.fill_readme(page, {"gain": "1"})
    assert page.read_text("utf-8") == text


# ---- what we published -------------------------------------------------------------------------------------------


@pytest.fixture
def ours(tmp_path, monkeypatch):
    """The folder of what was published, empty."""
    for module in (paths, publish):
        monkeypatch.setattr(module, "ROOT", tmp_path / "study")
    return tmp_path / "study" / "reports"


def run_of(folder, **claim):
    """A whole run, as small as can be, in a folder of reports that is called as its size."""
    (folder / "results").mkdir(parents=True)
    row = dict(where="Table 1", claim="It does.", paper_value=0.5, value=0.4, low=0.3, high=0.5, notebook="05_tuning",
               verdict="reproduced") | claim  # fmt: skip
    (folder / "claims.json").write_text(json.dumps([row]))
    parts = [dict(name="Does it", unit="%", reason="", parts=[])]
    (folder / "results" / "claim_parts.json").write_text(json.dumps({"rows": parts}))
    (folder / "results" / "answer_05_tuning.json").write_text(json.dumps({"rows": {"text": f"It does at {folder.name}."}}))
    took = dict(notebook="05_tuning", size=folder.name, seconds=600.0, machine={"gpu": "H100", "cores": 16})
    (folder / "timings.json").write_text(json.dumps([took]))
    (folder / "quality.json").write_text("[]")
    (folder / "figures").mkdir()


def test_before_a_notebook_ran_here_it_opens_with_the_answer_and_minutes_of_our_largest_size(ours):
    run_of(ours / "smoke")
    assert report.best_published() is None
    run_of(ours / "laptop")
    run_of(ours / "evening")
    said = report.opening("05_tuning", "gpu").data
    assert "(ours, size evening; size gpu has not been run here yet): It does at evening." in said
    assert "laptop: 10.0 min (H100, ours); evening: 10.0 min (H100, ours); gpu: not run yet" in said
    report.answer("05_tuning", "Mine.", "laptop")
    report.timing("05_tuning", "evening", 60.0, {"cores": 4})
    said = report.opening("05_tuning", "laptop").data
    assert "(size laptop): Mine." in said and "evening: 1.0 min (4 cores); gpu" in said


def test_publishing_replaces_what_was_committed_and_renews_the_readme_from_the_largest_size(ours, reports, monkeypatch):
    monkeypatch.setattr(publish, "is_fresh", lambda notebook, given, size, elsewhere=False: elsewhere)  # other libraries
    book = v4.new_notebook(cells=[v4.new_markdown_cell("# 05 Tuning\n\n**Question.** Does it?"), v4.new_code_cell("size")])
    (ours.parent / "notebooks").mkdir(parents=True)
    nbformat.write(book, ours.parent / "notebooks" / "05_tuning.ipynb")
    for size in ("evening", "gpu", "smoke"):
        run_of(reports / size)
        (reports / size / "notebooks").mkdir()
        book.cells[1].outputs = [v4.new_output("stream", name="stdout", text=f"{size}\n")]
        nbformat.write(book, reports / size / "notebooks" / "05_tuning.ipynb")
    (ours / "evening" / "figures").mkdir(parents=True)
    (ours / "evening" / "figures" / "gone.png").touch()
    readme_file = ours.parent / "README.md"
    readme_file.write_text("At <!-- value:size --><!-- /value -->:<!-- value:figure_frontier --><!-- /value -->")
    for name in ("README", "claims"):
        (ours / f"{name}.md").write_text(f"<!-- value:{'gallery' if name == 'README' else 'claims'} --><!-- /value -->")
    for size, largest in (("evening", "evening"), ("gpu", "gpu"), ("evening", "gpu"), ("smoke", "gpu")):
        assert publish.main(["--size", size]) == 0
        assert f"`{largest}`" in readme_file.read_text("utf-8")
        assert f"](reports/{largest}/figures/frontier.png)" in readme_file.read_text("utf-8")
        assert f"It does at {largest}." in (ours / "README.md").read_text("utf-8")
        assert "| It does. |" in (ours / "claims.md").read_text("utf-8")
        (shown,) = nbformat.read(ours / "notebooks" / "05_tuning.ipynb", as_version=4).cells[1].outputs
        assert shown.text == f"{largest}\n"
    assert sorted(p.name for p in ours.iterdir()) == ["README.md", "claims.md", "evening", "gpu", "notebooks", "smoke"]
    assert sorted(p.name for p in (ours / "evening").rglob("*.*")) == [
        "answer_05_tuning.json", "claim_parts.json", "claims.json", "quality.json", "timings.json",
    ]  # fmt: skip


def test_a_notebook_that_was_edited_since_its_run_is_not_published(ours, reports, monkeypatch, capsys):
    monkeypatch.setattr(publish, "is_fresh", lambda *_, **__: True)
    for folder, source in ((ours.parent / "notebooks", "size"), (reports / "gpu" / "notebooks", "siz")):
        folder.mkdir(parents=True)
        nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(source)]), folder / "05_tuning.ipynb")
    run_of(reports / "gpu")
    assert publish.main(["--size", "gpu"]) == 1 and "05_tuning.ipynb was edited since its last" in capsys.readouterr().err
    assert not (ours / "notebooks").exists()


def test_a_run_that_is_not_whole_is_not_published(ours, reports, monkeypatch, capsys):
    run_of(reports / "gpu")
    (ours.parent / "notebooks").mkdir(parents=True)
    (ours.parent / "notebooks" / "05_tuning.ipynb").write_text('{"cells": []}')
    assert publish.main(["--size", "gpu"]) == 1 and "05_tuning: run `make reproduce SIZE=gpu`" in capsys.readouterr().err
    monkeypatch.setattr(publish, "is_fresh", lambda *_, **__: True)
    (reports / "gpu" / "timings.json").unlink()
    assert publish.main(["--size", "gpu"]) == 1 and "no timings.json" in capsys.readouterr().err
    assert not ours.exists()


@pytest.mark.parametrize("page", publish.PAGES)
def test_a_page_says_what_our_largest_size_found(page):
    best = paths.published(report.best_published())
    text = (paths.ROOT / page).read_text("utf-8")
    assert readme.MARKER.findall(text)
    values = readme.readme_values(best, sorted((paths.ROOT / "notebooks").glob("[0-9]*.ipynb")))
    for name, shown in readme.MARKER.findall(text):
        assert shown == values[name], f"{name} in {page} is not that of size {best.name}: run `make publish`"
    for name in re.findall(r"value:figure_(\w+) ", text):
        assert (best / "figures" / f"{name}.png").exists()
