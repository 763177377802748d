"""Simulated users choose by what they like, as noisily as people do; what they chose is kept whole."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lib.feedback import choices, taste
from lib.feedback.choices import choose
from lib.feedback.taste import PAPER_LAST, TRAITS, TasteSpec, chances, expected_guess
from lib.images.networks import HEADS
from lib.images.sampling import ImageSet
from lib.world.scenes import BACKGROUNDS, Scene, render

RNG = np.random.default_rng(0)
GROUPS = 3_000
ROWS = np.arange(4 * GROUPS).reshape(GROUPS, 4)
VALUES = RNG.standard_normal((4 * GROUPS, len(TRAITS)))
DIGESTS = [f"image {i}" for i in range(4 * GROUPS)]
PROMPTS = [f"prompt {i // 4}" for i in range(4 * GROUPS)]
SHOWN = ImageSet(np.zeros((4 * GROUPS, 1, 1, 3), np.uint8), "choices", PROMPTS, [i % 4 for i in range(4 * GROUPS)], DIGESTS)
USERS = [[taste.user(i % 50)] for i in range(GROUPS)]


def chosen(spec=TasteSpec(), users=USERS, values=VALUES, **how):
    return choose(values, ROWS, SHOWN, users, spec, **how)


# ---- what users see -----------------------------------------------------------------------------------------------


def scenes(pixels: int, count: int = 1):
    return np.stack([
        render(Scene(count, "red", "dog", b), np.random.default_rng((7, i)), pixels)
        for i, b in enumerate(BACKGROUNDS * 4)
    ])  # fmt: skip


def test_a_larger_or_a_further_object_stands_out_in_more_of_the_picture():
    small, large, two = (taste.size_and_placement(x)[0].mean() for x in (scenes(16), scenes(32), scenes(16, 2)))
    assert large > small + 0.08 and two > small + 0.02


def test_placement_is_highest_in_the_middle_and_lowest_in_a_corner():
    images = np.zeros((3, 64, 64, 3), np.uint8)
    images[0, 24:40, 24:40] = images[1, :16, :16] = 255
    size, placement = taste.size_and_placement(images)
    assert size == pytest.approx([1 / 16, 1 / 16, 0]) and placement[0] == pytest.approx(0, abs=1e-6)
    assert placement[1] == pytest.approx(-0.75) and placement[2] == 0


def test_traits_are_in_order_and_match_is_a_capped_logit_of_all_that_the_prompt_names():
    images = scenes(32)[:2]
    seen = {h: np.zeros((2, n)) for h, n in HEADS.items()}
    seen["object"][:, 0] = [0.5, 1.0]
    seen["count"][:, 1] = [0.5, 1.0]
    found = taste.traits(seen, ["One dog"] * 2, np.array([-3.0, -4.0]), images)
    assert found[:, 0] == pytest.approx([np.log(0.25 / 0.75), taste.CERTAINTY])
    assert found[:, 1].tolist() == [-3, -4]
    assert np.array_equal(found[:, 2:4], np.stack(taste.size_and_placement(images), 1))
    grey = np.repeat(images[..., :1], 3, 3)
    assert taste.traits(seen, ["One dog"] * 2, np.zeros(2), grey)[:, 4] == pytest.approx([0, 0])


def test_a_trait_counts_by_its_spread_within_prompts_not_between_them():
    values = np.array([[0.0, 100], [2, 104], [0, 500], [2, 504]])
    assert taste.trait_units(values, list("aabb")) == pytest.approx([2**0.5, 2 * 2**0.5])


# ---- what users choose --------------------------------------------------------------------------------------------


def test_chances_are_a_softmax_over_the_images_that_a_group_has():
    liking, rows = np.array([1.0, 2.0, 0.5]), np.array([[0, 1, -1, -1], [2, 0, 1, -1]])
    p = chances(liking, rows, 0.5)
    assert p[0] == pytest.approx([1 / (1 + np.e**2), 1 / (1 + np.e**-2), 0, 0])
    assert p.sum(1) == pytest.approx([1, 1]) and p[1, 2] > p[1, 1] > p[1, 0] > p[1, 3] == 0


def test_users_choose_as_often_as_their_chances_say():
    same = np.tile(VALUES[:4], (GROUPS, 1))
    spec = replace(TasteSpec(), spread=0.0)
    table = chosen(spec, values=same)
    p = (1 - spec.last) * chances(same @ taste.weights([taste.user(0)], spec)[0], ROWS[:1], spec.noise)[0]
    p[-1] += spec.last
    assert np.bincount(table.chosen, minlength=4) / GROUPS == pytest.approx(p, abs=0.03)


def test_the_last_of_four_is_chosen_as_often_as_people_did_and_guesses_know_no_places():
    users = [[taste.user(u) for u in range(8)]] * GROUPS
    assert (chosen(users=users).chosen == 3).mean() == pytest.approx(PAPER_LAST, abs=0.01)
    assert (chosen(users=users, position=False).chosen == 3).mean() == pytest.approx(0.25, abs=0.01)
    assert np.bincount(chosen(users=users, coin=True).chosen) / (8 * GROUPS) == pytest.approx([0.25] * 4, abs=0.01)


def test_a_coin_looks_at_no_image_and_a_user_does():
    other = np.roll(VALUES, 7, 0)
    assert chosen(coin=True).equals(chosen(coin=True, values=other))
    assert (chosen().chosen != chosen(values=other).chosen).mean() > 0.3


def test_noise_is_calibrated_to_how_often_people_guess_one_another():
    spec = taste.calibrated(VALUES, ROWS, TasteSpec())
    names = [taste.user(n) for n in range(40)]
    assert expected_guess(taste.weights(names, spec) @ VALUES.T, ROWS, spec) == pytest.approx(0.42, abs=0.01)
    table, guess = chosen(spec), chosen(spec, [[taste.user(900 + i % 50)] for i in range(GROUPS)], position=False)
    assert (table.chosen == guess.chosen).mean() == pytest.approx(0.42, abs=0.03)
    with pytest.raises(ValueError, match="^no noise level makes guesses right 99% of the time, only from 2"):
        taste.calibrated(VALUES, ROWS, TasteSpec(), 0.99)


def test_the_expected_guess_is_that_of_drawn_choices():
    spec = TasteSpec(noise=0.7)
    names = [[taste.user(n) for n in range(6)]] * GROUPS
    table, guess = chosen(spec, names), chosen(spec, names, position=False)
    c, g = (t.chosen.to_numpy().reshape(GROUPS, 6) for t in (table, guess))
    drawn = np.mean([(c[:, i] == g[:, j]).mean() for i in range(6) for j in range(6) if i != j])
    assert expected_guess(taste.weights(names[0], spec) @ VALUES.T, ROWS, spec) == pytest.approx(drawn, abs=0.01)


def test_each_user_has_tastes_of_their_own_around_the_mean_ones():
    w = taste.weights([taste.user(n) for n in range(2_000)])
    assert w.mean(0) == pytest.approx([getattr(TasteSpec(), t) for t in TRAITS], abs=0.03)
    assert w.std(0) == pytest.approx([TasteSpec().spread] * 5, abs=0.03)
    assert np.abs(np.corrcoef(w.T) - np.eye(5)).max() < 0.1  # whom one trait pleases, another may not
    assert np.array_equal(w[7:9], taste.weights([taste.user(7), taste.user(8)]))


def test_a_choice_depends_on_the_user_and_the_images_alone():
    some = [5, 17, 100]
    part = choose(VALUES, ROWS[some], SHOWN, [USERS[i] for i in some], TasteSpec())
    assert part.chosen.tolist() == chosen().chosen[some].tolist()


def test_two_users_of_one_taste_choose_each_for_themselves_and_neither_a_guess_nor_a_coin_copies_a_choice():
    spec, (one, two) = TasteSpec(spread=0, last=0), ([[taste.user(u)]] * GROUPS for u in (0, 1))
    first = chosen(spec, one).chosen
    p = chances(VALUES @ taste.weights(["anyone"], spec)[0], ROWS, spec.noise)
    for other in (chosen(spec, two), chosen(spec, one, position=False)):
        assert (first == other.chosen).mean() == pytest.approx((p**2).sum(1).mean(), abs=0.03)
    assert (first == chosen(spec, one, coin=True).chosen).mean() == pytest.approx(0.25, abs=0.03)


def test_groups_of_two_and_three_are_chosen_from_as_their_chances_say_and_never_beyond_their_last_image():
    same, users = np.tile(VALUES[:4], (GROUPS, 1)), [[taste.user(u) for u in range(4)]] * GROUPS
    for size in (2, 3):
        rows = np.where(np.arange(4) < size, ROWS, -1)
        table = choose(same, rows, SHOWN, users, TasteSpec(spread=0.0))
        p = (1 - TasteSpec().last) * chances(same @ taste.weights(["u"], TasteSpec(spread=0.0))[0], rows[:1], 1.0)[0]
        p[size - 1] += TasteSpec().last
        assert np.bincount(table.chosen, minlength=4) / len(table) == pytest.approx(p, abs=0.02)
        assert table.images[5] == DIGESTS[4 : 4 + size] and table.prompt[5] == "prompt 1"
        tossed = choose(same, rows, SHOWN, users, TasteSpec(), coin=True)
        assert np.bincount(tossed.chosen) / len(table) == pytest.approx([1 / size] * size, abs=0.02)


def test_choices_point_to_digests_and_do_not_depend_on_them():
    other = choose(VALUES, ROWS, replace(SHOWN, digests=[d.upper() for d in DIGESTS]), USERS, TasteSpec())
    assert other.drop(columns="images").equals(chosen().drop(columns="images"))


# ---- groups and the store -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [24, 500, 5_000])
def test_groups_have_two_to_four_images_in_the_shares_of_the_released_choices(count):
    sizes = np.array(choices.group_sizes(count))
    assert len(sizes) == count and set(sizes) == {2, 3, 4}
    for n, wanted in choices.PAPER_GROUPS.items():
        assert (sizes == n).sum() == pytest.approx(count * wanted / 5_000, abs=2)


def test_a_prompts_images_are_its_group():
    assert choices.groups(list("abab") + ["a"]).tolist() == [[0, 2, 4, -1], [1, 3, -1, -1]]
    with pytest.raises(ValueError, match="^a group may have at most 4 images, but one has 5$"):
        choices.groups(["a"] * 5)


def test_a_table_of_choices_goes_through_the_store_and_finds_its_images_again(tmp_path):
    table = choose(VALUES, ROWS[:3], SHOWN, USERS[:3], TasteSpec())
    choices.save(tmp_path / "choices.parquet", table)
    again = choices.load(tmp_path / "choices.parquet")
    assert again.to_dict("records") == table.to_dict("records") and set(again.source) == {"simulated"}
    rows, picked = choices.groups_of(again, DIGESTS, PROMPTS)
    assert np.array_equal(rows, ROWS[:3]) and picked.tolist() == table.chosen.tolist()


@pytest.mark.parametrize(
    "change, why",
    [(lambda t: t.assign(images=[[d.upper() for d in x] for x in t.images]), "^12 of 12 images of .*capital letters"),
     (lambda t: t.assign(images=[[f"{x[0]}.png", *x[1:]] for x in t.images]), "^3 of 12 .*'image 0.png'.*name of a file"),
     (lambda t: t.assign(prompt=[t.prompt[0] + ".", *t.prompt[1:]]), "^4 of 12 .* prompt, expected exactly 'prompt 0'")],
)  # fmt: skip
def test_choices_among_images_that_are_not_in_the_set_are_refused(change, why):
    table = choose(VALUES, ROWS[:3], SHOWN, USERS[:3], TasteSpec())
    with pytest.raises(ValueError, match=why):
        choices.groups_of(change(table), DIGESTS, PROMPTS)


@pytest.mark.parametrize(
    "change, why",
    [({"chosen": 4}, "^row 1 of the choice table chooses image 4 of 4: expected an index from 0 to 3$"),
     ({"user": ""}, "^row 1 of .* has no user$"),
     ({"images": ["a"]}, "^row 1 of .* has 1 images: expected 2 to 4 different ones$"),
     ({"images": ["a", "a"]}, "has 2 images: expected 2 to 4 different ones$")],
)  # fmt: skip
def test_a_choice_that_cannot_be_is_refused(change, why):
    rows = choose(VALUES, ROWS[:2], SHOWN, USERS[:2], TasteSpec()).to_dict("records")
    with pytest.raises(ValueError, match=why):
        choices.checked(pd.DataFrame([rows[0], rows[1] | change]))
    with pytest.raises(ValueError, match="^the choice table lacks the column 'chosen'"):
        choices.checked(pd.DataFrame(rows).drop(columns="chosen"))
