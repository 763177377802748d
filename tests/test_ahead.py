"""Stages made ahead in other processes are those that the study would make."""

import os

import pytest

from lib import ahead
from lib.study import Study


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "_one", noted)
    return tmp_path


def noted(folder: str, name: str, *arguments) -> None:
    if name == "fails":
        raise ValueError("no such thing")
    with open(os.path.join(folder, name), "w") as file:
        file.write(f"{os.getpid()} {arguments}")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2 if hasattr(os, "sched_getaffinity") else False, reason="one core")
def test_stages_are_made_in_other_processes_and_an_error_comes_back(elsewhere):
    ahead.make(str(elsewhere), [("first", 1, "a"), ("second",)])
    texts = {p.name: p.read_text() for p in elsewhere.iterdir()}
    assert set(texts) == {"first", "second"} and texts["first"].endswith("(1, 'a')")
    assert str(os.getpid()) not in {t.split()[0] for t in texts.values()}
    with pytest.raises(ValueError, match="^no such thing$"):
        ahead.make(str(elsewhere), [("fails",), ("third",)])


def test_one_stage_alone_is_left_to_the_study(elsewhere):
    ahead.make(str(elsewhere), [("first",)])
    assert not list(elsewhere.iterdir())


def test_a_study_hands_on_its_size_and_what_is_wanted_but_at_the_smallest_size(monkeypatch):
    handed = []
    monkeypatch.setattr(ahead, "make", lambda size, wanted: handed.append((size, wanted)))
    for size in ("smoke", "laptop"):
        Study(size).ahead(("labelled_images",), ("rewards", 3))
    assert handed == [("laptop", (("labelled_images",), ("rewards", 3)))]
