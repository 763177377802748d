"""Stages made ahead in other processes are those that the study would make."""

import os
import subprocess
import sys

import pytest

from lib.ground import cache
from lib.ground.paths import ROOT
from lib.study import ahead
from lib.study.lee import LeeStudy

several_cores = pytest.mark.skipif(ahead.cores() < 2, reason="one core")


class Stages:
    """As a study of one size: three stages by name, each a file."""

    def __init__(self, folder):
        self.arguments = (str(folder),)
        self.folder = folder

    def first(self, *arguments):
        return cache.stage("first", {"arguments": list(arguments)}, {}, write)

    @property
    def second(self):
        return cache.stage("second", {}, {}, write)

    def fails(self):
        return cache.stage("fails", {}, {}, write)

    def noted(self) -> dict[str, str]:
        return {p.name: p.read_text("utf-8") for p in self.folder.iterdir() if p.is_file()}


def write(folder) -> None:
    (folder / "made").write_text("by the study")


def noted(kind: type, given: tuple[str], name: str, *arguments) -> None:
    if name == "fails":
        raise ValueError("no such thing")
    with open(os.path.join(*given, name), "w") as file:
        file.write(f"{os.getpid()} {arguments}")


@pytest.fixture
def stages(tmp_path, monkeypatch, patched):
    monkeypatch.setattr(ahead, "_one", noted)
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")
    yield Stages(tmp_path)
    if ahead._pool.cache_info().currsize:
        ahead._pool().shutdown()
        ahead._pool.cache_clear()


@several_cores
def test_stages_are_made_in_other_processes_and_an_error_comes_back(stages):
    ahead.make(stages, [("first", 1, "a"), ("second",)])
    texts = stages.noted()
    assert set(texts) == {"first", "second"} and texts["first"].endswith("(1, 'a')")
    assert str(os.getpid()) not in {t.split()[0] for t in texts.values()}
    with pytest.raises(ValueError, match="^no such thing$"):
        ahead.make(stages, [("fails",), ("second",)])
    ahead.make(stages, [("first", 3), ("second",)])
    assert stages.noted()["first"].endswith("(3,)")  # an error ends its processes, and the next call has new ones


@several_cores
def test_the_processes_of_one_call_serve_the_next(stages):
    ahead.make(stages, [("first", 1), ("second",)])
    before = {t.split()[0] for t in stages.noted().values()}
    ahead.make(stages, [("first", 2), ("second",)])
    assert {t.split()[0] for t in stages.noted().values()} & before


@several_cores
def test_no_process_is_started_for_what_is_in_the_cache(stages):
    stages.second  # noqa: B018
    ahead.make(stages, [("first", 1), ("second",), ("first", 2)])
    assert set(stages.noted()) == {"first"}
    stages.first(1), stages.first(2)
    (stages.folder / "first").unlink()
    ahead.make(stages, [("first", 1), ("second",), ("first", 2)])
    assert not stages.noted()


KILLED = """
import os, signal, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from lib.study import ahead

pool = ProcessPoolExecutor(1, get_context("spawn"), ahead._begin)
assert pool.submit(abs, -1).result() == 1
pool.submit(time.sleep, 600)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_process_outlives_a_killed_parent():
    # The output ends when the last process that has it ends.
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, stdout=subprocess.PIPE, timeout=120)
    assert done.returncode == -9


def test_one_missing_stage_alone_is_left_to_the_study_even_if_wanted_twice(stages):
    stages.second  # noqa: B018
    ahead.make(stages, [("first",), ("second",), ("first",)])
    assert not stages.noted() and stages.first().path.exists()


def test_a_study_hands_on_what_is_wanted_and_at_the_smallest_size_asks_for_more(monkeypatch):
    handed = []
    monkeypatch.setattr(ahead, "make", lambda study, wanted, least: handed.append((study.name, wanted, least)))
    wanted = ("labelled_images",), ("rewards", 3)
    for size in ("smoke", "laptop"):
        LeeStudy(size).ahead(*wanted)
    assert handed == [("smoke", wanted, 6), ("laptop", wanted, 2)]


def test_too_few_missing_stages_are_left_to_the_study(stages):
    ahead.make(stages, [("first",), ("second",)], 3)
    assert not stages.noted()


def test_as_many_cores_are_used_as_a_reader_says(monkeypatch):
    monkeypatch.setenv("STUDY_CORES", "1")
    assert ahead.cores() == 1
    for text in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("STUDY_CORES", text)
        with pytest.raises(ValueError, match=f"^STUDY_CORES='{text}': expected a whole number of at least 1"):
            ahead.cores()


def test_another_process_makes_the_same_study():
    made = LeeStudy("smoke", "labels.csv")
    same = type(made)(*made.arguments)
    assert (same.name, same.raters, same.size) == (made.name, made.raters, made.size)
