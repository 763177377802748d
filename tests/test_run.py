"""The runner refuses what is wrong in one line, names what failed, and runs only what is stale."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
import torch

from lib.desk.costs import cpu_hours
from lib.ground.paths import ROOT

PARAMETERS = 'size = "smoke"  # smoke, laptop, full\nimages: int = 3  # a prompt'
WRITES = "from lib.desk import report\nreport.write('counted', {'images': images}, size, 'toy')"


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
    """`run(*arguments)` is `python -m lib.desk.run` with its reports under the test's own folder."""
    monkeypatch.setenv("STUDY_REPORTS", str(tmp_path / "reports"))

    def command(*arguments, cwd=ROOT, **environment):
        return subprocess.run(
            [sys.executable, "-m", "lib.desk.run", *map(str, arguments)],
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


def test_a_trial_writes_to_its_own_folder_and_goes_on_from_what_was_found_without_it(run, tmp_path):
    first = notebook(tmp_path, "first", WRITES)
    second = notebook(tmp_path, "second", "from lib.desk import report\nprint('found', report.read('counted', size))")
    assert run(first, second, "--size", "smoke").returncode == 0
    before = {p: p.read_bytes() for p in (tmp_path / "reports").rglob("*.*")}
    result = run(first, "--size", "smoke", "-p", "images=4")
    assert result.returncode == 0 and "a trial" in result.stdout, result.stderr
    assert {p: p.read_bytes() for p in before} == before
    new = {p.relative_to(tmp_path / "reports").as_posix() for p in (tmp_path / "reports").rglob("*.json")} - {
        p.relative_to(tmp_path / "reports").as_posix() for p in before}  # fmt: skip
    assert "trials/images=4/smoke/results/counted.json" in new and all(n.startswith("trials/images=4/") for n in new)
    assert run(first, "--size", "smoke", "-p", "images=4").stdout.startswith("fresh first")
    for images, wanted in ((4, 4), (5, 3)):  # its own result, or that of no trial
        result = run(second, "--size", "smoke", "-p", f"images={images}")
        shown = (tmp_path / f"reports/trials/images={images}/smoke/notebooks/second.ipynb").read_text("utf-8")
        assert result.returncode == 0 and f"found {{'images': {wanted}}}" in shown


def test_a_trial_of_a_notebook_of_ours_changes_no_file_that_git_knows(tmp_path):
    """In a checkout: `-p` with a notebook that draws and writes."""
    given = ["notebooks/00_start_here.ipynb", "--size", "smoke", "-p", "prompt=Two red cats in the city"]
    plain = {name: value for name, value in os.environ.items() if name != "STUDY_REPORTS"}
    status = ["git", "status", "--porcelain"]
    before = subprocess.run(status, cwd=ROOT, capture_output=True, text=True).stdout
    trial = ROOT / "reports" / "trials" / "prompt=Two_red_cats_in_the_city"
    shutil.rmtree(trial, ignore_errors=True)
    command = [sys.executable, "-m", "lib.desk.run", *given]
    result = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True)
    try:
        assert result.returncode == 0, result.stderr
        assert (trial / "smoke" / "results" / "answer_00_start_here.json").exists()
        assert subprocess.run(status, cwd=ROOT, capture_output=True, text=True).stdout == before
    finally:
        shutil.rmtree(trial, ignore_errors=True)


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
    assert refused(run(good, "--size", "smoke", "-p", "images=4", "-p", "images=5"), "twice")
    assert refused(run("--size", "smoke"), "NOTEBOOK")
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    "name, given, words",
    [("04_reward_ablations", "flipped=0,4", ("flipped = (0, 4)", "a number in (0, 0.5], such as 0.2")),
     ("04_reward_ablations", "flipped='0.2'", ("flipped = '0.2'", "a number")),
     ("04_reward_ablations", "label_counts=[50,50]", ("[50, 50]", "no value twice")),
     ("06_alignment_against_fidelity", "draws=2.5", ("draws = 2.5", "a whole number in [2, 1000], such as 20")),
     ("05_fine_tuning", "betas=[]", ("betas = []", "a list of one or more numbers")),
     ("03_reward_learning", "temperature=True", ("temperature = True", "a number")),
     ("07_rejection_sampling", "noise=1e999", ("noise = inf", "a number in [0, 10]")),
     ("09_preference_adaptation", "ablations=['rank 5']", ("['rank 5']", "one of swapped labels", "rank 4")),
     ("00_start_here", "prompt=A red dog", ("'A red dog'", "'A red colored dog'"))],
)  # fmt: skip
def test_a_parameter_out_of_its_domain_is_refused_before_the_first_cell(name, given, words, capsys):
    from lib.desk import run as runner

    assert runner.main([str(ROOT / "notebooks" / f"{name}.ipynb"), "--size", "smoke", "-p", given]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and all(word in said.err for word in (name, *words)), said.err


def test_a_parameter_without_a_domain_takes_what_is_of_its_type_and_an_edited_default_is_checked_too(run, tmp_path):
    toy = notebook(tmp_path, "toy")
    assert run(toy, "--size", "smoke", "--check", "-p", "images=5").returncode == 1
    for wrong in ("images=2.5", "images=many", "images=True", "images=1,2"):
        assert refused(run(toy, "--size", "smoke", "-p", wrong), "images", "a whole number", "such as 3")
    edited = notebook(tmp_path, "edited", parameters='size = "laptop"  # size\nshare = 1.5  # of labels, in (0, 1]')
    assert refused(run(edited, "--size", "smoke"), "edited.ipynb", "share = 1.5 is not a number in (0, 1]")
    broken = notebook(tmp_path, "broken", parameters='size = "laptop"  # size\nshares = [0.5  # open')
    assert refused(run(broken, "--size", "smoke"), "broken.ipynb", "the parameters cell, line 2")
    assert not (tmp_path / "reports").exists()


def test_a_dict_that_gives_a_key_twice_is_refused_before_the_first_cell(run, tmp_path):
    good = notebook(tmp_path, "good", '{"T = 0.5": 1} | {"T = 0.5": 2}', "%matplotlib inline")
    assert run(good, "--size", "smoke", "--check").returncode == 1
    for cell, key in (('x = {"T = 0.5": 1, "T = 0.5": 2}', "'T = 0.5'"), ("y = [{1: 'a', 1: 'b'}]", "1")):
        wrong = notebook(tmp_path, "wrong", "1 + 1", cell)
        assert refused(run(wrong, "--size", "smoke"), "wrong.ipynb", f"the key {key} twice"), cell


def test_a_run_killed_while_it_wrote_is_run_again_and_leaves_nothing(tmp_path, monkeypatch):
    from lib.desk import execution
    from lib.desk import run as runner

    monkeypatch.setenv("STUDY_REPORTS", str(tmp_path / "reports"))
    toy, results = notebook(tmp_path, "toy", WRITES), tmp_path / "reports" / "smoke" / "results"
    results.mkdir(parents=True)
    (results / ".counted.json.abc.partial").write_text('{"ro')
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(execution, "timing", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))  # the last that it writes
        runner.main([str(toy), "--size", "smoke"])
    assert [p.name for p in results.iterdir()] == ["counted.json"] and not runner.is_fresh(toy, {}, "smoke")
    assert runner.main([str(toy), "--size", "smoke"]) == 0 and runner.is_fresh(toy, {}, "smoke")
    assert [e["notebook"] for e in json.loads((results.parent / "timings.json").read_text("utf-8"))] == ["toy"]


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
    assert json.loads(result_file.read_text("utf-8"))["rows"] == {"images": 3}
    assert [t["notebook"] for t in json.loads((reports / "timings.json").read_text("utf-8"))] == ["toy"]

    before = {p: p.stat().st_mtime_ns for p in reports.rglob("*")}
    assert run(*at_smoke).stdout == fresh
    assert {p: p.stat().st_mtime_ns for p in reports.rglob("*")} == before
    assert run(*at_smoke, "--check").returncode == 0

    result_file.write_text("{}")
    assert run(*at_smoke, "--check").stdout == "stale toy\n"
    assert stale in run(*at_smoke).stdout

    assert stale in run(*at_smoke, "-p", "images=5").stdout
    assert json.loads(result_file.read_text("utf-8"))["rows"] == {"images": 3}  # a trial is elsewhere
    assert run(*at_smoke, "--check").returncode == 0

    notebook(tmp_path, "toy", WRITES, "size")
    assert stale in run(*at_smoke).stdout
    assert run(*at_smoke).stdout == fresh


