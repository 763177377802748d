"""A result is kept only when the code that runs is the code of the files."""

import contextlib
import functools
import importlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

import pytest

from lib.feedback import panel, taste, votes
from lib.ground import memory, precision, seeds, sizes, source
from lib.ground.paths import ROOT
from lib.images import sampling
from lib.methods import adaptation, denoising, ensemble, reward

MODULES = source.own_closure("lib.methods.adaptation") + source.own_closure("lib.methods.ensemble")


def mine(*args, **kwargs):
    """A reader's own function."""


@dataclass(frozen=True)
class OtherSpec:
    width: int = 3


@pytest.mark.parametrize(
    "home, name, value",
    [
        (ensemble, "train", mine), (denoising, "denoising_loss", functools.partial(mine, 1)),
        (sampling, "seed_of", mine),
        (reward.Reward, "forward", mine), (panel.RaterSpec, "__init__", mine), (denoising.Pairs, "__post_init__", mine),
        (denoising, "autocast", contextlib.nullcontext), (precision, "autocast", contextlib.nullcontext),
        (panel, "EVALUATORS", panel.EVALUATORS[:3]), (votes, "SET", 3), (taste, "CERTAINTY", 9.0),
        (adaptation, "PREFIX", "Bad. "), (reward.RewardSpec, "width", 256), (reward, "RewardSpec", OtherSpec),
        (reward.prompt_classification_loss, "__defaults__", (0.5,)),
        (ensemble.train, "__code__", (lambda image, text, pool, lessons, dtype: None).__code__),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_what_was_replaced_in_memory_is_named_until_it_is_put_back(home, name, value, monkeypatch):
    memory.refuse_changes(MODULES)
    with monkeypatch.context() as patch:
        patch.setattr(home, name, value)
        words = r"^lib\.\w+\.\w+\.\w+.* is not what lib/\w+/\w+\.py says, .*restart"
        with pytest.raises(memory.ChangedCode, match=words) as said:
            memory.refuse_changes(MODULES)
        assert name.startswith("__") or name in str(said.value)
    memory.refuse_changes(MODULES)


def test_a_change_that_was_put_back_is_none_even_if_it_was_there_at_the_first_look(monkeypatch):
    memory._as_written.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(precision, "autocast", contextlib.nullcontext)
        with pytest.raises(memory.ChangedCode, match="^lib.methods.denoising.autocast is not"):
            memory.refuse_changes(["lib.methods.denoising"])
    memory.refuse_changes(["lib.methods.denoising"])


def test_a_name_that_hides_a_builtin_is_a_change(monkeypatch):
    monkeypatch.setattr(reward, "round", mine, raising=False)
    with pytest.raises(memory.ChangedCode, match=r"^lib.methods.reward.round is not"):
        memory.refuse_changes(["lib.methods.reward"])


def test_an_entry_in_a_dict_that_was_changed_in_place_is_a_change(monkeypatch):
    monkeypatch.setitem(panel.blurred_counts.__globals__, "LABELLERS", ("somebody",))
    with pytest.raises(memory.ChangedCode, match=r"^lib.feedback.panel.LABELLERS"):
        memory.refuse_changes(["lib.feedback.panel"])


def test_modules_loaded_again_from_the_same_files_are_no_change():
    try:
        importlib.reload(panel)
        memory.refuse_changes(MODULES)
    finally:
        held = "feedback.votes", "feedback.taste", "methods.reward", "methods.lessons", "methods.ensemble"
        for name in held:  # they hold what was there before
            importlib.reload(sys.modules[f"lib.{name}"])
    memory.refuse_changes(MODULES)


def test_objects_of_the_studys_classes_may_be_sent_to_other_processes():
    for spec in (reward.RewardSpec(), panel.RaterSpec(), sizes.SamplerSpec()):
        spec.__reduce_ex__(4)  # as when it is sent
        assert "__slotnames__" in vars(type(spec))
    memory.refuse_changes([*MODULES, "lib.ground.sizes"])


def test_what_the_machine_or_the_reader_decides_is_no_change(monkeypatch):
    monkeypatch.setattr(precision, "FAST_BFLOAT16", not precision.FAST_BFLOAT16)
    monkeypatch.setattr(seeds, "STUDY", 5)
    memory.refuse_changes(MODULES)


PROJECT = """
import pathlib, sys
from lib.ground import cache
from lib.methods import reward
from lib import toy
def made(text="kept"):
    return cache.stage("toy", {}, {}, toy.writer(text))
file = pathlib.Path(toy.__file__)
before = file.read_text("utf-8")
"""
TOY = """
import lib.methods.reward
def writer(text):
    def make(folder):
        (folder / "out.txt").write_text(text + value())
    return make
def value():
    return " by the file"
"""


@pytest.fixture
def project(tmp_path):
    """`project(script)`: what is kept, and the last error line, of a script in a copy of lib with a toy module."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "lib" / "toy.py").write_text(TOY)
    (tmp_path / "data").symlink_to(ROOT / "data")

    def run(script):
        theirs = {"STUDY_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        result = subprocess.run(
            [sys.executable, "-c", PROJECT + script], cwd=tmp_path, env=os.environ | theirs, capture_output=True, text=True
        )  # fmt: skip
        kept = [p.read_text("utf-8") for p in (tmp_path / "cache" / "toy").glob("*/out.txt")]
        return kept, (result.stderr.strip().splitlines() or [""])[-1]

    return run


@pytest.mark.parametrize(
    "edit, words",
    [
        ("file.write_text(before.replace('file', 'edit')); made()", "lib/toy.py changed since this kernel started"),
        ("""
import importlib
file.write_text(before.replace('by the file', 'by an edit')); importlib.reload(toy); file.write_text(before); made()
""", "lib.toy.value is not what lib/toy.py says"),
        ("""
def make(folder):
    real(folder)
    file.write_text(before + 'x = 1')  # while the stage is made
make.__module__, real = 'lib.toy', toy.writer('kept')
cache.stage('toy', {}, {}, make)
""", "lib/toy.py changed since this kernel started"),
        ("toy.value = lambda: ' by a cell'; made()", "lib.toy.value is not what lib/toy.py says"),
        ("reward.score = None; made()", "lib.methods.reward.score is not what lib/methods/reward.py says"),
        ("file.unlink(); made()", "lib/toy.py changed since this kernel started"),
        ("file.write_text('def'); made()", "lib/toy.py changed since this kernel started"),
    ],
    ids=["edited", "edited, reloaded, undone", "edited meanwhile", "set in a cell", "set in an import", "deleted", "broken"],
)  # fmt: skip
def test_nothing_is_kept_under_the_key_of_other_code(project, edit, words):
    kept, said = project(edit)
    assert kept == [] and f"ChangedCode: {words}" in said, said


def test_a_comment_or_an_edit_of_a_module_that_does_not_count_stops_nothing(project):
    kept, said = project("file.write_text(before + '# a comment'); (file.parent / 'figures.py').write_text('x = 1'); made()")
    assert kept == ["kept by the file"] and said == ""
