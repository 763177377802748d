"""What is drawn depends on what it is for and on the study's one number."""

import hashlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from lib.ground import seeds
from lib.ground.paths import ROOT
from lib.world import prompts


def test_without_a_number_of_the_study_the_streams_are_numpys_own():
    for numbers in ((16,), (97, 3), (2**62 + 1,), (5, 2**62 + 1)):
        np.testing.assert_array_equal(seeds.rng_of(*numbers).random(5), np.random.default_rng(numbers).random(5))
    assert seeds.torch_seed(7) == 7


def test_another_number_draws_everything_anew(monkeypatch):
    def drawn():
        one = seeds.seed_of("a", 1), seeds.rng_of(3).random(), seeds.torch_seed(7), seeds.uniforms(["a"], "b")[0]
        return *one, tuple(prompts.grid(counts=(5, 5, 5, 6)))

    found = []
    for number in (0, 1, 2):
        monkeypatch.setattr(seeds, "STUDY", number)
        found.append(drawn())
        assert drawn() == found[-1]
    for kind in zip(*found, strict=True):
        assert len(set(kind)) == 3


# ---- many names at once --------------------------------------------------------------------------------------------

NAMES = [seeds.name_of("labelled", f"prompt {i // 8}", i % 8) for i in range(20_000)]


def test_a_name_draws_the_same_number_in_any_set_and_order_and_on_every_machine():
    drawn = seeds.uniforms(NAMES, "rating", "ann")
    order = np.random.default_rng(0).permutation(len(NAMES))[:300]
    np.testing.assert_array_equal(seeds.uniforms([NAMES[i] for i in order], "rating", "ann"), drawn[order])
    assert seeds.uniforms(["a", "b"], "rating", "ann").tolist() == [0.5289597444587603, 0.9099579776779615]
    assert seeds.normals(["a", "b"], "rating", "ann") == pytest.approx([0.0726551854451208, 1.3404963054932308], abs=1e-12)


def test_the_numbers_of_a_name_are_those_of_splitmix64_by_hand():
    x = (int.from_bytes(hashlib.sha256(b"a").digest()[:8], "big") + seeds.seed_of("rating", "ann")) % 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        x = (x ^ (x >> shift)) * factor % 2**64
    assert seeds.uniforms(["a"], "rating", "ann")[0] == ((x >> 12) + 0.5) / 2**52


def test_numbers_of_names_are_uniform_and_those_of_raters_kinds_and_neighbouring_names_independent():
    drawn = np.stack([seeds.uniforms(NAMES, kind, rater) for kind in ("rating", "lapse") for rater in ("ann", "bob")])
    assert ((0 < drawn) & (drawn < 1)).all() and len(np.unique(drawn)) == drawn.size
    for each in drawn:
        assert kstest(each, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(each[1:], each[:-1])[0, 1]) < 4 / len(NAMES) ** 0.5
        last = (each * 2**52).astype(np.uint64) % np.uint64(16)  # the lowest bits are as random as the highest
        assert chisquare(np.bincount(last.astype(int), minlength=16)).pvalue > 1e-4
    assert np.abs(np.corrcoef(drawn) - np.eye(4)).max() < 4 / len(NAMES) ** 0.5
    for a, b in itertools.combinations(drawn, 2):  # every cell of the two numbers is as likely as every other
        cells = np.histogram2d(a, b, bins=10, range=[[0, 1], [0, 1]])[0]
        assert chisquare(cells.ravel()).pvalue > 1e-4


def test_normal_numbers_are_normal():
    drawn = seeds.normals(NAMES, "rating", "ann")
    assert np.isfinite(drawn).all() and kstest(drawn, "norm").pvalue > 1e-4


def test_the_ends_of_the_unit_interval_are_never_drawn(monkeypatch):
    """The mixer maps 0 to 0; and some sum to 2^64 - 1, which every step of it can be undone to find."""
    undone = 2**64 - 1
    for shift, factor in ((31, 1), (27, 0x94D049BB133111EB), (30, 0xBF58476D1CE4E5B9)):
        undone = undone * pow(factor, -1, 2**64) % 2**64
        for by in (shift, 2 * shift, 4 * shift):
            undone ^= undone >> by if by < 64 else 0
    hashed = int.from_bytes(hashlib.sha256(b"a").digest()[:8], "big")
    for total, wanted in ((0, 2.0**-53), (undone, 1 - 2.0**-53)):
        monkeypatch.setattr(seeds, "seed_of", lambda *what, total=total: (total - hashed) % 2**64)
        assert seeds.uniforms(["a"], "x").tolist() == [wanted] and 0 < wanted < 1
        assert np.isfinite(seeds.normals(["a"], "x")).all()


def test_other_parts_make_another_name_and_one_string_is_no_list_of_names():
    parts = (("a", "b", 1), ("a", "b1"), ("ab", 1), ("a", 1, "b"))
    assert len({seeds.name_of(*p) for p in parts}) == 4
    with pytest.raises(ValueError, match="^expected a sequence of names, got a single string: 'ann'$"):
        seeds.uniforms("ann", "rating")


# ---- the study's number --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["-1", "one", "1.5", "1e3", "1000000", "½"])
def test_what_is_no_number_of_a_study_is_refused(text):
    with pytest.raises(ValueError, match="^STUDY_SEED=.*: expected a whole number from 0 to 999999, such as 4$"):
        seeds.study_seed(text)


def test_the_environment_gives_the_number():
    command = [sys.executable, "-c", "from lib.ground import seeds; print(seeds.STUDY)"]
    for text, number in (("", "3"), (" 4 ", "4"), ("0", "0")):
        result = subprocess.run(command, cwd=ROOT, env=os.environ | {"STUDY_SEED": text}, capture_output=True, text=True)
        assert result.stdout == number + "\n", result.stderr