def test_a_notebook_is_stale_when_a_result_that_it_read_changes_or_appears(run, tmp_path):
    tolerant = "from lib.desk import report\ntry: report.read('counted', size)\nexcept FileNotFoundError: pass"
    writer, at_smoke = notebook(tmp_path, "writer", WRITES), ("--size", "smoke")
    toy = notebook(tmp_path, "toy", tolerant)
    assert run(toy, *at_smoke).returncode == 0
    assert run(toy, *at_smoke, "--check").stdout == "all fresh\n"
    run(writer, *at_smoke)
    assert run(toy, *at_smoke, "--check").stdout == "stale toy\n"
    run(toy, *at_smoke)
    run(writer, *at_smoke, "--force")
    assert run(toy, *at_smoke, "--check").stdout == "all fresh\n"  # the same bytes again
    run(notebook(tmp_path, "writer", WRITES.replace("images}", "images + 1}")), *at_smoke)
    assert run(toy, *at_smoke, "--check").stdout == "stale toy\n"
    assert not list((tmp_path / "reports").rglob("*.reads"))


def test_code_and_data_decide_freshness(tmp_path, monkeypatch):
    from lib.desk import fresh

    toy = notebook(tmp_path, "toy")
    for folder in ("lib", "data/models/mini", "data/labels"):
        (tmp_path / folder).mkdir(parents=True)
    for name, folder in {"ROOT": "", "DATA": "data"}.items():
        monkeypatch.setattr(fresh, name, tmp_path / folder)
    seen = [fresh.fingerprint(toy, {}, "smoke")]
    for file, text in [
        ("lib/world/scenes.py", "x = 1"), ("lib/world/scenes.py", "x = 2"), ("lib/part/deep.py", "x = 1"),
        ("pretrain/reading.py", "x = 1"), ("data/labels/people.parquet", "1"), ("data/labels/people.parquet", "2"),
        ("data/models/mini/SHA256SUMS", "ab  unet"), ("data/models/mini/unet.safetensors", "1"),
        ("data/sprites/dog.png", "1"), ("data/sprites/dog.png", "2"), ("data/claims.toml", "x = 1"),
    ]:  # fmt: skip
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
        seen.append(fresh.fingerprint(toy, {}, "smoke"))
    assert len(set(seen)) == len(seen)
    (tmp_path / "lib/world/scenes.py").write_text('"""A docstring."""\nx = 2  # a comment')
    (tmp_path / "lib/desk").mkdir()
    (tmp_path / "lib/desk/run.py").write_text("the runner's own code shows in no result")
    (tmp_path / "data/README.md").write_text("neither does this")
    assert fresh.fingerprint(toy, {}, "smoke") == seen[-1]
    assert fresh.fingerprint(toy, {}, "laptop") != seen[-1]
    number, text = (fresh.fingerprint(toy, {"images": value}, "smoke") for value in (3, "3"))
    assert number != text


