"""The archive for another machine holds the study and what that machine lacks, and its one command runs the study there."""

import os
import subprocess
import tarfile

import pytest

from lib.desk import pack
from lib.ground.paths import ROOT

needs_a_clone = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no clone")


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """The archive's path, made with one wheel from nowhere."""

    def wheels(folder, python):
        (folder / f"x-1-py{python}.whl").write_bytes(b"a wheel")
        return [folder / f"x-1-py{python}.whl"]

    monkeypatch.setattr(pack, "wheels", wheels)
    return tmp_path / "a b" / "study.tar.gz"


@needs_a_clone
def test_the_archive_has_the_tracked_files_without_figures_the_wheels_and_the_command(packed, capsys):
    assert pack.main([str(packed), "--python", "3.13"]) == 0
    assert "sh study/there.sh gpu" in capsys.readouterr().out
    with tarfile.open(packed) as archive:
        names = archive.getnames()
        assert archive.extractfile("study/lib/desk/pack.py").read() == (ROOT / "lib" / "desk" / "pack.py").read_bytes()
        assert archive.extractfile("study/wheels/x-1-py3.13.whl").read() == b"a wheel"
        assert archive.getmember("study/there.sh").mode & 0o100
    assert {"study/notebooks/99_claims.ipynb", "study/data/claims.toml", "study/reports/README.md"} <= set(names)
    assert not [n for n in names if "/figures/" in n or "/yours/" in n or "__pycache__" in n or "/.venv" in n]


@needs_a_clone
def test_an_archive_above_the_limit_is_refused_and_nothing_is_left(packed, monkeypatch, capsys):
    monkeypatch.setattr(pack, "LIMIT", 1)
    assert pack.main([str(packed)]) == 1 and "more than the limit of 1 MB" in capsys.readouterr().err
    assert list(packed.parent.iterdir()) == []


def test_without_git_it_says_what_is_needed(packed, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pack, "ROOT", tmp_path)
    assert pack.main([str(packed)]) == 1 and "pack from a clone" in capsys.readouterr().err


def test_what_the_other_machine_has_is_not_packed_and_what_the_notebooks_need_is():
    lacking = pack.required(pack.NEEDED, "3.12") - pack.required(pack.THERE, "3.12")
    assert {"diffusers", "open-clip-torch", "papermill", "ipykernel", "nbformat", "jupyter-client", "pyzmq"} <= lacking
    assert not {"torch", "numpy", "pillow", "filelock", "safetensors", "tqdm", "huggingface-hub", "matplotlib"} & lacking
    assert not [name for name in lacking if name.startswith(("nvidia", "cuda"))]


@pytest.mark.parametrize("notebooks", [[], ["notebooks/02 x.ipynb"]])
def test_the_one_command_installs_beside_the_study_and_runs_what_is_asked(notebooks, tmp_path):
    study, log = tmp_path / "a b" / "study", tmp_path / "log"
    for name in ("wheels/x.whl", "notebooks/00_a.ipynb", "notebooks/02 x.ipynb"):
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).touch()
    (study / "there.sh").write_text(pack.COMMAND, "utf-8")
    python = tmp_path / "my python"
    python.write_text('#!/bin/sh\nprintf "%s|" "$PYTHONPATH" "$@" >> "$LOG"\necho >> "$LOG"\n', "utf-8")
    python.chmod(0o755)
    own = {"PYTHON": str(python), "LOG": str(log)}
    asked = ["sh", str(study / "there.sh"), "gpu", *notebooks]
    done = subprocess.run(asked, cwd=tmp_path, env=os.environ | own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    install, run, *rest = (line.split("|")[:-1] for line in log.read_text("utf-8").splitlines())
    assert install[-3:] == ["--target", ".cache/site", "wheels/x.whl"] and "--no-index" in install
    wanted = notebooks or ["notebooks/00_a.ipynb", "notebooks/02 x.ipynb"]
    assert run == [f"{study}/.cache/site:{study}", "-m", "lib.desk.run", *wanted, "--size", "gpu", "--patient"]
    assert [r[1:] for r in rest] == ([] if notebooks else [["-m", "lib.desk.beside", "--size", "gpu"]])
    failed = subprocess.run([*asked[:2]], cwd=tmp_path, env=os.environ | own, capture_output=True, text=True)
    assert failed.returncode and "name a size" in failed.stderr
