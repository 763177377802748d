"""Each notebook opens with its question, is cut into small cells, and is committed without outputs."""

import ast
import base64
import json
import os
import re
import statistics
import subprocess
import sys

import nbformat
import pytest

from lib.desk import gallery
from lib.desk.parameters import PATH, PROMPT, SETUP, check_values, kind_of, parameters
from lib.desk.report import best_published
from lib.ground.domains import clauses, fits
from lib.ground.paths import ROOT, published
from lib.study.wu import ADAPTATIONS, FROM

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def cells(path, kind):
    """The notebook's cells of one kind, each with its source as text."""
    book = json.loads(path.read_text("utf-8"))
    return [cell | {"source": "".join(cell["source"])} for cell in book["cells"] if cell["cell_type"] == kind]


def test_the_notebooks_are_there_and_each_number_is_used_once():
    numbers = [path.stem.split("_")[0] for path in NOTEBOOKS]
    assert {"00", "01"} <= set(numbers) and len(set(numbers)) == len(numbers)


@every
def test_it_has_one_parameters_cell_of_literals_with_the_size(path):
    (cell,) = [c for c in cells(path, "code") if "parameters" in c["metadata"].get("tags", [])]
    statements = ast.parse(cell["source"]).body
    assert all(isinstance(s, ast.Assign) for s in statements)
    values = {s.targets[0].id: ast.literal_eval(s.value) for s in statements}
    assert values["size"] == "laptop" and values["setup"] == "mini"
    for line in cell["source"].splitlines():
        assert re.search(r"\S\s+# \S", line), f"no unit or choices beside: {line}"


@every
def test_its_parameters_have_domains_that_their_defaults_satisfy_and_that_are_checked_when_it_opens(path):
    parameters_cell, opening = (c["source"] for c in cells(path, "code")[:2])
    for name, (default, comment) in parameters(parameters_cell).items():
        bounds = [c for c in clauses(comment) if c.startswith(("in ", "at ", "one of "))]
        assert bounds or any(d in comment for d in (PROMPT, PATH, SETUP)), f"no domain beside {name}"
        kind = kind_of(default, comment)
        assert PATH in comment or SETUP in comment or fits(default, kind, comment)
        wrong = (None, ..., "x", -1e9, 1e9, float("nan"), True, [], [None], [default, default], {}, (default,))
        refused = [w for w in wrong if w is not ... and not accepted(parameters_cell, name, w)]
        assert len(refused) >= len(wrong) - 2, f"{name} takes {set(map(str, wrong)) - set(map(str, refused))}"
    check_values(parameters_cell, {})
    assert opening.splitlines()[-2] == f'parameters.check("{path.stem}", globals())'


def accepted(cell, name, value):
    """Whether the parameters cell's checks let a value pass."""
    try:
        check_values(cell, {name: value})
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "name, inside, outside",
    [("01_images_to_judge", dict(shown=30), dict(shown=0)), ("02_human_feedback", dict(agreement=0), dict(agreement=1.1)),
     ("03_reward_learning", dict(auxiliary_weight=2.0), dict(auxiliary_weight=0)),  # the same as the variant without
     ("03_reward_learning", dict(temperature=0.01), dict(temperature=0)),
     ("04_reward_ablations", dict(flipped=0.4), dict(flipped=0)),  # the baseline
     ("04_reward_ablations", dict(flipped=0.5), dict(flipped=0.6)),
     ("04_reward_ablations", dict(label_counts=[20, 900]), dict(label_counts=[300, 2])),
     ("05_fine_tuning", dict(learning_rates=[3e-4, 2e-3]), dict(learning_rates=[0.1])),
     ("05_fine_tuning", dict(betas=[1, 4]), dict(betas=[0])),  # an arm without either loss
     ("06_alignment_against_fidelity", dict(draws=60), dict(draws=1)),
     ("06_alignment_against_fidelity", dict(redraws=20), dict(redraws=7)),
     ("10_side_effects", dict(draws=60), dict(draws=0)),
     ("07_rejection_sampling", dict(noise=0), dict(noise=-0.5)),
     ("08_preference_score", dict(shares=[0.05, 1]), dict(shares=[0])),
     ("09_preference_adaptation", dict(ablations=["rank 4"]), dict(ablations=["adapted"])),
     ("09_preference_adaptation", dict(learning_rates=[0.1]), dict(learning_rates=[0])),
     ("09_preference_adaptation", dict(lengths=[0.1, 4]), dict(lengths=[0])),
     ("11_bring_your_own", dict(power=4.0), dict(power=-1)),
     ("99_claims", dict(widest=20), dict(widest=0))],
)  # fmt: skip
def test_what_a_notebook_suggests_to_try_is_inside_a_domain_and_what_it_cannot_do_is_outside(name, inside, outside):
    (path,) = [p for p in NOTEBOOKS if p.stem == name]
    check_values(cells(path, "code")[0]["source"], inside)
    ((parameter, value),) = outside.items()
    with pytest.raises(ValueError, match=f"^{parameter} = .* is not a"):
        check_values(cells(path, "code")[0]["source"], {parameter: value})