@pytest.mark.parametrize("library", ["numpy", "torch", "matplotlib", "pandas"])
def test_another_version_of_a_library_makes_a_notebook_stale(library, tmp_path, monkeypatch):
    from lib.desk import fresh

    toy = notebook(tmp_path, "toy")
    before, versions = fresh.fingerprint(toy, {}, "smoke"), fresh.versions
    monkeypatch.setattr(fresh, "versions", lambda names: versions(names) | {library: "0.1"})
    assert library in versions((*fresh.COMPUTING, *fresh.DRAWING)) and fresh.fingerprint(toy, {}, "smoke") != before


def test_a_run_with_other_libraries_is_stale_here_but_known_for_what_it_is(run, tmp_path, monkeypatch):
    from lib.desk import fresh

    toy = notebook(tmp_path, "toy", WRITES)
    assert run(toy, "--size", "smoke").returncode == 0
    here = fresh.libraries()
    monkeypatch.setattr(fresh, "versions", lambda names: here | {"torch": "0.1"})
    assert not fresh.is_fresh(toy, {}, "smoke") and fresh.is_fresh(toy, {}, "smoke", elsewhere=True)
    notebook(tmp_path, "toy", WRITES, "size")
    assert not fresh.is_fresh(toy, {}, "smoke", elsewhere=True)


