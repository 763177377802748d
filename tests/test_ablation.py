"""Variants are compared on the same pairs, calibration is the mean gap, and both know their chance level."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lib.images import models, sampling
from lib.methods import ablation, reward
from lib.methods.ablation import (
    HeldOut,
    calibrated,
    calibration_error,
    calibration_floor,
    changed,
    clip_rows,
    compared,
    distinct,
    joined,
    stronger_clip,
    verdict,
    with_labels,
)  # fmt: skip
from lib.world.prompts import CATEGORIES, grid, parse

PROMPTS = np.repeat([f"prompt {i}" for i in range(40)], 8)
LABELS = np.tile([1.0, 0, 1, 0, 0, 0, 1, 0], 40)
TESTED = HeldOut(PROMPTS, LABELS, np.eye(320), np.eye(320))


def noisy(strength: float, seeds: int = 5) -> np.ndarray:
    """Scores in [0, 1] that tell good from bad the better, the stronger."""
    z = strength * (LABELS - 0.5) + np.random.default_rng(3).normal(size=(seeds, 320))
    return 1 / (1 + np.exp(-z))


# ---- variants -----------------------------------------------------------------------------------------------------

BASE = reward.RewardSpec()
COLD = replace(BASE, temperature=0.5)
LESS = replace(BASE, auxiliary_weight=0.0)


def test_the_baseline_comes_first_then_the_groups_in_their_order_and_the_controls():
    mixed = {"shuffled": replace(LESS, shuffle_labels=True)}
    found = joined(BASE, {"cold": COLD}, {}, {"lambda = 0": LESS}, controls=mixed)
    assert list(found.items()) == [("reward", BASE), ("cold", COLD), ("lambda = 0", LESS), *mixed.items()]
    assert [changed(v, BASE) for v in found.values()] == [
        {}, {"temperature": 0.5}, {"auxiliary_weight": 0.0}, {"auxiliary_weight": 0.0, "shuffle_labels": True}]  # fmt: skip


@pytest.mark.parametrize(
    "groups, said",
    [([{"reward": COLD}], "^the name 'reward' has a row of its own in the tables: give the variant another name$"),
     ([{"CLIP score": COLD}], "^the name 'CLIP score' has a row"), ([{"CLIP score, matched longer": COLD}], "has a row"),
     ([{"cold": COLD}, {"cold": LESS}], "^the name 'cold' is used twice: give each variant a name of its own$"),
     ([{"same": replace(BASE, temperature=2.0)}], "^'same' is the same as the baseline: change another field or value$"),
     ([{"cold": COLD}, {"cool": replace(BASE, temperature=0.5)}], "^'cool' is the same as 'cold'"),
     ([{"both": replace(COLD, auxiliary_weight=0.0)}], "^'both' changes auxiliary_weight and temperature: change only one"),
     ([{"luck": replace(BASE, seed=3)}], "^'luck' changes the seed, but each variant is trained with all seeds"),
     ([{"cold": dict(temperature=0.5)}], "^'cold' is not a RewardSpec: write replace.base, FIELD=VALUE.")],
)  # fmt: skip
def test_a_variant_that_would_mean_something_else_is_refused_by_name(groups, said):
    with pytest.raises(ValueError, match=said) as refusal:
        joined(BASE, *groups)
    assert "\n" not in str(refusal.value)


def test_a_control_may_change_more_but_has_a_name_of_its_own_and_a_change():
    both = replace(COLD, auxiliary_weight=0.0)
    assert joined(BASE, controls={"both": both})["both"] == both
    with pytest.raises(ValueError, match="'cold' is used twice"):
        joined(BASE, {"cold": COLD}, controls={"cold": both})
    with pytest.raises(ValueError, match="'reward' has a row"):
        joined(BASE, controls={"reward": both})
    with pytest.raises(ValueError, match="'nothing' is the same as the baseline"):
        joined(BASE, controls={"nothing": BASE})


@pytest.mark.parametrize("gone", ["cold", "both", "lambda = 0"])
def test_a_variant_that_later_cells_read_is_missed_by_name(gone):
    groups, needed = ({"cold": COLD}, {"lambda = 0": LESS}), ["cold", "both", "lambda = 0", "reward"]
    controls = {"both": replace(BASE, auxiliary_weight=0.0, shuffle_labels=True)}
    assert set(joined(BASE, *groups, controls=controls, needed=needed)) == set(needed)
    left = [{k: v for k, v in g.items() if k != gone} for g in (*groups, controls)]
    with pytest.raises(ValueError, match=f"^there is no variant {gone!r}, but later cells read it: keep it"):
        joined(BASE, *left[:2], controls=left[2], needed=needed)


def test_names_are_joined_in_order_and_none_is_used_twice():
    assert distinct(["adapted"], [], ["rank 4", "no prefix"]) == ["adapted", "rank 4", "no prefix"]
    for groups in ((["adapted"], ["adapted"]), (["a", "rank 4", "rank 4"],)):
        with pytest.raises(ValueError, match=f"^the name '{groups[0][-1]}' is used twice"):
            distinct(*groups)


TEXTS = [p for p in grid(counts=(20, 10, 10, 20)) for _ in range(10)]
GIVEN = np.where(np.arange(600) % 10 == 3, np.nan, np.random.default_rng(4).integers(2, size=600))  # nine a prompt


def left(count: int, seed: int = 0) -> Counter:
    """How many labels each prompt keeps, where there are any."""
    spec = with_labels(replace(LESS, seed=seed), count, GIVEN, TEXTS)
    labels = reward.taught(GIVEN, TEXTS, np.zeros(600, int), spec)
    return Counter(t for t, y in zip(TEXTS, labels, strict=True) if not np.isnan(y))


@pytest.mark.parametrize("count", [20, 40, 59])
def test_few_labels_are_of_as_many_prompts_in_all_categories(count):
    for seed in range(3):
        found = left(count, seed)
        assert set(found.values()) == {1} and abs(len(found) - count) <= 3
        shares = [sum(parse(p).category == c for p in found) / len(found) for c in CATEGORIES]
        np.testing.assert_allclose(shares, (1 / 3, 1 / 6, 1 / 6, 1 / 3), atol=0.07)


@pytest.mark.parametrize("count", [60, 150, 300, 539])
def test_more_labels_are_of_every_prompt_and_evenly_so(count):
    found = left(count)
    assert len(found) == 60 and max(found.values()) - min(found.values()) <= 1
    assert abs(sum(found.values()) - count) <= 0.1 * count


def test_with_all_labels_the_spec_stays_as_it_is_and_with_fewer_only_shares_change():
    assert with_labels(LESS, 540, GIVEN, TEXTS) == LESS
    for count in (20, 300):
        assert set(changed(with_labels(LESS, count, GIVEN, TEXTS), LESS)) <= {"labels", "prompts"}
    for count in (0, 541):
        with pytest.raises(ValueError, match=rf"^the number of labels must be in \[1, 540\], got {count}$"):
            with_labels(LESS, count, GIVEN, TEXTS)


# ---- accuracy -----------------------------------------------------------------------------------------------------


def test_each_variant_stands_beside_the_baseline_on_the_same_pairs():
    scores = {"reward": noisy(1.0), "better": noisy(3.0), "chance": np.full((5, 320), 0.5), "CLIP score": -LABELS[None]}
    t = compared(scores, TESTED).set_index("method")
    assert list(t.index) == list(scores) and set(t.pairs) == {40 * 3 * 5} and set(t.prompts) == {40}
    assert t.seeds.to_dict() == {"reward": 5, "better": 5, "chance": 5, "CLIP score": 1}
    assert t.value["chance"] == 0.5 and t.value["CLIP score"] == 0
    np.testing.assert_allclose(t.gain, t.value - t.value["reward"])
    assert (t.gain_low <= t.gain).all() and (t.gain <= t.gain_high).all()
    assert [verdict(r.gain_low, r.gain_high) for r in t.itertuples()] == [
        "no difference shown", "better", "worse", "worse"]  # fmt: skip


def test_the_value_is_the_share_of_all_pairs_ordered_right():
    s = noisy(1.0, 1)
    good, bad = s[0].reshape(40, 8)[:, LABELS[:8] == 1], s[0].reshape(40, 8)[:, LABELS[:8] == 0]
    expected = (good[:, :, None] > bad[:, None]).mean()
    assert compared({"reward": s}, TESTED).value[0] == pytest.approx(expected)


def test_a_gain_is_surer_than_the_gap_of_two_values():
    t = compared({"reward": noisy(1.0), "a little better": noisy(1.3)}, TESTED).iloc[1]
    assert t.gain_high - t.gain_low < 0.5 * (t.high - t.low) and verdict(t.gain_low, t.gain_high) == "better"


def test_a_verdict_may_be_in_other_words():
    words = ("helps", "hurts", "not resolved")
    found = [verdict(low, high, words) for low, high in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1), (0.0, 0.1))]
    assert found == ["helps", "hurts", "not resolved", "not resolved"]


def test_the_stronger_clip_score_is_the_one_that_orders_more_of_these_pairs_right():
    weak, strong = noisy(0.5, 1), noisy(2.0, 1)
    for first, second, stronger in ((weak, strong, 1), (strong, weak, 0), (weak, weak, 0)):
        scores = {"reward": noisy(5.0), ablation.CLIP[0]: first, ablation.CLIP[1]: second}
        assert stronger_clip(scores, TESTED) == ablation.CLIP[stronger]
    few = HeldOut(PROMPTS[:16], LABELS[:16], TESTED.image, TESTED.text)  # on other pairs another may be
    scores = dict(zip(ablation.CLIP, (np.r_[LABELS[:16], 1 - LABELS[16:]][None], np.full((1, 320), 0.5)), strict=True))
    assert stronger_clip(scores, TESTED) == ablation.CLIP[1]
    assert stronger_clip({k: s[:, :16] for k, s in scores.items()}, few) == ablation.CLIP[0]


def test_the_two_clip_scores_differ_in_the_turn_of_the_texts(monkeypatch):
    monkeypatch.setattr(models, "matched_longer", lambda: np.array([[0.0, 1], [0, 0]]))  # the first axis to the second
    image, text = np.array([[1.0, 0], [0, 3]]), np.array([[2.0, 0], [1, 0]])
    rows = clip_rows(HeldOut(np.array(["a", "b"]), np.array([1.0, 0]), image, text))
    assert {name: s.tolist() for name, s in rows.items()} == {"CLIP score": [[1, 0]], "CLIP score, matched longer": [[0, 1]]}


# ---- calibration --------------------------------------------------------------------------------------------------


def test_scores_that_are_right_on_average_but_all_alike_are_calibrated():
    assert calibration_error(np.full(100, 0.25), np.tile([1.0, 0, 0, 0], 25), bins=5) == pytest.approx(0)
    assert calibration_error(np.full(100, 0.95), np.tile([1.0, 0, 0, 0], 25), bins=5) == pytest.approx(0.7)


def test_gaps_of_opposite_sign_do_not_cancel_between_bins():
    scores, good = np.repeat([0.2, 0.8], 50), np.tile([1.0, 0], 50)
    assert calibration_error(scores, good, bins=2) == pytest.approx(0.3)
    assert calibration_error(scores, good, bins=1) == pytest.approx(0)


def test_a_mean_over_seeds_is_the_mean_of_their_errors():
    scores, good = np.stack([np.full(40, 0.5), np.full(40, 0.9)]), np.tile([1.0, 0], (2, 20))
    assert calibration_error(scores, good, bins=4) == pytest.approx((0 + 0.4) / 2)
    with pytest.raises(ValueError, match="^need one label per score and at least 10 of them"):
        calibration_error(scores[:, :9], good[:, :9])


def test_true_chances_sit_at_the_floor_and_over_sure_ones_above_it():
    rng = np.random.default_rng(5)
    chance = rng.random((1, 320))
    tested = HeldOut(PROMPTS, (rng.random(320) < chance[0]).astype(float), TESTED.image, TESTED.text)
    t = calibrated({"true": chance, "too sure": (chance > 0.5).astype(float)}, tested, draws=50).set_index("method")
    assert t.value["true"] == calibration_error(chance, tested.labels[None])
    assert t.low["true"] <= t.value["true"] <= t.high["true"] < t.low["too sure"]
    assert abs(t.value["true"] - t.floor["true"]) < 0.04 and t.floor["too sure"] == 0
    assert calibration_floor(chance) == calibration_floor(chance) < 0.1


def test_a_baseline_without_scores_is_refused_and_those_that_have_some_are_named():
    for missing in ("rewards", "CLIP score"):
        with pytest.raises(ValueError, match=f"^there are no scores of the baseline '{missing}', only of reward, noise$"):
            compared({"reward": noisy(1.0), "noise": noisy(0.0)}, TESTED, missing)


# ---- test sets ----------------------------------------------------------------------------------------------------


def test_rewards_are_tested_on_held_out_and_unseen_images_that_nobody_skipped(monkeypatch):
    targets = {"labelled": np.array([1, 0, np.nan, 1.0]), "unseen": np.array([0, np.nan, 1.0])}
    study = SimpleNamespace(
        validation=np.array([True, False, True, True]), labelled_images="labelled", unseen_images="unseen", labels=None,
        unseen_labels=None, targets=lambda images, table: targets[images],
        embeddings=lambda images: (np.arange(4)[:, None] + 1.0, np.arange(4)[:, None] + 11.0),
    )  # fmt: skip
    monkeypatch.setattr(sampling, "load_images", lambda images: SimpleNamespace(prompts=["a", "b", "c", "d"]))
    sets = ablation.held_out(study)
    assert sets["seen"].prompts.tolist() == ["a", "d"] and sets["seen"].labels.tolist() == [1, 1]
    assert sets["unseen"].image.ravel().tolist() == [1, 3] and sets["unseen"].text.ravel().tolist() == [11, 13]
    assert sets["seen"].clip_scores().tolist() == [[1, 1]]


def test_scores_are_those_of_each_seed():
    specs = [reward.RewardSpec(width=8, seed=s) for s in (0, 1)]
    rewards = [(reward.Reward(320, 8), s) for s in specs]
    scores = TESTED.scores(rewards)
    assert scores.shape == (2, 320) and not np.allclose(*scores)
    np.testing.assert_array_equal(scores[1], reward.score(rewards[1][0], TESTED.image, TESTED.text, specs[1]))
