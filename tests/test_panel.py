"""Simulated raters see what judge-a sees, err as they are told to, and depend on nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from lib.feedback import panel
from lib.feedback.judges import attribute_chances, truth, verdicts
from lib.feedback.labels import shares
from lib.feedback.panel import (
    EVALUATORS,
    LABELLERS,
    RaterSpec,
    blurred_counts,
    categories,
    evaluate,
    first_labels,
    label_by_two,
)  # fmt: skip
from lib.images.networks import COLOUR_CLASSES, HEADS
from lib.images.sampling import ImageSet
from lib.world.prompts import CATEGORIES, COUNT_WORDS
from lib.world.scenes import BACKGROUNDS, OBJECTS, Scene

SURE = RaterSpec(miscount=0, noise=0, slant=0, lapse=0)  # says what it sees
DOGS = [f"{word.title()} dog{'s' if word != 'one' else ''}" for word in COUNT_WORDS]


def seen_as(scenes: list[Scene], sureness: float = 0.99) -> dict[str, np.ndarray]:
    """Chances by head [image, class] of an eye that gives `sureness` to the truth and the rest to the other classes."""
    seen = {}
    for head, n in HEADS.items():
        right = np.array([truth(s)[head] for s in scenes])
        seen[head] = np.full((len(scenes), n), (1 - sureness) / (n - 1))
        seen[head][np.arange(len(scenes)), right] = sureness
    return seen


def many(n: int, sureness: float = 0.8, seed: int = 0):
    """`n` images of one to six dogs for prompts about one to six dogs, half of them right: chances, names, prompts."""
    rng = np.random.default_rng(seed)
    asked = rng.integers(1, 7, n)
    shown = np.where(rng.random(n) < 0.5, asked, rng.integers(1, 7, n))
    scenes = [Scene(int(c), None, "dog", "forest") for c in shown]
    return seen_as(scenes, sureness), [f"image-{i:05}" for i in range(n)], [DOGS[a - 1] for a in asked]


def rate(seen, names, prompts, rater: str, spec: RaterSpec = RaterSpec()) -> list[str]:
    """One rater's labels."""
    return panel.rate(seen, names, prompts, [rater], spec)[0].tolist()


def images_of(prompts: list[str]) -> ImageSet:
    """A set of images without pixels, whose digests say nothing."""
    count = len(prompts)
    return ImageSet(np.zeros((count, 0)), "labelled", prompts, list(range(count)), [f"digest {i}" for i in range(count)])


def rows(seen: dict[str, np.ndarray], chosen) -> dict[str, np.ndarray]:
    return {head: p[chosen] for head, p in seen.items()}


# ---- what is asked of an image ----------------------------------------------------------------------------------


def test_a_scene_is_right_for_what_it_shows_and_wrong_for_anything_else():
    scene = Scene(2, "blue", "dog", "forest")
    prompts = ["Two blue dogs in the forest", "Two dogs", "A blue colored dog", "A dog in the forest",
               "Three dogs", "A red colored dog", "A dog in the sea", "Two cats"]  # fmt: skip
    assert verdicts(seen_as([scene] * 8), prompts).tolist() == [True] * 4 + [False] * 4


def test_only_what_the_prompt_names_is_asked_and_always_the_object():
    chances = attribute_chances(seen_as([Scene(2, None, "dog", "forest")], 0.9), ["A dog in the forest"])
    asked = {head: p.tolist() for head, p in chances.items() if not np.isnan(p).any()}
    assert asked == {"object": [0.9], "background": [0.9]}


def test_the_natural_colour_counts_for_a_red_apple_and_not_for_a_red_dog():
    seen = seen_as([Scene(1, None, o, "sea") for o in ("apple", "dog")])
    natural, red = COLOUR_CLASSES.index(None), COLOUR_CLASSES.index("red")
    apple, dog = attribute_chances(seen, ["A red colored apple", "A red colored dog"])["colour"]
    assert apple == pytest.approx(seen["colour"][0, [natural, red]].sum())
    assert dog == pytest.approx(seen["colour"][1, red])