def test_the_ablations_of_adaptation_are_all_that_are_not_in_every_run():
    (path,) = [p for p in NOTEBOOKS if p.stem.startswith("09")]
    source = cells(path, "code")[0]["source"]
    default, comment = parameters(source)["ablations"]
    assert default == [] and {a for a in ADAPTATIONS if accepted(source, "ablations", [a])} == set(FROM)


@every
def test_what_a_reader_may_edit_is_checked_with_a_sentence(path):
    """An assert speaks to whoever wrote the code; none is on a parameter, nor on what a suggestion changes."""
    names = {*parameters(cells(path, "code")[0]["source"]), "noise", "variants", "verdict_on"} - {"size"}
    for cell in cells(path, "code"):
        for node in (n for n in ast.walk(ast.parse(cell["source"])) if isinstance(n, ast.Assert)):
            named = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            assert not named & names, ast.unparse(node)


@every
def test_it_is_committed_without_outputs_and_with_its_cell_ids(path):
    book = json.loads(path.read_text("utf-8"))
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert (book["nbformat"], book["nbformat_minor"] >= 5) == (4, True)
    ids = [cell["id"] for cell in book["cells"]]
    assert all(re.fullmatch(r"[\w-]{1,64}", i) for i in ids) and len(set(ids)) == len(ids)
    for cell in cells(path, "code"):
        assert cell["outputs"] == [] and cell["execution_count"] is None
    plain = nbformat.writes(nbformat.read(path, as_version=4)) + "\n"
    assert path.read_text("utf-8") == plain, "run `make strip`"  # so that it changes no clean notebook


@every
def test_its_first_screen_has_question_answer_needs_and_minutes(path):
    book = json.loads(path.read_text("utf-8"))
    assert [c["cell_type"] for c in book["cells"][:3]] == ["markdown", "code", "code"]
    first, parameters, opening = ("".join(c["source"]) for c in book["cells"][:3])
    assert first.startswith(f"# {path.stem.split('_')[0]} ")
    assert "**Question.**" in first and "**Needs.**" in first and len(first.split()) < 100
    for needed in re.findall(r"`(\d\d_\w+)`", first):
        assert (ROOT / "notebooks" / f"{needed}.ipynb").exists() and needed < path.stem
    # It shows the answer in one line, and the minutes that the notebook takes.
    assert opening.splitlines()[-1] == f'report.opening("{path.stem}", size)'


@every
def test_it_ends_with_what_it_does_not_show_a_thing_to_try_its_answer_and_the_next_question(path):
    text = "\n".join(c["source"] for c in cells(path, "markdown"))
    assert re.search(r"does(n't| not) show", text) and "**Try this.**" in text
    assert f'report.answer("{path.stem}", ' in cells(path, "code")[-1]["source"]
    assert "?" in cells(path, "markdown")[-1]["source"]


@every
def test_its_cells_are_small(path):
    sources = [c["source"] for c in cells(path, "code")]
    lines = [sum(bool(line.strip()) for line in source.splitlines()) for source in sources]
    assert 15 <= len(lines) <= 30
    assert statistics.median(lines) <= 6 and max(lines) <= 25
    assert max(len(line) for source in sources for line in source.splitlines()) <= 120
    assert any(re.search(r"^\s*assert ", source, re.M) for source in sources)


@every
def test_it_is_told_in_150_to_600_words(path):
    assert 150 <= sum(len(c["source"].split()) for c in cells(path, "markdown")) <= 600


