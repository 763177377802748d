"""Raters prefer what is better, tie what is alike, and favour neither side: shown the other way round, they say the same."""

from dataclasses import replace

import numpy as np
import pytest
from test_panel import SURE, many, rate, rows, seen_as

from lib.feedback import votes
from lib.feedback.panel import EVALUATORS, RaterSpec, strengths
from lib.feedback.votes import PAPER_OUTCOMES, PAPER_SHARES, QUESTIONS, TIE_SHARES, Side, VoteSpec
from lib.world.prompts import evaluation_prompts, parse
from lib.world.scenes import Scene

PROMPTS = evaluation_prompts()[::2]
QUIET = VoteSpec(raters=SURE, noise=0, lean=0)


def side(seen, real, names, prompts, spec: VoteSpec = VoteSpec()) -> Side:
    """One side: four images of each prompt, in a row."""
    return votes.sides(seen, real, names, prompts, np.arange(len(names)).reshape(1, -1, votes.SET), spec)[0]


def a_side(name: str, good: float, real: float = 0.0, spec: VoteSpec = VoteSpec(), seed: int = 0, prompts=PROMPTS) -> Side:
    """Four images a prompt, a share `good` of which shows what is asked for, of realism `real` on average, spread 1."""
    rng = np.random.default_rng((seed, len(name), *map(ord, name)))
    texts = [p for p in prompts for _ in range(4)]
    scenes = []
    for p in texts:
        a = parse(p)
        right = Scene(a.count or 1, a.colour, a.object, a.background or "field")
        scenes.append(right if rng.random() < good else replace(right, object="clock"))
    names = [f"{name}-{seed}-{i}" for i in range(len(texts))]
    return side(seen_as(scenes, 0.95), real + rng.standard_normal(len(texts)), names, texts, spec)


def won_minus_lost(a: Side, b: Side, question: str, band: float = 0.5, spec: VoteSpec = VoteSpec()) -> float:
    return float(votes.answers(a, b, question, band, spec).mean())


# ---- strength -----------------------------------------------------------------------------------------------------


def test_labels_are_the_sign_of_strength_but_for_skips_and_lapses():
    seen, images, prompts = many(400)
    spec = replace(RaterSpec(), lapse=0)
    (strength,), labels = strengths(seen, images, prompts, ["ann"], spec), rate(seen, images, prompts, "ann", spec)
    for s, label in zip(strength, labels, strict=True):
        assert label == ("skip" if abs(s) < spec.skip else "good" if s > 0 else "bad")
    assert np.array_equal(strength[:9], strengths(rows(seen, slice(9)), images[:9], prompts[:9], ["ann"], spec)[0])


def test_realism_is_minus_the_distance_to_the_nearest_real_image_in_spreads():
    real = np.array([[0.0, 0.0], [2.0, 40.0], [4.0, 0.0], [2.0, 80.0]])
    spread = real.std(0)
    shown = real[[1, 2]] + np.array([[0.0, 0.0], [0.5, 0.0]])
    assert votes.realism(shown, real) == pytest.approx([0, -0.5 / spread[0]], abs=1e-6)
    scaled = votes.realism(shown * [1, 1000], real * [1, 1000])
    assert scaled == pytest.approx(votes.realism(shown, real), abs=1e-6)


def test_the_spread_within_prompts_knows_nothing_of_differences_between_them():
    rng = np.random.default_rng(0)
    prompts = [f"p{i}" for i in range(300) for _ in range(4)]
    values = 2.0 * rng.standard_normal(1200) + 100 * np.repeat(np.arange(300), 4)
    assert votes.spread_within(values, prompts) == pytest.approx(2.0, abs=0.15)
    with pytest.raises(ValueError, match="at least two images"):
        votes.spread_within(np.zeros(3), ["a", "b", "c"])


