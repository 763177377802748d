"""A rehearsal leaves stages and nothing else, works beside the notebook that runs, and ends with its runner."""

import os
import subprocess
import sys
import time

import psutil
import pytest
from test_run import notebook

from lib.desk.rehearsal import REHEARSED
from lib.ground.paths import ROOT
from lib.study import ahead

LATER = REHEARSED[0]
STAGE = "from lib.ground.cache import CACHE, atomic_write\natomic_write(CACHE / 'late' / 'made', 'x')"
WRITES = "from lib.desk import report\nreport.write('late', {'images': 1}, size, 'late')"
ALONE = """
import psutil
others = psutil.Process().parent().children()
assert len(others) >= 1 and not any("lib.desk.rehearsal" in p.cmdline() for p in others), "rehearsed too early"
"""
WAITS = """
import time, pathlib
from lib.ground.paths import CACHE
until = time.monotonic() + 60
while time.monotonic() < until and not list(CACHE.glob("late/made")):
    time.sleep(0.2)
assert list(CACHE.glob("late/made")), "nobody made it"
"""
several_cores = pytest.mark.skipif(ahead.cores() < 2, reason="one core")


@pytest.fixture
def environment(tmp_path):
    return os.environ | {"STUDY_REPORTS": str(tmp_path / "reports"), "STUDY_CACHE": str(tmp_path / "cache")}


@pytest.fixture
def command(tmp_path):
    """The runner's command line with some notebooks after a first one, during which nothing is rehearsed."""
    start = [sys.executable, "-m", "lib.desk.run", "--size", "smoke", str(notebook(tmp_path, "start", ALONE))]
    return lambda *notebooks: [*start, *map(str, notebooks)]


@several_cores
def test_another_process_makes_stages_of_a_later_notebook_and_leaves_nothing_else(environment, command, tmp_path):
    seen = "import os\nassert not os.path.exists(os.environ['STUDY_REPORTS'] + '/smoke/results/late.json')"
    first = notebook(tmp_path, "first", WAITS, seen)
    result = subprocess.run(
        command(first, notebook(tmp_path, LATER, WRITES, STAGE)), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["running", "start"], ["done", "start"], ["running", "first"], ["done", "first"], ["running", LATER], ["done", LATER]
    ]  # fmt: skip


def test_with_one_core_nothing_is_rehearsed(environment, command, tmp_path):
    first = notebook(tmp_path, "first", WAITS.replace("+ 60", "+ 12"))
    later = notebook(tmp_path, LATER, STAGE)
    result = subprocess.run(
        command(first, later), cwd=ROOT, env=environment | {"STUDY_CORES": "1"}, capture_output=True, text=True
    )
    assert result.returncode == 1 and "nobody made it" in result.stderr


@several_cores
def test_a_rehearsal_that_fails_says_nothing_and_the_notebook_is_run(environment, command, tmp_path):
    fails = "import os\nassert os.environ.get('STUDY_CORES') != '1', 'rehearsed'"
    first = notebook(tmp_path, "first", "import time; time.sleep(8)")
    result = subprocess.run(
        command(first, notebook(tmp_path, LATER, fails)), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0 and "rehearsed" not in result.stdout + result.stderr


@several_cores
def test_a_rehearsal_ends_with_a_runner_that_is_killed(environment, command, tmp_path):
    first = notebook(tmp_path, "first", "import time; time.sleep(300)")
    later = notebook(tmp_path, LATER, STAGE, "import time; time.sleep(300)")
    runner = subprocess.Popen(command(first, later), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 90
    while not list(tmp_path.glob("cache/late/made")) and time.monotonic() < until:
        time.sleep(0.2)
    started = psutil.Process(runner.pid).children(recursive=True)
    assert any("lib.desk.rehearsal" in p.cmdline() for p in started)
    runner.kill()
    runner.wait()
    assert not psutil.wait_procs(started, timeout=30)[1]