@pytest.mark.parametrize("setting", ["STUDY_BFLOAT16", "STUDY_SEED"])
def test_another_setting_of_the_study_makes_a_notebook_stale(setting, tmp_path, monkeypatch):
    from lib.desk import fresh

    toy = notebook(tmp_path, "toy")
    monkeypatch.delenv(setting, raising=False)
    before = fresh.fingerprint(toy, {}, "smoke")
    monkeypatch.setenv(setting, "1")
    assert fresh.fingerprint(toy, {}, "smoke") != before


@pytest.mark.parametrize("name", ["claims.json", "notebooks/toy.ipynb", "figures/drawn.png"])
def test_whatever_a_notebook_wrote_makes_it_stale_when_it_is_altered(name, run, tmp_path):
    draws = "from lib.desk import figures\nfigures.save(figures.plt.figure(), 'drawn', size)"
    imports = "from lib.ground.cache import save_json\nfrom lib.ground.paths import reports\n"
    says = f"{imports}save_json(reports(size) / 'claims.json', [1])"
    toy = notebook(tmp_path, "toy", draws, says)
    assert run(toy, "--size", "smoke").returncode == 0
    assert run(toy, "--size", "smoke", "--check").returncode == 0
    with open(tmp_path / "reports" / "smoke" / name, "ab") as file:
        file.write(b" ")
    assert run(toy, "--size", "smoke", "--check").stdout == "stale toy\n"


def test_a_quality_figure_that_was_altered_makes_its_notebook_stale(run, tmp_path):
    says = "from lib.desk import report\nreport.quality('gain', 0.1, 0.0, 0.2, 9, 1, size, 'toy')"
    toy = notebook(tmp_path, "toy", says)
    run(toy, "--size", "smoke")
    assert run(toy, "--size", "smoke", "--check").returncode == 0
    figures = tmp_path / "reports" / "smoke" / "quality.json"
    figures.write_text(figures.read_text("utf-8").replace("0.1", "0.15"))
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


# ---- before anything is computed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["STUDY_REPORTS", "STUDY_CACHE"])
@pytest.mark.parametrize("place", ["/proc/nowhere", "file/below", "file"])
def test_where_nothing_can_be_written_it_is_said_at_once(variable, place, run, tmp_path):
    (tmp_path / "file").touch()
    result = run(notebook(tmp_path, "toy"), "--size", "smoke", **{variable: str(tmp_path / place)})
    assert refused(result, "cannot write to", place, variable), result.stderr


def test_hours_of_work_are_not_started_unasked(run, tmp_path):
    toy = notebook(tmp_path, "toy", parameters='size = "laptop"  # one of smoke, laptop or full')
    result = run(toy, "--size", "full")
    if torch.cuda.is_available():
        assert result.returncode == 0
        return
    hours = f"size full takes about {cpu_hours('full'):,.0f} hours"
    assert refused(result, hours, "no GPU", "--patient", "PATIENCE=1"), result.stderr
    assert run(toy, "--size", "full", "--patient").returncode == 0
    assert run(toy, "--size", "full").stdout == "fresh toy\n"  # nothing to do, nothing to ask


@pytest.mark.parametrize("answer, starts", [("y", True), ("Yes", True), ("", False), ("n", False), ("maybe", False)])
def test_somebody_at_a_terminal_is_asked(answer, starts, monkeypatch):
    from lib.desk import run as runner

    monkeypatch.setattr(runner, "has_gpu", lambda: False)
    monkeypatch.setattr(runner.sys, "stdin", SimpleNamespace(isatty=lambda: True))
    asked = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or answer)
    if starts:
        runner.ask_for_patience("full", patient=False)
    else:
        with pytest.raises(runner.Refused, match="^not started$"):
            runner.ask_for_patience("full", patient=False)
    assert len(asked) == 1 and f"{cpu_hours('full'):,.0f} hours" in asked[0]
    unasked = [("laptop", False, False), ("evening", False, False), ("full", True, False), ("full", False, True)]
    for size, patient, gpu in unasked:
        monkeypatch.setattr(runner, "has_gpu", lambda gpu=gpu: gpu)
        runner.ask_for_patience(size, patient)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "reader, first", [("07_rejection_sampling", "05_fine_tuning"), ("06_alignment_against_fidelity", "05_fine_tuning")]
)
def test_a_notebook_whose_results_are_not_there_names_the_one_to_run_first(reader, first, run):
    result = run(f"notebooks/{reader}.ipynb", "--size", "smoke")
    (said,) = [line for line in result.stderr.splitlines() if line.startswith("run: ")]
    assert result.returncode == 1 and f"run notebook {first} at that size first" in said, result.stderr