def test_more_than_six_none_and_mixed_objects_are_never_right():
    seen = seen_as([Scene(6, None, "dog", "forest")] * 3)
    for i, (head, at) in enumerate((("count", 0), ("count", 7), ("object", len(OBJECTS)))):
        seen[head][i] = np.eye(HEADS[head])[at]
    assert not verdicts(seen, ["Six dogs"] * 3).any()


def test_every_class_of_every_head_stands_for_what_the_world_draws():
    for i, background in enumerate(BACKGROUNDS):
        assert truth(Scene(3, None, "wolf", background)) == {
            "count": 3, "colour": 0, "object": OBJECTS.index("wolf"), "background": i,
        }  # fmt: skip


# ---- one rater --------------------------------------------------------------------------------------------------


def test_a_rater_without_error_says_what_the_eye_sees():
    seen, images, prompts = many(200, sureness=0.95)
    given = rate(seen, images, prompts, "ann", SURE)
    assert given == ["good" if v else "bad" for v in verdicts(seen, prompts)]


def test_a_label_depends_on_the_rater_the_images_name_and_what_is_seen_alone():
    seen, images, prompts = many(300)
    given = np.array(rate(seen, images, prompts, "ann"))
    order = np.random.default_rng(1).permutation(300)[:120]
    again = rate(rows(seen, order), [images[i] for i in order], [prompts[i] for i in order], "ann")
    assert again == given[order].tolist()
    both = panel.rate(seen, images, prompts, ["bob", "ann"])
    assert np.array_equal(both[1], given) and (both[0] != given).any()
    assert rate(seen, images[::-1], prompts, "ann") != given.tolist()
    even = replace(RaterSpec(), slant=0, lapse=0)  # raters of one leniency still judge each for themselves
    assert rate(seen, images, prompts, "ann", even) != rate(seen, images, prompts, "bob", even)


def test_what_is_neither_right_nor_wrong_is_skipped_and_what_is_clear_is_not():
    seen, images, prompts = many(4)
    seen["count"][:], seen["object"][:] = 0.5, 1.0  # even chances
    assert rate(seen, images, prompts, "ann", SURE) == ["skip"] * 4
    assert "skip" not in rate(*many(200, sureness=0.97), "ann", SURE)
    assert "skip" not in rate(seen, images, prompts, "ann", replace(SURE, skip=0))


def test_a_lenient_rater_calls_more_images_good_than_a_strict_one():
    seen, images, prompts = many(400, sureness=0.6)
    wide = RaterSpec(slant=4.0)
    good = sorted(rate(seen, images, prompts, f"rater-{i}", wide).count("good") for i in range(12))
    even = [rate(seen, images, prompts, f"rater-{i}", replace(wide, slant=0)).count("good") for i in range(12)]
    assert good[-1] - good[0] > 3 * (max(even) - min(even))


def test_lapses_hit_clear_images_as_often_as_they_should():
    seen, images, _ = many(4000, sureness=0.999)
    prompts = ["Two cats"] * 4000  # all are clearly wrong
    assert rate(seen, images, prompts, "ann", SURE).count("good") == 0
    assert rate(seen, images, prompts, "ann", replace(SURE, lapse=0.2)).count("good") == pytest.approx(400, abs=70)


def test_nobody_is_surer_than_the_cap():
    seen, images, _ = many(2000, sureness=1.0)
    prompts, noisy = ["Two cats"] * 2000, RaterSpec(noise=2.0, slant=0, lapse=0)
    assert rate(seen, images, prompts, "ann", noisy).count("good") > 0
    assert rate(seen, images, prompts, "ann", replace(noisy, certainty=14.0)).count("good") == 0


def test_counts_blur_into_their_neighbours_more_the_higher_they_are():
    blurred = blurred_counts(np.eye(8), 0.05)
    kept = np.diag(blurred)
    assert np.allclose(blurred.sum(1), 1) and (blurred >= 0).all()
    assert kept[0] == kept[1] == 1 and (np.diff(kept[1:]) < 0).all()
    assert all(blurred[i, j] == 0 for i in range(8) for j in range(8) if abs(i - j) > 1)
    assert np.array_equal(blurred_counts(np.eye(8), 0), np.eye(8))


