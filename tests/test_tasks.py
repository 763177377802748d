"""What people are asked: every image once, in screens of one prompt, with checks that are unmistakable."""

from collections import Counter

import numpy as np
import pytest

from lib.feedback import tasks
from lib.images.sampling import ImageSet, image_digest
from lib.world import prompts, scenes

TEXTS = prompts.evaluation_prompts()[::4]


def images(texts=TEXTS, each=4, stream="base") -> ImageSet:
    """Images of noise: each has a digest of its own."""
    names = [(p, k) for p in texts for k in range(each)]
    pixels = np.random.default_rng(len(stream)).integers(0, 256, (len(names), 8, 8, 3), dtype=np.uint8)
    return ImageSet(pixels, stream, [p for p, _ in names], [k for _, k in names], [image_digest(x) for x in pixels])


def asked(found, item="plain"):
    return [q for screen in found.screens for q in screen if q.item == item]


@pytest.mark.parametrize("each, sizes", [(3, {3}), (4, {2}), (5, {2, 3}), (12, {3}), (1, {1})])
def test_each_image_is_labelled_once_with_up_to_two_others_of_its_prompt(each, sizes):
    shown = images(each=each)
    found = tasks.to_label(shown, checks=0)
    assert Counter(q.about for q in asked(found)) == Counter(
        ("good", p, (d,)) for p, d in zip(shown.prompts, shown.digests, strict=True)
    )
    assert {len(screen) for screen in found.screens} == sizes
    assert all(len({q.prompt for q in screen}) == 1 for screen in found.screens)


def test_an_image_that_is_there_twice_is_asked_about_once():
    shown = images(TEXTS[:1], 2)
    twice = ImageSet(shown.pixels[[0, 0]], "base", shown.prompts, shown.numbers, [shown.digests[0]] * 2)
    assert len(asked(tasks.to_label(twice, checks=0))) == 1


def test_pictures_have_the_names_they_were_drawn_under_and_their_own_pixels():
    a, b = images(), images(stream="tuned")
    found = tasks.to_compare(a, b, 0.2).pictures
    for shown in (a, b):
        for i in (0, 5, len(shown) - 1):
            name, pixels = found[shown.digests[i]]
            assert name == (shown.stream, shown.prompts[i], shown.numbers[i])
            assert (pixels == shown.pixels[i]).all()
    assert all(image_digest(pixels) == digest for digest, (_, pixels) in found.items())


def test_a_comparison_has_four_of_a_then_four_of_b_and_asks_for_alignment_then_fidelity():
    a, b = images(), images(stream="tuned")
    found = tasks.to_compare(a, b, checks=0)
    assert len(found.screens) == len(TEXTS)
    for alignment, fidelity in found.screens:
        assert (alignment.question, fidelity.question) == ("alignment", "fidelity")
        assert alignment.about[1:] == fidelity.about[1:]
        rows = [i for i, p in enumerate(a.prompts) if p == alignment.prompt]
        assert alignment.images == tuple(x.digests[i] for x in (a, b) for i in rows)


def test_the_best_is_chosen_of_all_images_of_a_prompt():
    shown = images(each=3)
    found = tasks.to_choose(shown, checks=0)
    assert sorted(d for q in asked(found) for d in q.images) == sorted(shown.digests)
    assert all(len(screen) == 1 and len(screen[0].images) == 3 for screen in found.screens)


