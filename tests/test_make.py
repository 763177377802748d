"""The make targets say what they do, use the strict runner, and hide no failure."""

import re
import shutil
import subprocess

import pytest

from lib.paths import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = ("env", "test", "reproduce", "smoke", "notebook", "report", "browser", "bench", "pretrain",
           "stale", "lint", "clean")  # fmt: skip


def make(*arguments):
    """Output of make, which must succeed."""
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_make_alone_prints_help_on_every_target():
    said = make()
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[1].split()
    assert set(phony) == {"help", *TARGETS}
    for target in phony:
        assert re.search(rf"^{target} +\S", said, re.M), f"help does not tell of {target}"


def test_reproduce_goes_through_the_strict_runner_at_the_asked_size():
    assert re.search(r"-m lib\.run .*--size laptop$", make("-n", "reproduce"), re.M)
    assert re.search(r"-m lib\.run .*--size smoke$", make("-n", "smoke"), re.M)
    assert re.search(r"-m lib\.site --size laptop$", make("-n", "report"), re.M)
    assert "lib.site" not in make("-n", "reproduce")
    assert re.search(r"-m lib\.run --check .*--size full$", make("-n", "stale", "SIZE=full"), re.M)


def test_the_time_budget_reaches_pretraining():
    assert re.search(r"-m pretrain --minutes 40$", make("-n", "pretrain", "BUDGET=40"), re.M)
    assert re.search(r"-m pretrain *$", make("-n", "pretrain"), re.M)


def test_every_target_that_runs_python_sets_up_its_environment():
    for target, needs, recipe in re.findall(r"^([a-z]+):(.*?)##.*\n((?:\t.*\n)*)", MAKEFILE, re.M):
        if "$(RUN)" in recipe:
            assert "env" in needs.split(), f"{target} does not depend on env"


def test_no_recipe_hides_a_failure():
    recipes = [line for line in MAKEFILE.splitlines() if line.startswith("\t")]
    for line in recipes:
        bare = re.sub(r"'[^']*'", "''", line)
        assert not re.search(r";|\|\||&\s*$", bare), f"a failure would be hidden: {line}"
        assert not line.startswith(("\t-", "\t@-")), f"a failure would be ignored: {line}"
    assert ".IGNORE" not in MAKEFILE


def test_a_failing_runner_fails_make(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "python").write_text('#!/bin/sh\ncase "$*" in *lib.run*) exit 1;; esac\n')
    (tmp_path / "python").chmod(0o755)
    command = ["make", "reproduce", f"RUN={tmp_path}/python", "VENV=done"]
    (tmp_path / "done").mkdir()
    (tmp_path / "requirements.lock").write_text("")
    (tmp_path / "done" / ".installed").write_text("")
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode != 0 and "lib.report" not in result.stdout


def test_an_old_python_is_refused_in_words(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").write_text("")
    sabotaged = (tmp_path / "Makefile").read_text().replace("(3, 11)", "(9, 9)")
    (tmp_path / "Makefile").write_text(sabotaged)
    result = subprocess.run(["make", "env"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode != 0 and "Python 3.11 or newer is needed" in result.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("path", ["lib/run.py", "tests/x.py", "reports/quality.json", "reports/timings.json"])
def test_git_keeps_the_study_and_its_results(path):
    ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode
    assert ignored == 1


@pytest.mark.parametrize("path", [".venv/x", ".cache/x", "reports/smoke/x", "reports/notebooks/x.ipynb", "reports/site/x"])
def test_git_ignores_what_is_built(path):
    assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0


def test_the_pretraining_steps_share_out_the_whole_budget():
    from pretrain.__main__ import STEPS

    assert sum(share for _, *shares in STEPS for share in shares) == pytest.approx(1)