def test_right_images_are_called_good_less_often_the_more_is_asked_for():
    share = []
    for n in range(1, 7):
        seen, images = seen_as([Scene(n, None, "dog", "forest")] * 1500, 0.97), [f"{n}-{i}" for i in range(1500)]
        share.append(rate(seen, images, [DOGS[n - 1]] * 1500, "ann", RaterSpec(miscount=0.08)).count("good"))
    assert share[0] > share[2] > share[3] > share[4] > share[5]


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no images to rate"):
        rate({h: np.zeros((0, n)) for h, n in HEADS.items()}, [], [], "ann")


# ---- labellers and evaluators -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled():
    seen, _, prompts = many(2000)
    shown = images_of(prompts)
    return shown, label_by_two(seen, shown)


def test_two_labellers_take_turns_and_a_fifth_of_the_images_is_labelled_twice(labelled):
    shown, table = labelled
    first = first_labels(table).set_index("image").reindex(shown.digests)
    assert first.rater.tolist() == [LABELLERS[i % 2] for i in range(2000)] and first.prompt.tolist() == shown.prompts
    assert len(table) - 2000 == pytest.approx(0.2 * 2000, abs=75)
    assert (table.groupby("image").rater.nunique() == table.groupby("image").size()).all()
    assert set(table.source) == {"simulated"}


def test_every_label_is_the_one_that_its_rater_gives_the_image(labelled):
    shown, table = labelled
    for rater in LABELLERS:
        given = dict(zip(shown.digests, rate(many(2000)[0], shown.names, shown.prompts, rater), strict=True))
        own = table[table.rater == rater]
        assert len(own) > 1100 and own.label.tolist() == [given[d] for d in own.image]


def test_a_second_label_changes_no_first_one(labelled):
    shown, table = labelled
    alone = label_by_two(many(2000)[0], shown, doubled=0)
    assert len(alone) == 2000
    assert first_labels(table).set_index("image").label.equals(alone.set_index("image").label)


def test_which_images_are_doubled_does_not_depend_on_their_order(labelled):
    shown, table = labelled
    backwards = label_by_two(rows(many(2000)[0], slice(None, None, -1)), shown.part(range(1999, -1, -1)))

    def doubled(table):
        return set(table.image[table.duplicated("image")])

    assert doubled(backwards) == doubled(table)


def test_labels_point_to_digests_and_do_not_depend_on_them(labelled):
    shown, table = labelled
    redrawn = label_by_two(many(2000)[0], replace(shown, digests=[f"another {d}" for d in shown.digests]))
    assert redrawn.drop(columns="image").equals(table.drop(columns="image"))
    assert redrawn.image.tolist() == [f"another {d}" for d in table.image]


def test_skips_stay_in_the_denominator_and_are_few(labelled):
    found = shares(first_labels(labelled[1])).loc["all"]
    assert found.good + found.bad + found.skip == pytest.approx(1) and found.n == 2000
    assert 0.01 <= found.skip <= 0.2


def test_labellers_agree_better_than_chance_and_worse_than_always(labelled):
    twice = labelled[1][labelled[1].duplicated("image", keep=False)]
    agree = twice.groupby("image").label.nunique().eq(1).mean()
    assert 0.5 < agree < 1


def test_nine_evaluators_rate_every_image():
    seen, _, prompts = many(60, sureness=0.5)
    shown = images_of(prompts)
    table = evaluate(seen, shown)
    assert len(table) == 9 * 60 and "skip" in set(table.label)
    wide = table.pivot(index="rater", columns="image", values="label").reindex(EVALUATORS)[shown.digests]
    assert np.array_equal(wide, panel.rate(seen, shown.names, prompts, EVALUATORS))


def test_one_image_gets_a_verdict_for_each_prompt_it_is_shown_for():
    seen = seen_as([Scene(2, None, "dog", "forest")] * 2)
    assert rate(seen, ["same", "same"], ["Two dogs", "Five cats"], "ann", SURE) == ["good", "bad"]


def test_each_prompt_has_its_category():
    assert categories(["Two dogs", "A red colored dog", "A dog in the sea", "Two red dogs"]) == list(CATEGORIES)