# ---- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", QUESTIONS)
def test_shown_the_other_way_round_every_rater_says_the_same_of_every_pair(question):
    spec = VoteSpec(raters=replace(RaterSpec(), lapse=0.3), lean=1.0)
    a, b = a_side("a", 0.6, spec=spec), a_side("b", 0.5, spec=spec)
    there, back = votes.answers(a, b, question, 0.5, spec), votes.answers(b, a, question, 0.5, spec)
    assert np.array_equal(there, -back) and set(np.unique(there)) == {-1, 0, 1}


@pytest.mark.parametrize("question", QUESTIONS)
def test_base_against_base_is_symmetric(question):
    some = PROMPTS[::2]
    gaps = [won_minus_lost(*(a_side(n, 0.5, seed=i, prompts=some) for n in "xy"), question) for i in range(8)]
    assert abs(np.mean(gaps)) < 4 * np.std(gaps, ddof=1) / 8**0.5 and abs(np.mean(gaps)) < 0.1


def test_the_side_that_obeys_wins_on_alignment_and_not_on_fidelity():
    a, b = a_side("a", 0.9), a_side("b", 0.2)
    assert won_minus_lost(a, b, "alignment") > 0.6 and abs(won_minus_lost(a, b, "fidelity")) < 0.25


def test_the_side_that_looks_real_wins_on_fidelity_and_not_on_alignment():
    a, b = a_side("a", 0.5, real=1.5), a_side("b", 0.5, real=-1.5)
    assert won_minus_lost(a, b, "fidelity") > 0.6 and abs(won_minus_lost(a, b, "alignment")) < 0.25


def test_raters_without_error_see_one_image_more_that_is_right():
    """Strength is a mean over four: one image of 1 - 2 x 3.5 logits more is 7 / 4."""
    texts, right = ["A dog in the forest"] * 4, Scene(1, None, "dog", "forest")
    wrong = replace(right, background="sea")
    sides = [
        side(seen_as([right] * n + [wrong] * (4 - n), 0.9999), np.zeros(4), [f"{n}{i}" for i in range(4)], texts, QUIET)
        for n in (3, 2)
    ]
    gap = votes.differences(*sides, "alignment", QUIET)
    assert gap == pytest.approx(np.full((9, 1), 7 / 4), abs=1e-6)
    assert votes.answers(*sides, "alignment", 1.7, QUIET).tolist() == [[1]] * 9
    assert votes.answers(*sides, "alignment", 1.8, QUIET).tolist() == [[0]] * 9


def test_raters_lean_to_the_side_shown_first_and_sides_take_turns():
    leaning = replace(QUIET, lean=1.0)
    a, b = (a_side(n, 1.0, spec=leaning) for n in "ab")
    a = replace(a, strength={q: np.zeros_like(x) for q, x in a.strength.items()})
    b = replace(b, strength=a.strength)
    gap = votes.differences(a, b, "fidelity", leaning)
    assert np.allclose(np.abs(gap), np.abs(gap[:, :1])) and len(np.unique(np.abs(gap).round(6))) == 9
    assert 0.35 < (gap > 0).mean() < 0.65 and not votes.differences(a, b, "fidelity", QUIET).any()


def test_an_answer_depends_on_the_prompt_and_its_two_sets_alone():
    a, b = a_side("a", 0.6), a_side("b", 0.5)
    whole = votes.answers(a, b, "alignment", 0.5)
    part = [replace(s, prompts=s.prompts[7:20], names=s.names[7:20], strength={q: x[:, 7:20] for q, x in s.strength.items()})
            for s in (a, b)]  # fmt: skip
    assert np.array_equal(votes.answers(*part, "alignment", 0.5), whole[:, 7:20])


