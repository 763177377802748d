"""A stage is made once for what makes it, survives a kill, and notices damage."""

import json
import multiprocessing
import re
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from lib.ground import cache, precision, seeds, source


@dataclass(frozen=True)
class Spec:
    steps: int = 3
    rate: float = 0.1


def writer(calls, text="hello"):
    """A make function that counts its calls."""

    def make(folder):
        calls.append(1)
        (folder / "deep").mkdir()
        (folder / "deep" / "out.txt").write_text(text)

    return make


def test_the_same_recipe_is_made_once_and_found_again():
    calls = []
    first = cache.stage("draw", Spec(), {"x": "d1"}, writer(calls))
    second = cache.stage("draw", Spec(), {"x": "d1"}, writer(calls))
    assert first == second and len(calls) == 1
    assert (second.path / "deep" / "out.txt").read_text("utf-8") == "hello"


@pytest.mark.parametrize(
    "name, spec, inputs",
    [("paint", Spec(), {"x": "d1"}), ("draw", Spec(rate=0.2), {"x": "d1"}),
     ("draw", Spec(), {"x": "d2"}), ("draw", Spec(), {"y": "d1"})],
)  # fmt: skip
def test_another_name_spec_or_input_is_another_entry(name, spec, inputs):
    first = cache.stage("draw", Spec(), {"x": "d1"}, writer([]))
    assert cache.stage(name, spec, inputs, writer([])).key != first.key


def test_an_input_counts_by_its_files_and_not_by_how_it_was_made():
    same = [cache.stage("draw", {"i": i}, {}, writer([])) for i in (1, 2)]
    other = cache.stage("draw", {"i": 3}, {}, writer([], "bye"))
    assert same[0].digest == same[1].digest != other.digest
    follow = [cache.stage("next", {}, {"x": a}, writer([])).key for a in (*same, other)]
    assert follow[0] == follow[1] != follow[2]


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "manifest", "unsealed"])
def test_a_damaged_entry_is_noticed_and_made_again(damage, capfd):
    entry = cache.stage("draw", Spec(), {}, writer([]))
    file = entry.path / "deep" / "out.txt"
    if damage == "changed":
        file.write_text("hellO")
    elif damage == "missing":
        file.unlink()
    elif damage == "added":
        (entry.path / "more.txt").write_text("")
    elif damage == "unsealed":
        manifest = json.loads((entry.path / "manifest.json").read_text("utf-8"))
        del manifest["sum"]
        cache.save_json(entry.path / "manifest.json", manifest)
    else:
        (entry.path / "manifest.json").write_text("{")
    calls = []
    again = cache.stage("draw", Spec(), {}, writer(calls))
    assert len(calls) == 1 and again.digest == entry.digest
    assert "damaged" in (said := capfd.readouterr().err) and said.count("\n") == 1
    assert sorted(p.name for p in again.path.iterdir()) == ["deep", "manifest.json"]


def test_each_bit_of_a_manifest_counts(capfd):
    spec = {"rate": 1e-05, "sum": 0.1 + 0.2, "steps": {10: True, 9: None}, "text": "é", "pair": (1, 2)}
    entry = cache.stage("draw", spec, {"x": "d1"}, writer([]))
    path = entry.path / "manifest.json"
    sound = path.read_bytes()
    for bit in range(8 * len(sound)):
        path.write_bytes(flipped(sound, bit))
        assert cache.read_entry("draw", entry.path) is None, f"bit {bit} is not noticed"
        entry.path.mkdir()  # `read_entry` removed it
        writer([])(entry.path)
    path.write_bytes(sound)
    assert cache.read_entry("draw", entry.path) == entry
    assert capfd.readouterr().err.count("is damaged") == 8 * len(sound)


def flipped(content: bytes, bit: int) -> bytes:
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


def test_a_checkpoint_comes_back_as_it_went_or_is_deleted(tmp_path, capfd):
    path, content = tmp_path / "work" / "_partial" / "state", b"seven"
    assert cache.kept(path) is None
    cache.keep(path, content)
    assert cache.kept(path) == content and capfd.readouterr().err == ""
    stored = path.read_bytes()
    for damaged in (*(flipped(stored, bit) for bit in range(8 * len(stored))), stored[:-1], stored[:7], stored + b"0", b""):
        path.write_bytes(damaged)
        assert cache.kept(path) is None and not path.exists()
        assert re.fullmatch(rf"cache: checkpoint {re.escape(str(path))} is damaged, .*\n", capfd.readouterr().err)


def test_a_killed_stage_finds_its_checkpoints_but_no_half_written_result():
    def killed(folder):
        (folder / "_partial").mkdir()
        (folder / "_partial" / "step").write_text("7")
        (folder / "half.bin").write_text("hal")
        raise KeyboardInterrupt

    def resumed(folder):
        assert (folder / "_partial" / "step").read_text("utf-8") == "7"
        assert not (folder / "half.bin").exists()
        (folder / "out.txt").write_text("done")

    with pytest.raises(KeyboardInterrupt):
        cache.stage("train", Spec(), {}, killed)
    # The key holds the module's source, not the function: the second `make` takes up the first one's work.
    entry = cache.stage("train", Spec(), {}, resumed)
    assert sorted(p.name for p in entry.path.iterdir()) == ["manifest.json", "out.txt"]


