"""The runner refuses what is wrong in one line, names what failed, and runs only what is stale."""

import json
import os
import subprocess
import sys

import nbformat
import pytest

from lib.paths import ROOT

PARAMETERS = 'size = "smoke"  # smoke, laptop, full\nimages: int = 3  # a prompt'
WRITES = "from lib import report\nreport.write('counted', {'images': images}, size, 'toy')"


def notebook(folder, name, *cells, parameters=PARAMETERS):
    """A tiny notebook file; its first cell is tagged `parameters` unless `parameters` is None."""
    book = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    if parameters is not None:
        book.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    book.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(book, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(*arguments)` is `python -m lib.run` with its reports under the test's own folder."""
    monkeypatch.setenv("STUDY_REPORTS", str(tmp_path / "reports"))

    def command(*arguments, cwd=ROOT, **environment):
        return subprocess.run(
            [sys.executable, "-m", "lib.run", *map(str, arguments)],
            cwd=cwd, env=os.environ | environment, capture_output=True, text=True,
        )  # fmt: skip

    return command


def refused(result, *words):
    """One line on stderr with these words, exit code 2."""
    return (
        result.returncode == 2
        and result.stderr.count("\n") == 1
        and all(word in result.stderr for word in words)
        and result.stdout == ""
    )


def test_a_misspelled_parameter_is_refused_with_the_names_there_are(run, tmp_path):
    result = run(notebook(tmp_path, "toy"), "--size", "smoke", "-p", "imags=4")
    assert refused(result, "imags", "size, images"), result.stderr


def test_an_unknown_size_is_refused_with_the_sizes_there_are(run, tmp_path):
    result = run(notebook(tmp_path, "toy"), "--size", "huge")
    assert refused(result, "huge", "smoke", "laptop", "full"), result.stderr


def test_other_wrong_requests_are_refused_before_anything_runs(run, tmp_path):
    good = notebook(tmp_path, "good")
    bare = notebook(tmp_path, "bare", "1", parameters=None)
    sizeless = notebook(tmp_path, "sizeless", parameters="images = 3")
    assert refused(run(good, tmp_path / "none.ipynb", "--size", "smoke"), "none.ipynb")
    assert refused(run(good, bare, "--size", "smoke"), "bare.ipynb", "`parameters`")
    assert refused(run(good, sizeless, "--size", "smoke"), "sizeless.ipynb", "size")
    assert refused(run(good, "--size", "smoke", "-p", "images"), "NAME=VALUE")
    assert refused(run(good, "--size", "smoke", "-p", "size=full"), "--size")
    assert refused(run("--size", "smoke"), "NOTEBOOK")
    assert not (tmp_path / "reports").exists()


def test_a_failing_cell_is_named_and_stops_the_rest(run, tmp_path):
    bad = notebook(tmp_path, "bad", "1 + 1", "raise RuntimeError('too few\\nimages')")
    after = notebook(tmp_path, "after")
    result = run(bad, after, "--size", "smoke")
    assert result.returncode == 1
    # The runner puts the given parameters into a second cell, so that the failing one is the fourth.
    said = [line for line in result.stderr.splitlines() if not line.startswith("[IPKernelApp]")]  # the kernel's last words
    assert said == ["run: bad failed in cell [4]: RuntimeError: too few"]
    kept = tmp_path / "reports" / "smoke" / "notebooks"
    assert [p.name for p in kept.iterdir()] == ["bad.failed.ipynb"]
    assert not (tmp_path / "reports" / "smoke" / "timings.json").exists()


def test_only_what_is_stale_is_run(run, tmp_path):
    toy = notebook(tmp_path, "toy", WRITES)
    reports = tmp_path / "reports" / "smoke"
    result_file = reports / "results" / "counted.json"
    at_smoke = (toy, "--size", "smoke")
    stale, fresh = "running toy", "fresh toy\n"

    assert run(*at_smoke, "--check").returncode == 1
    first = run(*at_smoke)
    assert first.returncode == 0 and stale in first.stdout, first.stderr
    assert json.loads(result_file.read_text())["rows"] == {"images": 3}
    assert [t["notebook"] for t in json.loads((reports / "timings.json").read_text())] == ["toy"]

    before = {p: p.stat().st_mtime_ns for p in reports.rglob("*")}
    assert run(*at_smoke).stdout == fresh
    assert {p: p.stat().st_mtime_ns for p in reports.rglob("*")} == before
    assert run(*at_smoke, "--check").returncode == 0

    result_file.write_text("{}")
    assert run(*at_smoke, "--check").stdout == "stale toy\n"
    assert stale in run(*at_smoke).stdout

    changed = run(*at_smoke, "-p", "images=5")
    assert stale in changed.stdout
    assert json.loads(result_file.read_text())["rows"] == {"images": 5}
    assert run(*at_smoke, "--check").returncode == 1

    notebook(tmp_path, "toy", WRITES, "size")
    assert stale in run(*at_smoke).stdout
    assert run(*at_smoke).stdout == fresh


def test_a_notebook_is_stale_when_a_result_that_it_read_changes_or_appears(run, tmp_path):
    tolerant = "from lib import report\ntry: report.read('counted', size)\nexcept FileNotFoundError: pass"
    writer, at_smoke = notebook(tmp_path, "writer", WRITES), ("--size", "smoke")
    toy = notebook(tmp_path, "toy", tolerant)
    assert run(toy, *at_smoke).returncode == 0
    assert run(toy, *at_smoke, "--check").stdout == "all fresh\n"
    run(writer, *at_smoke)
    assert run(toy, *at_smoke, "--check").stdout == "stale toy\n"
    run(toy, *at_smoke)
    run(writer, *at_smoke, "--force")
    assert run(toy, *at_smoke, "--check").stdout == "all fresh\n"  # the same bytes again
    run(writer, *at_smoke, "-p", "images=5")
    assert run(toy, *at_smoke, "--check").stdout == "stale toy\n"
    assert not list((tmp_path / "reports").rglob("*.reads"))


def test_code_and_data_decide_freshness(tmp_path, monkeypatch):
    from lib import run as runner

    toy = notebook(tmp_path, "toy")
    for folder in ("lib", "data/models/mini", "data/labels"):
        (tmp_path / folder).mkdir(parents=True)
    for name, folder in {"ROOT": "", "DATA": "data", "MODELS": "data/models"}.items():
        monkeypatch.setattr(runner, name, tmp_path / folder)
    seen = [runner.fingerprint(toy, {}, "smoke")]
    for file, text in [
        ("lib/world.py", "x = 1"), ("lib/world.py", "x = 2"), ("data/labels/people.parquet", "1"),
        ("data/models/mini/SHA256SUMS", "ab  unet"),
    ]:  # fmt: skip
        (tmp_path / file).write_text(text)
        seen.append(runner.fingerprint(toy, {}, "smoke"))
    assert len(set(seen)) == len(seen)
    (tmp_path / "lib/world.py").write_text('"""A docstring."""\nx = 2  # a comment')
    (tmp_path / "lib/run.py").write_text("the runner's own code shows in no result")
    assert runner.fingerprint(toy, {}, "smoke") == seen[-1]
    assert runner.fingerprint(toy, {}, "laptop") != seen[-1]
    number, text = (runner.fingerprint(toy, {"images": value}, "smoke") for value in (3, "3"))
    assert number != text


def test_a_quality_figure_that_was_altered_makes_its_notebook_stale(run, tmp_path):
    says = "from lib import report\nreport.quality('gain', 0.1, 0.0, 0.2, 9, 1, size, 'toy')"
    toy = notebook(tmp_path, "toy", says)
    run(toy, "--size", "smoke")
    assert run(toy, "--size", "smoke", "--check").returncode == 0
    figures = tmp_path / "reports" / "smoke" / "quality.json"
    figures.write_text(figures.read_text().replace("0.1", "0.15"))
    assert run(toy, "--size", "smoke", "--check").returncode == 1


def test_the_kernel_is_this_interpreter_whatever_stands_in_the_users_home(run, tmp_path):
    spec = tmp_path / "home" / ".local" / "share" / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    broken = {"argv": ["/no/such/python", "{connection_file}"], "display_name": "x", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(broken))
    cells = [
        f"import os, sys\nassert sys.prefix == {sys.prefix!r}, sys.prefix",
        f"assert os.getcwd() == {str(ROOT)!r} and os.environ['PYTHONHASHSEED'] == '0'",
    ]
    theirs = {
        "JUPYTER_DATA_DIR": str(spec.parents[1]),
        "PYTHONPATH": str(ROOT),
        "JUPYTER_PREFER_ENV_PATH": "0",
    }
    result = run(notebook(tmp_path, "toy", *cells), "--size", "smoke", cwd=tmp_path, **theirs)
    assert result.returncode == 0, result.stderr