def test_a_kernel_that_starts_in_another_folder_takes_relative_folders_for_the_same(run, tmp_path):
    says = "from lib.ground.paths import CACHE, reports\nassert CACHE.parent == reports(size).parent.parent"
    result = run(notebook(tmp_path, "toy", says), "--size", "smoke", cwd=tmp_path, STUDY_REPORTS="out", STUDY_CACHE="kept",
                 PYTHONPATH=str(ROOT))  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "smoke" / "notebooks" / "toy.ipynb").exists() and (tmp_path / "kept").is_dir()


# ---- setups ------------------------------------------------------------------------------------------------------

SETUP = 'size = "smoke"  # one of smoke, full\nsetup = "mini"  # the name or file of a setup\nimages = 3  # at least 1'


def test_a_setup_has_a_folder_of_its_own_and_its_results_name_it(run, tmp_path):
    toy = notebook(tmp_path, "toy", WRITES, parameters=SETUP)
    (tmp_path / "own.toml").write_text('about = "Mine."\n[training]\nmicro_batch = 3\n')
    for how in (["--setup", tmp_path / "own.toml"], ["-p", f"setup={tmp_path / 'own.toml'}"]):
        result = run(toy, "--size", "smoke", *how)
        assert result.returncode == 0, result.stderr
    assert "fresh toy" in result.stdout  # both ways to say it are the same
    (folder,) = (tmp_path / "reports" / "setups").iterdir()
    assert folder.name.startswith("own-") and not (tmp_path / "reports" / "smoke").exists()
    written = json.loads((folder / "smoke" / "results" / "counted.json").read_text("utf-8"))
    assert written["setup"] == folder.name and written["rows"] == {"images": 3}
    run(toy, "--size", "smoke")
    assert "setup" not in json.loads((tmp_path / "reports" / "smoke" / "results" / "counted.json").read_text("utf-8"))
    (tmp_path / "own.toml").write_text('about = "Mine."\n[training]\nmicro_batch = 4\n')
    assert "stale toy" in run(toy, "--size", "smoke", "--setup", tmp_path / "own.toml", "--check").stdout


def test_labels_that_changed_make_the_notebooks_of_their_setup_stale(run, tmp_path):
    toy = notebook(tmp_path, "toy", WRITES, parameters=SETUP)
    (tmp_path / "own.toml").write_text('[raters]\nkind = "labels"\nlabels = "said"\nimages = "judged"\n')
    (tmp_path / "said").write_text("one")
    how = "--size", "smoke", "--setup", str(tmp_path / "own.toml")
    assert run(toy, *how).returncode == 0 and "all fresh" in run(toy, *how, "--check").stdout
    (tmp_path / "said").write_text("two")
    assert "stale toy" in run(toy, *how, "--check").stdout


@pytest.mark.parametrize("how", [("--setup", "sdxl"), ("-p", "setup=sdxl"), ("--setup", "none.toml")])
def test_an_unknown_setup_is_refused_in_one_line_with_those_there_are(how, run, tmp_path):
    result = run(notebook(tmp_path, "toy", parameters=SETUP), "--size", "smoke", *how)
    assert refused(result, "there is no setup", "lee-sd15, mini, tiny, wu-sd14"), result.stderr


def test_a_setup_with_a_wrong_size_is_refused(run, tmp_path):
    for text, words in (("[size]\nupdate = 3", "update"), ("[size]\nupdates = 0", "updates = 0")):
        (tmp_path / "own.toml").write_text(text)
        result = run(notebook(tmp_path, "toy", parameters=SETUP), "--size", "smoke", "--setup", tmp_path / "own.toml")
        assert refused(result, words, "own.toml"), result.stderr


def test_a_run_with_a_setup_is_not_compared_with_ours(capsys):
    from lib.desk import beside

    assert beside.main(["--size", "laptop", "--setup", "lee-sd15"]) == 0
    assert capsys.readouterr().out == "the setup lee-sd15 is not compared with ours: other models, raters and data\n"