def test_the_order_in_which_four_images_lie_changes_no_vote():
    seen, names, texts = many(4)[0], list("abcd"), ["Two dogs"] * 4
    other = side(seen_as([Scene(2, None, "dog", "sea")] * 4), np.zeros(4), list("wxyz"), texts)
    real, turned = np.arange(4.0), [2, 0, 3, 1]
    for question in QUESTIONS:
        a = side(seen, real, names, texts), side(rows(seen, turned), real[turned], [names[i] for i in turned], texts)
        found = [votes.differences(x, other, question) for x in a]
        assert found[0] == pytest.approx(found[1], abs=1e-12)


def test_several_sides_at_once_are_those_that_are_made_one_by_one():
    rng, texts = np.random.default_rng(3), [p for p in PROMPTS[:5] for _ in range(6)]
    scenes = [Scene(int(rng.integers(1, 7)), None, parse(p).object, "field") for p in texts]
    seen, real, names = seen_as(scenes, 0.8), rng.standard_normal(30), [f"image {i}" for i in range(30)]
    places = np.stack([np.array([rng.permutation(6)[:4] + 6 * p for p in range(5)]) for _ in range(3)])
    several = votes.sides(seen, real, names, texts, places)
    assert len(several) == 3
    for at, together in zip(places.reshape(3, -1), several, strict=True):
        alone = side(rows(seen, at), real[at], [names[i] for i in at], [texts[i] for i in at])
        assert (alone.prompts, alone.names) == (together.prompts, together.names)
        for question in QUESTIONS:
            assert together.strength[question] == pytest.approx(alone.strength[question], abs=1e-12)


# ---- a model against itself -----------------------------------------------------------------------------------------


def test_pairs_of_sets_of_one_model_have_no_image_in_common_and_give_each_image_its_turn():
    places = np.arange(60 * 20).reshape(60, 20)
    lots = votes.apart(places, pairs=20, seed=5)
    assert lots.shape == (20, 2, 60, votes.SET)
    for pair in lots:
        eight = np.concatenate(pair, axis=1)
        assert all(len(set(e)) == 8 and set(e) <= set(own) for e, own in zip(eight.tolist(), places.tolist(), strict=True))
    for side_of in (0, 1):  # each image is on each side of 4 of 20 pairs on average, whatever its place
        often = np.array([(lots[:, side_of] == i).sum() for i in range(60 * 20)]).reshape(60, 20)
        assert often.mean() == 4 and often.mean(0) == pytest.approx(4, abs=4 * (20 * 0.2 * 0.8 / 60) ** 0.5)
    assert np.array_equal(lots, votes.apart(places, pairs=20, seed=5))
    assert not np.array_equal(lots, votes.apart(places, pairs=20, seed=6)) and not np.array_equal(lots[0], lots[1])
    with pytest.raises(ValueError, match="^two disjoint sets of 4 need 8 images of each prompt, got 7$"):
        votes.apart(places[:, :7], pairs=20, seed=5)


def test_a_pair_whose_sides_share_an_image_is_refused_as_it_would_tell_too_little_of_chance():
    texts = [p for p in PROMPTS[:5] for _ in range(10)]
    seen, names = seen_as([Scene(1, None, parse(p).object, "field") for p in texts], 0.8), [f"image {i}" for i in range(50)]
    lots = votes.apart(np.arange(50).reshape(5, 10), pairs=1, seed=0)[0]
    a, b = votes.sides(seen, np.zeros(50), names, texts, lots)
    assert votes.answers(a, b, "alignment", 0.5).shape == (9, 5)
    lots[1, 2, 3] = lots[0, 2, 0]
    shared = votes.sides(seen, np.zeros(50), names, texts, lots)
    for left, right, count in ((*shared, 1), (a, a, 5)):
        with pytest.raises(ValueError, match=f"^the two sides share an image name .* for {count} of 5 prompts"):
            votes.answers(left, right, "alignment", 0.5)


# ---- names and bands ------------------------------------------------------------------------------------------------


