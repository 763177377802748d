"""The best of n is the mean over every way to draw n images; what is chosen is what has the highest score."""

from itertools import combinations

import numpy as np
import pytest

from lib.methods.rejection import best_of, best_quarter, by_prompt, chosen_weights, divergence, kept


def by_hand(scores, quality, drawn: int, keep: int) -> float:
    """The mean, over all subsets of `drawn` images, of the quality of the `keep` of highest score (no ties)."""
    means = []
    for subset in combinations(range(len(scores)), drawn):
        best = sorted(subset, key=lambda i: -scores[i])[:keep]
        means.append(np.mean([quality[i] for i in best]))
    return float(np.mean(means))


@pytest.mark.parametrize("drawn, keep", [(1, 1), (2, 1), (3, 1), (4, 2), (5, 4), (7, 4), (7, 7), (3, 3)])
def test_the_best_of_n_is_the_mean_over_every_way_to_draw_n(drawn, keep):
    rng = np.random.default_rng(drawn)
    scores, quality = rng.permutation(7).astype(float), rng.standard_normal(7)
    assert best_of(scores, quality, drawn, keep) == pytest.approx(by_hand(scores, quality, drawn, keep))


def test_scores_that_tie_are_ordered_in_every_way_alike():
    scores, quality = np.array([1.0, 0, 1, 0, 0]), np.array([3.0, 1, 4, 1, 5])
    tiny = [np.random.default_rng(i).uniform(0, 1e-6, 5) for i in range(4000)]
    broken = np.mean([best_of(scores + t, quality, 2) for t in tiny])
    assert best_of(scores, quality, 2) == pytest.approx(broken, abs=0.02)


def test_a_score_that_knows_nothing_chooses_nothing():
    quality = np.random.default_rng(0).standard_normal((5, 16))
    for drawn in (1, 2, 4, 8, 16):
        assert np.allclose(best_of(np.zeros((5, 16)), quality, drawn), quality.mean(1))
    assert np.allclose(best_of(quality, quality, 1), quality.mean(1))  # one image: nothing to choose


def test_the_oracle_misses_only_when_every_image_drawn_is_bad():
    good = np.array([1.0] * 3 + [0.0] * 5)
    for drawn in (1, 2, 5, 6, 8):
        misses = [c for c in combinations(range(8), drawn) if not good[list(c)].any()]
        every = len(list(combinations(range(8), drawn)))
        assert best_of(good, good, drawn) == pytest.approx(1 - len(misses) / every)


def test_more_draws_never_lower_the_score_that_chooses_and_the_worst_is_the_other_way_round():
    scores = np.random.default_rng(1).standard_normal((9, 16))
    rising = np.stack([best_of(scores, scores, n) for n in range(1, 17)])
    assert (np.diff(rising, axis=0) > 0).all() and np.allclose(rising[-1], scores.max(1))
    assert np.allclose(best_of(-scores, scores, 16), scores.min(1))


def test_seeds_prompts_and_images_keep_their_places():
    rng = np.random.default_rng(2)
    scores, quality = rng.standard_normal((3, 4, 8)), rng.standard_normal((4, 8))
    found = best_of(scores, quality, 4, 2)
    assert found.shape == (3, 4)
    assert found[2, 1] == pytest.approx(by_hand(scores[2, 1], quality[1], 4, 2))


@pytest.mark.parametrize("total, drawn, keep", [(16, 16, 4), (16, 4, 1), (9, 5, 3)])
def test_weights_fall_with_rank_and_sum_to_one(total, drawn, keep):
    weights = chosen_weights(total, drawn, keep)
    assert weights.sum() == pytest.approx(1) and (np.diff(weights) <= 0).all()
    assert (weights[total - drawn + keep:] == 0).all()  # too many better ones are always drawn with these


def test_four_kept_of_sixteen_are_the_four_of_highest_score_best_first():
    scores = np.stack([np.arange(16.0), -np.arange(16.0), np.zeros(16)])
    assert kept(scores).tolist() == [[15, 14, 13, 12], [0, 1, 2, 3], [0, 1, 2, 3]]
    quality = np.random.default_rng(3).standard_normal((3, 16))
    of_all = np.take_along_axis(quality, kept(scores), 1).mean(1)
    assert best_of(scores, quality, 16, 4)[:2] == pytest.approx(of_all[:2])


def test_the_best_quarter_is_four_of_sixteen_and_a_quarter_of_whatever_number():
    scores = np.concatenate([np.arange(16.0), 100 - np.arange(6.0), [0.5], np.zeros(8)])
    prompts = ["a"] * 16 + ["b"] * 6 + ["c"] + ["d"] * 8
    kept = best_quarter(scores, prompts)
    assert kept[:16].tolist() == [0] * 12 + [1] * 4
    assert kept[16:].tolist() == [1, 0.5, 0, 0, 0, 0] + [0.25] + [1, 1] + [0] * 6


def test_the_best_quarter_is_of_each_prompt_whatever_the_scores_of_others_and_their_order():
    rng = np.random.default_rng(4)
    prompts, scores = np.repeat(list("abcde"), 12), rng.standard_normal(60)
    kept = best_quarter(scores, prompts)
    assert all(kept[prompts == p].sum() == 3 for p in "abcde") and set(kept) == {0, 1}
    assert np.array_equal(kept, best_quarter(scores + 10 * (prompts == "c"), prompts))
    turned = rng.permutation(60)
    assert np.array_equal(kept[turned], best_quarter(scores[turned], prompts[turned]))
    assert min(scores[(prompts == "a") & (kept == 1)]) > max(scores[(prompts == "a") & (kept == 0)])


def test_images_are_gathered_by_prompt_from_several_sets():
    prompts, rows = by_prompt(["a", "a", "b", "b"] + ["a", "b", "a", "b"])
    assert prompts == ["a", "b"] and rows.tolist() == [[0, 1, 4, 6], [2, 3, 5, 7]]
    assert by_prompt(["b", "a", "a", "b", "b"], 2)[1].tolist() == [[0, 3], [1, 2]]


def test_what_cannot_be_chosen_is_refused():
    with pytest.raises(ValueError, match="^prompts have different numbers of images, from 1 to 2: give `each`$"):
        by_prompt(["a", "b", "b"])
    with pytest.raises(ValueError, match="^need 2 images of each prompt, but one has 1$"):
        by_prompt(["a", "b", "b"], 2)
    for bad in ((4, 5, 1), (4, 2, 3), (4, 2, 0)):
        with pytest.raises(ValueError, match="^need 1 <= keep <= drawn <= total"):
            chosen_weights(*bad)
    with pytest.raises(ValueError, match="^cannot keep 5 of 4 images: keep between 1 and all of them$"):
        kept(np.zeros((2, 4)), 5)
    with pytest.raises(ValueError, match="NaN"):
        best_of(np.array([1.0, np.nan]), np.zeros(2), 1)


def test_the_divergence_of_one_is_none_and_of_sixteen_is_the_published_formula():
    assert divergence(1) == 0
    assert divergence(16) == pytest.approx(np.log(16) - 15 / 16)
