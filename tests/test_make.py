"""The make targets say what they do, use the strict runner, hide no failure, and are bound to no path, shell or user."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from lib.ground.paths import ROOT

MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = ("env", "test", "reproduce", "smoke", "publish", "sturdy", "torture", "notebook", "report", "browser",
           "labelstudio", "campaign", "export", "pack", "bench", "pretrain", "stale", "lint", "strip", "clean")  # fmt: skip
SPACED = "/a b/ü/venv"
# What an outer make, or a user, may have set; and not every system has a python3.
OTHERS = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "VENV", "SIZE", "SETUP", "PYTHONPATH")
PLAIN = {name: value for name, value in os.environ.items() if name not in OTHERS} | {"PYTHON": sys.executable}


def make(*arguments, **environment):
    """Output of make, which must succeed; a value of None takes the variable away."""
    given = {name: value for name, value in (PLAIN | environment).items() if value is not None}
    command = ["make", "--no-print-directory", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands(target, *arguments, **environment):
    """The words of each command that a target would run, as the shell splits them."""
    return [shlex.split(line) for line in make("-n", target, *arguments, **environment).splitlines()]


def test_make_alone_prints_help_on_every_target():
    said = make()
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[1].split()
    assert set(phony) == {"help", *TARGETS}
    for target in phony:
        assert re.search(rf"^{target} +\S", said, re.M), f"help does not tell of {target}"


def test_help_needs_no_tool_that_differs_between_systems(tmp_path):
    for name in ("sed", "expand", "grep", "bash"):  # BSD's sed knows no tab escape, and not every system has bash
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n", "utf-8")
        (tmp_path / name).chmod(0o755)
    assert make(PATH=f"{tmp_path}:{os.environ['PATH']}") == make()
    assert "/bin/bash" not in MAKEFILE


def test_reproduce_goes_through_the_strict_runner_at_the_asked_size():
    assert re.search(r"-m lib\.desk\.run .*--size .laptop. --setup .mini.$", make("-n", "reproduce"), re.M)
    assert re.search(r"-m lib\.desk\.run .*--size .smoke. --setup .tiny.$", make("-n", "smoke", "SETUP=tiny"), re.M)
    assert re.search(r"-m lib\.desk\.site --size .laptop.$", make("-n", "report"), re.M)
    assert "lib.desk.site" not in make("-n", "reproduce")
    assert re.search(r"-m lib\.desk\.beside --size .laptop. --setup .mini.$", make("-n", "reproduce"), re.M)
    assert re.search(r"-m lib\.desk\.publish --size .gpu.$", make("-n", "publish", "SIZE=gpu"), re.M)
    assert re.search(r"-m lib\.desk\.run --check .*--size .full. --setup .mini.$", make("-n", "stale", "SIZE=full"), re.M)


def test_the_time_budget_reaches_pretraining():
    assert re.search(r"-m pretrain --minutes .40.$", make("-n", "pretrain", "BUDGET=40"), re.M)
    assert re.search(r"-m pretrain *$", make("-n", "pretrain"), re.M)


def test_a_model_and_a_folder_with_spaces_reach_the_export():
    exported = commands("export", "MODEL=LoRA, λ = 0", "TO=/my models/one", "SIZE=full")[-1]
    assert exported[1:] == ["-m", "lib.desk.export", "LoRA, λ = 0", "/my models/one", "--size", "full"]
    assert commands("pack", "TO=/my files/one.tar.gz")[-1][1:] == ["-m", "lib.desk.pack", "/my files/one.tar.gz"]
    assert commands("pack", TO="of another program")[-1][1:] == ["-m", "lib.desk.pack"]
    assert commands("export", MODEL="of another program")[-1][1:] == ["-m", "lib.desk.export", "--size", "laptop"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("venv", [SPACED, "my environment"])
def test_every_target_that_runs_python_looks_at_its_environment_first(target, venv):
    run = commands(target, f"VENV={venv}")
    pythons = [words for words in run if f"{venv}/bin/python" in words]
    assert pythons or target in ("env", "clean"), f"{target} runs no Python of {venv}"
    if pythons or target == "env":
        (look, *_) = [words for words in run if words[1:2] == ["-I"] or words in pythons]
        assert look[-3:] == ["-I", "lib/desk/environment.py", venv]
    for words in pythons:
        scripts = [word for word in words if "/bin/" in word and not word.endswith("/bin/python")]
        assert not scripts, "a script of the environment names the folder in which it was installed"
        assert "jupyter" not in words, "`-m jupyter lab` looks for a script on the PATH"


def test_a_space_in_python_or_in_the_size_makes_no_second_word():
    assert commands("report", "SIZE=lap top")[-1][-2:] == ["--size", "lap top"]
    assert commands("stale", "SIZE=a  b", "SETUP=c d")[-1][-4:] == ["--size", "a  b", "--setup", "c d"]
    assert commands("pretrain", "BUDGET=4 0")[-1][-2:] == ["--minutes", "4 0"]


@pytest.mark.parametrize(("user", "allowed"), [("0", True), ("1000", False), ("10", False)])
def test_jupyterlab_is_told_of_root_and_of_nobody_else(tmp_path, user, allowed):
    (tmp_path / "id").write_text(f"#!/bin/sh\necho {user}\n", "utf-8")
    (tmp_path / "id").chmod(0o755)
    words = commands("notebook", PATH=f"{tmp_path}:{os.environ['PATH']}")[-1]
    assert words[words.index("-m") + 1] == "jupyterlab" and ("--allow-root" in words) == allowed


@pytest.mark.parametrize("home", [None, "/nonexistent", "/dev/null", str(ROOT / "Makefile")])
def test_jupyterlab_gets_a_home_where_the_users_cannot_be_written_to(tmp_path, home):
    (given,) = [word[5:] for word in commands("notebook", HOME=home, TMPDIR=str(tmp_path))[-1] if word.startswith("HOME=")]
    assert os.path.dirname(given) == str(tmp_path) and os.path.isdir(given)


def test_jupyterlab_keeps_a_home_that_can_be_written_to(tmp_path):
    assert f"HOME={tmp_path}" in commands("notebook", HOME=str(tmp_path))[-1]


def test_no_recipe_hides_a_failure():
    recipes = [line for line in MAKEFILE.splitlines() if line.startswith("\t")]
    for line in recipes:
        bare = re.sub(r"'[^']*'", "''", line)
        assert not re.search(r";|\|\||&\s*$", bare), f"a failure would be hidden: {line}"
        assert not line.startswith(("\t-", "\t@-")), f"a failure would be ignored: {line}"
    assert ".IGNORE" not in MAKEFILE


def test_a_failing_runner_fails_make(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "lib" / "desk").mkdir(parents=True)
    (tmp_path / "lib" / "desk" / "environment.py").write_text("", "utf-8")
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").write_text('#!/bin/sh\ncase "$*" in *lib.desk.run*) exit 1;; esac\n', "utf-8")
    (tmp_path / "venv" / "bin" / "python").chmod(0o755)
    command = ["make", "reproduce", "VENV=venv"]
    result = subprocess.run(command, cwd=tmp_path, env=PLAIN, capture_output=True, text=True)
    assert result.returncode != 0 and "lib.desk.run" in result.stdout and "lib.desk.beside" not in result.stdout


def test_the_pretraining_steps_share_out_the_whole_budget():
    from pretrain.__main__ import STEPS

    assert sum(share for _, *shares in STEPS for share in shares) == pytest.approx(1)
