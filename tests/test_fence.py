"""A notebook that is run for the record looks the same whatever its user has set."""

import json
import os
import subprocess
import sys

import nbformat
import pytest

from lib.ground.paths import ROOT

DRAW = """
import matplotlib.pyplot as plt, pandas as pd, warnings, locale
from lib.desk import figures, report
figures.style()
figure, axis = plt.subplots()
axis.plot([1, 2], [1, 3], label="$x$ against y")
axis.set(title="A figure", xlabel="x")
axis.legend()
figures.save(figure, "drawn", size)
"""
SAY = """
table = pd.DataFrame({"a": [1.23456789, 10_000.5]})
report.write("said", {"text": repr(table), "name": str(table.a.dtype), "asserts": __debug__}, size, "toy")
warnings.warn("only a warning")
"""


def settings_of_nobody(folder):
    return {}


def matplotlibrc(folder):
    """The user's matplotlib wants LaTeX, other colours and more space."""
    text = "text.usetex: True\nsavefig.pad_inches: 1\naxes.facecolor: red\nsavefig.transparent: True\nlines.linewidth: 9\n"
    (folder / "matplotlibrc").write_text(text)
    return {"MATPLOTLIBRC": str(folder / "matplotlibrc"), "MPLBACKEND": "no_such_backend"}


def matplotlib_in_the_configuration(folder):
    """The same in the folder of their configuration."""
    matplotlibrc(folder)
    return {"MPLCONFIGDIR": str(folder)}


def ipython_startup(folder):
    """A startup file of IPython changes pandas' display and stops at warnings."""
    (folder / "profile_default" / "startup").mkdir(parents=True)
    code = "import pandas, warnings\npandas.options.display.precision = 1\nwarnings.simplefilter('error')\n"
    (folder / "profile_default" / "startup" / "00.py").write_text(code)
    (folder / "profile_default" / "ipython_kernel_config.py").write_text("raise RuntimeError")
    (folder / "started.py").write_text(code)
    return {"IPYTHONDIR": str(folder), "PYTHONSTARTUP": str(folder / "started.py")}


def python_and_locale(folder):
    """Warnings are errors, asserts are off, and the locale may not even exist here."""
    return {"PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "1", "LC_ALL": "de_DE.ISO-8859-1", "LANG": "de_DE.ISO-8859-1",
            "LANGUAGE": "de", "TZ": "Asia/Tokyo", "TQDM_DISABLE": "no number"}  # fmt: skip


def jupyter(folder):
    """Jupyter is configured to start another kernel."""
    (folder / "kernels" / "python3").mkdir(parents=True)
    kernel = {"argv": ["/no/such/python", "{connection_file}"], "display_name": "x", "language": "python"}
    (folder / "kernels" / "python3" / "kernel.json").write_text(json.dumps(kernel))
    (folder / "jupyter_config.py").write_text("raise RuntimeError")
    return {"JUPYTER_CONFIG_DIR": str(folder), "JUPYTER_DATA_DIR": str(folder), "JUPYTER_PREFER_ENV_PATH": "0"}


def no_home(folder):
    """There is a home, and nothing can be written to it."""
    (folder / "home").write_text("a file in its place")
    home = str(folder / "home")
    return {"HOME": home, "XDG_CACHE_HOME": f"{home}/x", "XDG_CONFIG_HOME": f"{home}/y"}


SETTINGS = (matplotlibrc, matplotlib_in_the_configuration, ipython_startup, python_and_locale, jupyter, no_home)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`run(settings)`: what the toy notebook writes for a user with these settings."""

    def of(settings):
        folder = tmp_path_factory.mktemp(settings.__name__)
        book = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
        parameters = nbformat.v4.new_code_cell('size = "smoke"  # smoke, laptop or full', metadata={"tags": ["parameters"]})
        book.cells = [parameters, nbformat.v4.new_code_cell(DRAW), nbformat.v4.new_code_cell(SAY)]
        nbformat.write(book, folder / "toy.ipynb")
        (folder / "theirs").mkdir()
        own = {"STUDY_REPORTS": str(folder / "reports"), "STUDY_CACHE": str(folder / "cache")}
        command = [sys.executable, "-m", "lib.desk.run", str(folder / "toy.ipynb"), "--size", "smoke"]
        result = subprocess.run(
            command, cwd=ROOT, env=os.environ | settings(folder / "theirs") | own, capture_output=True, text=True
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        smoke = folder / "reports" / "smoke"
        return (smoke / "figures" / "drawn.png").read_bytes(), (smoke / "results" / "said.json").read_text("utf-8")

    return of


def test_figures_and_tables_are_the_same_whatever_the_user_has_set(run):
    plain = run(settings_of_nobody)
    assert json.loads(plain[1])["rows"]["asserts"] is True
    for settings in SETTINGS:
        assert run(settings) == plain, settings.__doc__


def test_in_jupyterlab_too_figures_start_from_matplotlibs_own_settings(monkeypatch):
    import matplotlib.pyplot as plt

    from lib.desk import figures

    with plt.rc_context():
        plt.rcParams |= {"text.usetex": True, "savefig.pad_inches": 1, "axes.facecolor": "red"}
        figures.style()
        for name in ("text.usetex", "savefig.pad_inches"):
            assert plt.rcParams[name] == plt.rcParamsDefault[name]
        assert plt.rcParams["axes.facecolor"] == "white"
