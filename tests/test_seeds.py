"""What is drawn depends on what it is for and on the study's one number."""

import os
import subprocess
import sys

import numpy as np
import pytest

from lib.ground import seeds
from lib.ground.paths import ROOT
from lib.world import prompts


def test_without_a_number_of_the_study_the_streams_are_numpys_own():
    for numbers in ((16,), (97, 3), (2**62 + 1,), (5, 2**62 + 1)):
        np.testing.assert_array_equal(seeds.rng_of(*numbers).random(5), np.random.default_rng(numbers).random(5))
    assert seeds.torch_seed(7) == 7


def test_another_number_draws_everything_anew(monkeypatch):
    def drawn():
        return seeds.seed_of("a", 1), seeds.rng_of(3).random(), seeds.torch_seed(7), tuple(prompts.grid(counts=(5, 5, 5, 6)))

    found = []
    for number in (0, 1, 2):
        monkeypatch.setattr(seeds, "STUDY", number)
        found.append(drawn())
        assert drawn() == found[-1]
    for kind in zip(*found, strict=True):
        assert len(set(kind)) == 3


@pytest.mark.parametrize("text", ["-1", "one", "1.5", "1e3", "1000000", "½"])
def test_what_is_no_number_of_a_study_is_refused(text):
    with pytest.raises(ValueError, match="^STUDY_SEED=.*: give a whole number from 0 to 999999, such as 1$"):
        seeds.study_seed(text)


def test_the_environment_gives_the_number():
    command = [sys.executable, "-c", "from lib.ground import seeds; print(seeds.STUDY)"]
    for text, number in (("", "0"), (" 3 ", "3")):
        result = subprocess.run(command, cwd=ROOT, env=os.environ | {"STUDY_SEED": text}, capture_output=True, text=True)
        assert result.stdout == number + "\n", result.stderr
