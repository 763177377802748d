"""A cell that a setup cannot serve says so in one line, what depends on it likewise, and everything else runs as ever."""

import ast
import subprocess
import sys

import pytest
from IPython.core.interactiveshell import InteractiveShell

from lib.desk import report, serving
from lib.desk.serving import Serving, begin, bound
from lib.ground.paths import ROOT


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """A function that runs cells as a notebook of a setup does: the last cell's result and what all of them printed."""
    monkeypatch.setenv("STUDY_REPORTS", str(tmp_path))
    shell = InteractiveShell()
    shell.ast_transformers.append(Serving("tiny", shell.user_ns))
    shell.run_cell("from lib.ground.setups import NotServed\nsize = 'smoke'\ndef ask(why='no judge'): raise NotServed(why)")

    def cells(*sources: str):
        capsys.readouterr()
        results = [shell.run_cell(source, store_history=True) for source in sources]
        return results[-1], capsys.readouterr().out

    cells.names = shell.user_ns
    return cells


LINE = "not served by the setup tiny: no judge"


def test_a_cell_is_left_with_one_line_and_keeps_what_it_had_bound(run):
    result, said = run("a = 1\nb = ask()\nc = 3")
    assert result.success and said.strip() == LINE
    assert run.names["a"] == 1 and "b" not in run.names and "c" not in run.names


def test_what_uses_a_name_that_was_left_out_is_left_out_too(run):
    result, said = run("b = ask()", "def f():\n    return b\nd = [x for x in range(2)]", "e = f() + 1", "g = e", "h = d[1]")
    assert result.success and said.strip().splitlines() == [LINE] * 3 and run.names["h"] == 1


def test_an_old_value_is_never_mistaken_for_a_new_one(run):
    loop = "for i in range(3):\n    rows.append(i)\n    by[i] = i\n    ask()"
    result, said = run("rows, by, x = [], {}, 0", loop, "len(rows)")
    assert said.strip().splitlines() == [LINE] * 2 and not {"rows", "by"} & set(run.names) and run.names["x"] == 0
    run("y = 5", "y = ask()")
    assert "y" not in run.names
    result, said = run("y = 6", "y")
    assert "y" in run.names and result.result == 6 and "not served" not in said


def test_variables_of_comprehensions_and_functions_are_no_names_of_the_notebook(run):
    run("x, y, z = 1, 2, 3", "w = [x for x in range(3)], ask(), (lambda y: y)(1)\ndef f(z): z = 4")
    assert [run.names[n] for n in "xyz"] == [1, 2, 3] and "f" not in run.names


@pytest.mark.parametrize("source", ["1 / 0", "{}['k']", "undefined", "def f(): return undefined\nf()", "assert False"])
def test_every_other_error_stops_the_notebook_where_it_is(run, source):
    result, said = run("b = ask()", "x = 1\n" + source)
    assert not result.success and "x" in run.names
    assert type(result.error_in_exec) in (ZeroDivisionError, KeyError, NameError, AssertionError)
    traceback = result.error_in_exec.__traceback__.tb_next
    assert traceback.tb_lineno == 1 + len(source.splitlines())


def test_the_last_expression_is_still_shown_and_a_statement_is_not(run):
    assert run("1 + 1")[0].result == 2 and run("x = 3")[0].result is None and run("x = 4\nx")[0].result == 4
    assert run("print(1)")[1].split() == ["1"] and run("# nothing")[0].success
    assert run("5;")[1] == "" and run("5")[1].strip().endswith("5")


def test_a_statement_that_names_what_only_mini_has_is_left(run):
    result, said = run("from lib.world import scenes\nfrom lib.images import models", "a = scenes.SEEN\nb = scenes.render")
    assert said.strip() == "not served by the setup tiny: only the emoji world is rendered" and "a" in run.names
    assert "the shipped models are mini's" in run("c = lambda: models.load_judge('a')")[1]
    assert "the shipped models are mini's" in run("c = models.load_clip()")[1]  # behind a cache
    assert "judges know" in run("from lib.feedback.judges import look", "look(1)")[1]


def test_the_modules_of_mini_are_there():
    from importlib.util import find_spec

    assert all(find_spec(name) for name in serving.MINI)


def test_a_result_that_was_left_out_says_why_to_whoever_reads_it(run, monkeypatch):
    monkeypatch.setenv("STUDY_SETUP", "tiny-1")
    written = "report.write('one', [1], size, '05_a')\nask()\nreport.write('two', [], size, '05_a')"
    run("from lib.desk import report", written)
    assert report.read("one", "smoke") == [1]
    result, said = run("x = report.read('two', size)", "x")
    assert said.strip().splitlines() == [LINE] * 2
    with pytest.raises(FileNotFoundError):
        report.read("three", "smoke")


def test_half_a_figure_is_not_shown(run):
    import matplotlib.pyplot as plt

    run("import matplotlib.pyplot as plt", "figure, axis = plt.subplots()\naxis.plot([ask()])")
    assert plt.get_fignums() == []


def test_under_mini_nothing_is_installed(monkeypatch):
    monkeypatch.setattr(serving, "get_ipython", lambda: pytest.fail("asked for the shell"))
    begin({"setup": "mini", "size": "smoke"})
    begin({"size": "smoke"})


def test_all_ways_to_bind_a_name_are_seen():
    source = "a = [n for n in x]\nb, (c, *d) = 1\ndef f(q):\n    z = 1\nfor i in y: e += 1\ng[1] = 2\nh.append(3)\n"
    source += "with p as w: pass\nif (v := 3): pass\nimport numpy as np\nk = {s: t for s, t in u}\nlambda m: m\no.x = 1"
    assert bound(ast.parse(source)) == list("abcdefghikovw")


def test_modules_and_imported_names_stay(run):
    run("import numpy as np\nfrom math import pi", "a = np.append([1], 2), ask()\nimport numpy as np\nfrom math import pi")
    assert {"np", "pi"} <= set(run.names) and "a" not in run.names


def test_under_mini_nothing_of_the_papers_scale_is_imported():
    code = "import sys, lib.desk.run, lib.study.made as m; m.lee_study('smoke'), m.wu_study('smoke'); "
    code += "assert type(m.lee_study('smoke')).__name__ == 'LeeStudy'; print([n for n in sys.modules if 'lib.scale' in n])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