@every
def test_what_it_writes_carries_its_own_name(path):
    for cell in cells(path, "code"):
        for call in ast.walk(ast.parse(cell["source"])):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("report.write", "report.quality"):
                given = [a.value for a in call.args if isinstance(a, ast.Constant)]
                assert path.stem in given, ast.unparse(call)


def test_start_here_runs_at_smoke_and_renews_its_first_screen(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "lib.desk.run", "notebooks/00_start_here.ipynb", "--size", "smoke"],
        cwd=ROOT, env=os.environ | {"STUDY_REPORTS": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    stored = json.loads((tmp_path / "smoke" / "results" / "answer_00_start_here.json").read_text("utf-8"))
    assert stored["rows"]["text"].startswith("Of 16 images of “Two blue dogs in the forest”")
    figures = {p.name for p in (tmp_path / "smoke" / "figures").iterdir()}
    assert figures == {f"{name}.{kind}" for name in ("denoising", "one_prompt") for kind in ("png", "txt")}
    done = tmp_path / "smoke" / "notebooks" / "00_start_here.ipynb"
    executed = [c for c in cells(done, "code") if "report.opening" in c["source"]]
    assert stored["rows"]["text"] in json.dumps(executed[0]["outputs"], ensure_ascii=False)


# ---- what a reader sees without running anything -----------------------------------------------------------------


def test_the_readme_is_short_and_names_every_notebook_and_no_other():
    text = (ROOT / "README.md").read_text("utf-8")
    assert set(re.findall(r"notebooks/(\d\d_\w+)\.ipynb", text)) == {path.stem for path in NOTEBOOKS}
    shown = re.sub(r"<!--.*?-->|\]\([^)]*\)|[|*`#\[\]]|---", " ", text)  # what a reader sees of it
    assert len(shown.split()) <= 900


@every
def test_it_is_committed_as_we_ran_it_with_its_answer_and_its_figures(path):
    best = published(best_published())
    done = ROOT / "reports" / "notebooks" / path.name
    assert [(k, c["source"]) for k in ("markdown", "code") for c in cells(done, k)] == [
        (k, c["source"]) for k in ("markdown", "code") for c in cells(path, k)]  # fmt: skip
    outputs = [o for c in cells(done, "code") for o in c["outputs"]]
    answer = json.loads((best / "results" / f"answer_{path.stem}.json").read_text("utf-8"))["rows"]["text"]
    assert sum(answer in "".join(o.get("data", {}).get("text/markdown", "")) for o in outputs) == 2  # first screen and end
    shown = {base64.b64decode("".join(o["data"]["image/png"])) for o in outputs if "image/png" in o.get("data", {})}
    files = [best / "figures" / f"{name}.png" for c in cells(path, "code") for name in gallery.saved_by(c["source"])]
    assert files and [p.stem for p in files if p.is_file() and p.read_bytes() not in shown] == []
    said = done.read_text("utf-8")
    assert not re.search(r"papermill|Takes|it/s\]|\d\d:\d\d:\d\d|PosixPath|WindowsPath", said)
    assert sum(p.stat().st_size for p in done.parent.glob("*.ipynb")) <= 15e6


def test_the_gallery_shows_a_figure_of_each_notebook_and_its_answer():
    page = (ROOT / "reports" / "README.md").read_text("utf-8")
    for row in gallery.entries(published(best_published()), NOTEBOOKS):
        assert row["question"] and row["answer"] in page and 1 <= len(row["figures"]) <= 3, row["stem"]
        assert len(row["figures"]) == len(gallery.FIGURES[row["stem"]]) and all(f["cell"] for f in row["figures"])


def test_the_names_in_results_are_those_of_the_glossary():
    """Models, scores and ablations, in every result of the size that we show."""
    text = (ROOT / "data" / "glossary.md").read_text("utf-8")
    names = {n for row in re.findall(r"^\| (.+?) \|", text, re.M) for n in row.split("; ")}
    found = {}
    for path in (published(best_published()) / "results").glob("*.json"):
        rows = json.loads(path.read_text("utf-8"))["rows"]
        for row in rows if isinstance(rows, list) else [rows]:
            kinds = ("model", "against", "arm", "less", "a", "b", "score", "method", "by")
            found |= {row[k]: path.stem for k in kinds if isinstance(row, dict) and isinstance(row.get(k), str)}
    assert len(found) > 40
    assert {name: where for name, where in found.items() if name not in names} == {}
