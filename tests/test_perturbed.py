"""Perturbed prompts mean something else, in the printed form or in the own prompt's, and are drawn evenly."""

from collections import Counter

import numpy as np
import pytest

from lib.world.perturbed import FORMS, all_perturbed, draw_perturbed
from lib.world.prompts import grid, parse
from lib.world.scenes import SEEN

PROMPTS = ["Two blue dogs in the forest", "Two blue dogs in the forest.", "A red colored apple", "One cat",
           "A rose on the moon"]  # fmt: skip
KINDS = ("count", "colour", "background")


def meanings(form: str, drawn: np.ndarray):
    known = [parse(p) for p in all_perturbed(form)]
    return [[known[i] for i in row] for row in drawn]


@pytest.mark.parametrize("form", FORMS)
def test_a_perturbed_prompt_never_means_the_same(form):
    drawn = draw_perturbed(PROMPTS, 400, 0, form)
    assert drawn.shape == (5, 400) and len(set(all_perturbed(form))) == len(all_perturbed(form))
    for own, row in zip(map(parse, PROMPTS), meanings(form, drawn), strict=True):
        assert own not in row and {m.object for m in row} == set(SEEN)


def test_the_printed_form_names_everything_and_ends_in_a_full_stop():
    texts = all_perturbed()
    assert len(texts) == 20 * 6 * 9 * 8 and all(t.endswith(".") for t in texts)
    assert all(None not in vars(m).values() for row in meanings("printed", draw_perturbed(PROMPTS, 50, 0)) for m in row)


def test_the_own_form_names_what_the_own_prompt_names_and_writes_it_as_the_grid_does():
    for own, row in zip(PROMPTS, meanings("own", draw_perturbed(PROMPTS, 200, 0, "own")), strict=True):
        named = [getattr(parse(own), k) is not None for k in KINDS]
        assert {tuple(getattr(m, k) is not None for k in KINDS) for m in row} == {tuple(named)}
    assert set(grid()) <= set(all_perturbed("own"))


@pytest.mark.parametrize("form", FORMS)
def test_every_value_is_drawn_equally_often(form):
    (row,) = meanings(form, draw_perturbed(["Two blue dogs in the forest"], 18_000, 1, form))
    for kind, size in (("object", 20), ("count", 6), ("colour", 9), ("background", 8)):
        found = Counter(getattr(m, kind) for m in row)
        assert len(found) == size
        for n in found.values():
            assert abs(n - 18_000 / size) < 5 * (18_000 / size) ** 0.5


def test_every_draw_of_the_own_prompt_is_drawn_again():
    """One of 120 counts and objects is the own; without a second draw 36,000 draws would hold about 300 of it."""
    drawn = draw_perturbed(["Two dogs"] * 90, 400, 0, "own")
    found = Counter(drawn.ravel().tolist())
    assert len(found) == 119 and all_perturbed("own").index("Two dogs") not in found


def test_draws_repeat_with_their_seed_and_differ_between_prompts():
    drawn = draw_perturbed(PROMPTS, 60, 0)
    assert len(set(map(tuple, drawn.tolist()))) == 5
    np.testing.assert_array_equal(drawn, draw_perturbed(PROMPTS, 60, 0))
    assert (drawn != draw_perturbed(PROMPTS, 60, 1)).mean() > 0.9


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="^unknown form 'short' of perturbed prompts: expected one of printed, own$"):
        draw_perturbed(PROMPTS, 2, 0, "short")