def slow(folder):
    for i in range(5):
        (folder / f"{i}.txt").write_text(str(time.time_ns()))
        time.sleep(0.03)


def test_two_processes_that_want_one_entry_make_one_sound_entry(monkeypatch):
    monkeypatch.setenv("STUDY_CACHE", str(cache.CACHE))
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=cache.stage, args=("slow", {}, {}, slow)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    entry = cache.stage("slow", {}, {}, lambda folder: pytest.fail("made a third time"))
    assert len(list(entry.path.iterdir())) == 6


def test_the_key_of_a_stage_holds_the_source_of_the_module_that_makes_it():
    def keyed(module):
        make = writer([])
        make.__module__ = module
        return cache.stage("draw", Spec(), {}, make)

    modules = "lib.methods.reward", "lib.methods.finetune"
    found = [json.loads((keyed(m).path / "manifest.json").read_text("utf-8")) for m in modules]
    assert [f["source"] for f in found] == [source.source_fingerprint(m) for m in modules]
    assert found[0]["source"] != found[1]["source"]


@pytest.mark.parametrize(
    "home, name, value",
    [(cache, "versions", lambda: {"torch": "0.1"}), (precision, "FAST_BFLOAT16", not precision.FAST_BFLOAT16),
     (seeds, "STUDY", 7)],
)  # fmt: skip
def test_what_computes_is_part_of_the_key(home, name, value, monkeypatch):
    first = cache.stage("draw", Spec(), {}, writer([]))
    monkeypatch.setattr(home, name, value)
    assert cache.stage("draw", Spec(), {}, writer([])).key != first.key


def test_the_functions_that_make_calls_are_part_of_the_key():
    def keyed(*code):
        return cache.stage("draw", Spec(), {}, writer([]), code).key

    from lib.study.lee import LeeStudy

    study, other = LeeStudy("smoke"), LeeStudy("smoke")
    models = "lib.images.models"
    keys = [keyed(*code) for code in ((), (models,), (models, study.real_pairs), (study.generator(),))]
    assert len(set(keys)) == len(keys)
    assert keyed(models, partial(other.real_pairs)) == keys[2] and keyed(other.generator(None)) == keys[3]


def test_what_cannot_be_keyed_is_refused():
    def in_notebook(folder): ...

    in_notebook.__module__ = "__main__"
    for make in (in_notebook, partial(in_notebook, 1)):
        with pytest.raises(ValueError, match="in_notebook is defined in a notebook"):
            cache.stage("draw", {}, {}, make)
    for bad in (float("nan"), np.zeros(2), len):
        with pytest.raises(ValueError, match="plain finite values"):
            cache.stage("draw", {"a": bad}, {}, writer([]))
    with pytest.raises(ValueError, match="stage name"):
        cache.stage("Draw it", {}, {}, writer([]))
    with pytest.raises(ValueError, match="wrote no file"):
        cache.stage("draw", {}, {}, lambda folder: None)


def test_arrays_come_back_as_they_went(tmp_path):
    arrays = {"t": np.arange(6.0).reshape(2, 3).T, "s": np.float32(2.5), "u": np.zeros((0, 4), np.uint8)}
    cache.save_arrays(tmp_path / "a.safetensors", arrays)
    back = cache.load_arrays(tmp_path / "a.safetensors")
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype and back[name].shape == array.shape


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x" / "a.json"
    cache.save_json(path, {"b": 1, "a": 2})
    with pytest.raises(ValueError):
        cache.save_json(path, {"a": float("inf")})
    with pytest.raises(TypeError):
        cache.atomic_write(path, 3)
    assert path.read_text("utf-8") == '{\n "a": 2,\n "b": 1\n}\n'
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_within_only_found_a_stage_is_found_or_named_but_not_made():
    calls = []
    made = cache.stage("draw", Spec(), {}, writer(calls))
    with pytest.raises(cache.NotMade, match="^stage paint is not in the cache$"), cache.only_found():
        assert cache.stage("draw", Spec(), {}, writer(calls)) == made
        cache.stage("paint", Spec(), {}, writer(calls))
    assert len(calls) == 1
    cache.stage("paint", Spec(), {}, writer(calls))
    assert len(calls) == 2


def test_who_asks_what_is_there_does_not_wait_for_a_stage_in_the_making(monkeypatch):
    monkeypatch.setattr(cache, "FileLock", partial(cache.FileLock, timeout=1))

    def make(folder):
        assert cache.if_found(lambda: cache.stage("draw", Spec(), {}, make)) is None
        (folder / "out.txt").write_text("hello")

    assert cache.stage("draw", Spec(), {}, make).path.exists()