@pytest.mark.parametrize(
    "make, words",
    [(lambda: tasks.to_compare(images(), images(each=3, stream="tuned")), "side B has 3 images of .*: a set has 4"),
     (lambda: tasks.to_compare(images(), images(TEXTS[1:], stream="tuned")), f"only one has '{TEXTS[0]}'"),
     (lambda: tasks.to_choose(images(each=1)), "one image alone or twice"),
     (lambda: tasks.to_choose(images(each=5)), "at most 4 images, but one has 5"),
     (lambda: tasks.to_label(images(), checks=2), r"checks = 2 is not a number in \[0, 1\]"),
     (lambda: tasks.to_label(images(["a photo of a dog, 35mm"]), checks=1), "of the emoji world alone: give checks=0")],
)  # fmt: skip
def test_wrong_images_are_refused(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_few_to_label_are_spread_over_categories_and_prompts_and_part_of_more():
    shown = images(prompts.evaluation_prompts() + ["Two red dogs"], 5)
    few, more = tasks.few(shown, 20), tasks.few(shown, 40)
    assert few.digests == more.digests[:20] and len(set(more.digests)) == 40
    assert set(Counter(more.prompts[:-3]).values()) == {2, 3}
    counts = Counter(prompts.parse(p).category for p in more.prompts)
    assert counts.pop("combination") in (2, 3) and max(counts.values()) - min(counts.values()) <= 3
    assert tasks.few(shown, 20, seed=1).digests != few.digests
    assert set(zip(few.digests, few.prompts, strict=True)) <= set(zip(shown.digests, shown.prompts, strict=True))


def test_a_few_are_all_up_to_three_of_a_prompt_where_there_are_not_more_and_at_least_one():
    assert {p: 2 <= n <= 3 for p, n in Counter(tasks.few(images(), 10_000).prompts).items()} == dict.fromkeys(TEXTS, True)
    for count in (0, 2.5, True):
        with pytest.raises(ValueError, match=f"^count = {count} is not a whole number of at least 1"):
            tasks.few(images(), count)


# ---- checks --------------------------------------------------------------------------------------------------------


def test_checks_are_as_many_as_asked_and_mixed_in_with_the_images_of_their_prompt():
    found = tasks.to_label(images(), checks=0.1)
    assert len(asked(found, "check")) == round(0.1 * 4 * len(TEXTS))
    mixed = [screen for screen in found.screens if any(q.item == "check" for q in screen)]
    assert all(any(q.item == "plain" for q in screen) for screen in mixed)
    assert {"good", "bad"} == {answer_of(found, q) for q in asked(found, "check")}
    assert len(asked(tasks.to_compare(images(), images(stream="tuned"), 0.2), "check")) == 2 * round(0.2 * len(TEXTS))
    assert len(asked(tasks.to_choose(images(), 0.2), "check")) == round(0.2 * len(TEXTS))


def test_a_screen_with_a_check_has_as_many_images_as_others_where_there_is_room():
    shown = tasks.few(images(prompts.evaluation_prompts()), 200)
    found = tasks.to_label(shown, checks=0.05)
    with_check = [screen for screen in found.screens if any(q.item == "check" for q in screen)]
    assert len(with_check) == 10 and {len(screen) for screen in with_check} == {3}
    assert {len(screen) for screen in found.screens} <= {1, 2, 3}


def answer_of(found, question):
    return tasks.truth(question.question, [found.pictures[d][0][0] for d in question.images])


def test_more_checks_than_prompts_are_different_renders():
    found = tasks.to_label(images(TEXTS[:2]), checks=1.0)
    checks = [q.about for q in asked(found, "check")]
    assert len(checks) == len(set(checks)) == 8


def test_the_true_answers_are_known_from_the_names_of_the_images():
    compared, chosen = tasks.to_compare(images(), images(stream="tuned"), 0.2), tasks.to_choose(images(), 0.2)
    assert {answer_of(compared, q) for q in asked(compared, "check")} == {"A"}
    assert {answer_of(chosen, q) for q in asked(chosen, "check")} == {"0"}
    assert tasks.truth("best", [tasks.WRONG, tasks.RIGHT]) == "1"
    assert tasks.truth("alignment", [tasks.WRONG] * 4 + [tasks.RIGHT] * 4) == "B"


@pytest.mark.parametrize("text", ["Two red dogs in the forest", "A green colored apple", "A wolf on the moon", "Five roses"])
def test_a_right_render_shows_all_that_its_prompt_says_and_a_wrong_one_nothing_of_it(text):
    named, rng = prompts.parse(text), np.random.default_rng(0)
    for _ in range(50):
        right, wrong = (tasks._scene(text, kind, rng) for kind in (True, False))
        assert named.matches(right) and right.count == (named.count or 1)
        assert wrong.object != named.object and wrong.object in scenes.OBJECTS
        for name in ("count", "colour", "background"):
            assert getattr(named, name) is None or getattr(wrong, name) != getattr(named, name)


# ---- as one rater sees it ------------------------------------------------------------------------------------------


def test_sides_change_places_and_both_questions_see_the_same():
    (screen,) = tasks.to_compare(images(TEXTS[:1]), images(TEXTS[:1], stream="tuned"), 0).screens
    first, rng = Counter(), np.random.default_rng(0)
    for _ in range(200):
        alignment, fidelity = tasks.placed(screen, rng)
        assert alignment.shown == fidelity.shown and alignment.images == screen[0].images
        first[alignment.shown] += 1
    assert set(first) == {("A", "B"), ("B", "A")} and 70 < first["A", "B"] < 130


def test_images_of_a_screen_come_in_every_order_and_know_their_place():
    screen = tasks.to_label(images(TEXTS[:1], 3), 0).screens[0]
    rng = np.random.default_rng(0)
    seen = [tasks.placed(screen, rng) for _ in range(100)]
    assert all([q.shown for q in one] == [("0",), ("1",), ("2",)] for one in seen)
    assert len({tuple(q.images for q in one) for one in seen}) == 6
    assert {q.item for q in tasks.placed(screen, rng, "repeat")} == {"repeat"}
