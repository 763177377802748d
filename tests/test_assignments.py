"""Assignments: each image gets its labels, every two raters share images, and repeats and checks are mixed in."""

import random
from itertools import combinations

import pytest

from lib.feedback.assignments import APART, AssignmentSpec, assign

NAMES = [f"image {i}" for i in range(60)]
KNOWN = [f"render {i}" for i in range(20)]


def shares(table):
    """The images that each two raters share."""
    seen = {rater: set(g.image) for rater, g in table[table["item"] == "plain"].groupby("rater")}
    return {(a, b): len(seen[a] & seen[b]) for a, b in combinations(seen, 2)}


@pytest.mark.parametrize("draw", range(40))
def test_numbers_that_can_be_met_are_met(draw):
    rng = random.Random(draw)
    raters = [f"rater {i}" for i in range(rng.randint(2, 7))]
    labels = [rng.randint(1, len(raters)) for _ in NAMES]
    pairs = len(raters) * (len(raters) - 1) // 2
    overlap = sum(k * (k - 1) // 2 for k in labels) // pairs // 2
    table = assign(NAMES, raters, labels, KNOWN, AssignmentSpec(overlap, seed=draw))
    plain = table[table["item"] == "plain"]
    assert plain.image.value_counts().reindex(NAMES).tolist() == labels
    assert not plain.duplicated(["rater", "image"]).any() and min(shares(table).values()) >= overlap


def test_an_overlap_that_uses_every_label_is_found():
    table = assign(NAMES, list("abcd"), 2, spec=AssignmentSpec(10, 0, 0))
    assert set(shares(table).values()) == {10} and set(table.rater.value_counts()) == {30}


def test_some_images_with_two_labels_are_enough_for_an_overlap():
    table = assign(NAMES, ["ann", "bob"], [2] * 12 + [1] * 48, spec=AssignmentSpec(12, 0, 0))
    assert shares(table) == {("ann", "bob"): 12} and set(table.rater.value_counts()) == {36}


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_raters_get_equally_many(labels):
    counts = assign(NAMES, list("abcde"), labels, spec=AssignmentSpec(0, 0, 0)).rater.value_counts()
    assert counts.max() - counts.min() <= 1


def test_repeats_and_checks_are_mixed_in_by_their_shares():
    table = assign(NAMES, ["ann", "bob"], 2, KNOWN, AssignmentSpec(repeats=0.25, checks=0.1))
    for _, one in table.groupby("rater"):
        assert one["item"].value_counts().to_dict() == {"plain": 60, "repeat": 15, "check": 6}
        assert one.place.tolist() == list(range(81)) and set(one.image[one["item"] == "check"]) <= set(KNOWN)
        first = one[one["item"] == "plain"].set_index("image").place
        repeats = one[one["item"] == "repeat"].set_index("image").place
        assert (repeats - first.reindex(repeats.index)).min() > 0 and repeats.index.is_unique
    assert len(set(table.image[table["item"] == "check"])) > 6  # not the same checks for both


def test_a_repeat_comes_later_and_not_at_once():
    table = assign(NAMES, ["ann"], 1, (), AssignmentSpec(repeats=0.2))
    first, again = (table[table["item"] == item].set_index("image").place for item in ("plain", "repeat"))
    gaps = again - first.reindex(again.index)
    assert (gaps > 0).all() and ((gaps > APART) | (again > len(table) - APART - len(again))).all()


def test_the_order_is_random_and_given_by_the_seed():
    one, same, other = (assign(NAMES, list("ab"), 2, KNOWN, AssignmentSpec(seed=s)) for s in (1, 1, 2))
    assert one.equals(same) and not one.equals(other)
    orders = [g.image.tolist() for _, g in one.groupby("rater")]
    assert orders[0] != orders[1] and orders[0][:60] != NAMES


@pytest.mark.parametrize(
    "changes, words",
    [(dict(labels=1, spec=AssignmentSpec(1)), "make 0: give more labels"),
     (dict(labels=2, spec=AssignmentSpec(21)), "63 shared images are needed, 21 for every two of 3 .* make 60"),
     (dict(labels=4), "from 1 to 3 labels"), (dict(labels=0), "from 1 to 3 labels"),
     (dict(raters=["a", "a"]), "rater 'a' is listed twice"), (dict(images=["x", "y", "x"]), "image 'x' is listed twice"),
     (dict(known=["image 3"]), "listed twice"),
     (dict(known=["render"], spec=AssignmentSpec(checks=0.5)), "1 images have known answers"),
     (dict(images=[]), "at least one"), (dict(labels=[1, 2]), "one an image, got 2 for 60")],
)  # fmt: skip
def test_numbers_that_cannot_be_met_are_refused(changes, words):
    with pytest.raises(ValueError, match=words) as refusal:
        assign(**dict(images=NAMES, raters=list("abc"), labels=1) | changes)
    assert "\n" not in str(refusal.value)


def test_an_overlap_that_no_order_finds_is_refused():
    # Two images of three labels have six pairs, as many as four raters make, but in no way cover each.
    with pytest.raises(ValueError, match="found no way for every two of 4 raters to share 1 images, at most 0"):
        assign(["x", "y"], list("abcd"), 3, spec=AssignmentSpec(1))