def test_two_models_images_of_one_start_noise_are_not_compared_as_raters_noise_would_cancel():
    spec = VoteSpec(raters=RaterSpec(lapse=0), lean=0)
    a, other = a_side("a", 0.6, spec=spec), a_side("b", 0.6, spec=spec)
    same = replace(a, names=other.names[:7] + a.names[7:])
    with pytest.raises(ValueError, match=r"^the two sides share an image name .* for 53 of 60 prompts, such as "):
        votes.answers(a, same, "alignment", 0.5, spec)
    one = replace(other, names=[(x[0], *y[1:]) for x, y in zip(a.names, other.names, strict=True)])
    with pytest.raises(ValueError, match="for 60 of 60 prompts.*: the raters' noise would cancel; draw one side"):
        votes.tie_band(a, one, "fidelity", spec)


def test_the_band_gives_the_base_against_itself_its_share_of_ties():
    spec = VoteSpec(raters=replace(RaterSpec(), lapse=0))
    a, b = a_side("x", 0.5, spec=spec), a_side("y", 0.5, spec=spec)
    for question in QUESTIONS:
        band = votes.tie_band(a, b, question, spec)
        assert (votes.answers(a, b, question, band, spec) == 0).mean() == pytest.approx(TIE_SHARES[question], abs=0.005)
        fresh = a_side("x", 0.5, spec=spec, seed=1), a_side("y", 0.5, spec=spec, seed=1)
        assert (votes.answers(*fresh, question, band, spec) == 0).mean() == pytest.approx(TIE_SHARES[question], abs=0.12)


def test_less_noise_makes_raters_agree_more_on_fidelity_and_changes_no_vote_on_alignment():
    def cast(noise, question):
        spec = VoteSpec(noise=noise)
        return votes.answers(a_side("a", 0.5, spec=spec), a_side("b", 0.5, spec=spec), question, 0.5, spec)

    def unity(found):
        return float(np.abs(found.sum(0)).mean())

    assert unity(cast(0.3, "fidelity")) > unity(cast(1.5, "fidelity")) > unity(cast(6.0, "fidelity"))
    assert np.array_equal(cast(0.3, "alignment"), cast(6.0, "alignment"))


def test_the_papers_numbers_are_whole_and_say_what_its_text_says():
    assert set(PAPER_SHARES) == set(PAPER_OUTCOMES) and len(EVALUATORS) == 9
    for by_question in PAPER_SHARES.values():
        for cells in by_question.values():
            assert len(cells) == len(votes.CELLS) and all(sum(c) == pytest.approx(100, abs=0.2) for c in cells)
    first = PAPER_SHARES["full method", "base"]
    assert all(win > lose for win, lose, _ in first["fidelity"])  # while two thirds favour the base
    assert PAPER_OUTCOMES["full method", "base"]["fidelity"][:2] == (10, 15)
    assert TIE_SHARES == pytest.approx({"alignment": 0.358, "fidelity": 0.272}, abs=0.001)


# ---- refusals -----------------------------------------------------------------------------------------------------


def test_sets_that_are_no_sets_of_four_are_refused():
    seen, texts = seen_as([Scene(1, None, "dog", "forest")] * 8), ["One dog"] * 4 + ["Two dogs"] * 4
    names = [str(i) for i in range(8)]
    with pytest.raises(ValueError, match="^a side must have 4 images of each prompt"):
        side(seen, np.zeros(8), names, texts[1:] + texts[:1])
    with pytest.raises(ValueError, match="^a side must have 4 images of each prompt"):
        side(seen, np.zeros(8), names, ["One dog"] * 8)
    with pytest.raises(ValueError, match="^a set must have 4 different images"):
        side(seen, np.zeros(8), ["2", "0", "1", "0", *names[4:]], texts)


def test_sides_of_different_prompts_are_not_compared():
    a, b = a_side("a", 0.5, prompts=PROMPTS[:3]), a_side("b", 0.5, prompts=PROMPTS[1:4])
    with pytest.raises(ValueError, match="^two sides must be compared on the same prompts"):
        votes.answers(a, b, "alignment", 0.5)
