"""The label store takes only labels that mean something, and never loses one that a person gave."""

import numpy as np
import pandas as pd
import pytest

from lib.feedback import labels
from lib.feedback.labels import append, checked, load, matched, ratings_matrix, save, shares
from lib.images.sampling import image_digest


def table(*rows, source: str = "human") -> pd.DataFrame:
    """Labels from rows of (image, rater, label), all of one prompt."""
    images, raters, given = zip(*rows, strict=True)
    return pd.DataFrame({
        "image": images, "prompt": "Two dogs", "rater": raters, "label": given, "time": "2023-02-23T12:00:00Z",
        "source": source,
    })  # fmt: skip


FIRST = table(("i1", "ann", "good"), ("i1", "bob", "bad"), ("i2", "ann", "skip"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.parquet"


def test_labels_come_back_as_they_were_saved(path):
    save(path, FIRST)
    assert load(path).equals(checked(FIRST)) and list(load(path)) == list(labels.SCHEMA)


def test_columns_that_the_schema_does_not_know_are_left_out():
    assert checked(FIRST.assign(mood="grumpy")).equals(checked(FIRST))


@pytest.mark.parametrize(
    "change, said",
    [(dict(label="great"), "unknown label 'great' in row 0: expected one of good, bad, skip"),
     (dict(label=None), "unknown label"), (dict(source="guess"), "unknown source 'guess'"),
     (dict(image=""), "row 0 of the label table has no image"), (dict(prompt=None), "has no prompt"),
     (dict(rater=""), "has no rater"), (dict(image="i1", rater="ann"), "rater 'ann' labelled image i1 .* twice")],
)  # fmt: skip
def test_a_bad_label_is_refused_in_one_line_and_nothing_is_written(path, change, said):
    save(path, FIRST)
    with pytest.raises(ValueError, match=said) as refusal:
        save(path, FIRST.assign(**change))
    assert "\n" not in str(refusal.value) and load(path).equals(checked(FIRST))


@pytest.mark.parametrize("column", labels.SCHEMA)
def test_a_missing_column_is_named(column):
    with pytest.raises(ValueError, match=f"lacks the column '{column}'"):
        checked(FIRST.drop(columns=column))


def test_a_file_that_is_not_there_is_named(path):
    with pytest.raises(FileNotFoundError, match=path.name):
        load(path)


def test_new_labels_join_the_old_ones(path):
    append(path, FIRST)
    append(path, table(("i3", "ann", "good")))
    assert load(path).image.tolist() == ["i1", "i1", "i2", "i3"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_second_thought_replaces_the_first_which_is_kept_beside_it(path):
    append(path, FIRST)
    for thought in ("bad", "skip"):
        append(path, table(("i1", "ann", thought)))
    now = load(path)
    assert len(now) == 3 and now[(now.image == "i1") & (now.rater == "ann")].label.tolist() == ["skip"]
    assert now[(now.image == "i1") & (now.rater == "bob")].label.tolist() == ["bad"]  # another's label stays
    assert pd.read_parquet(path.with_suffix(".replaced.parquet")).label.tolist() == ["good", "bad"]


def test_a_refused_label_leaves_the_file_as_it_was(path):
    append(path, FIRST)
    with pytest.raises(ValueError, match="unknown label"):
        append(path, table(("i1", "ann", "great")))
    assert load(path).equals(checked(FIRST)) and len(list(path.parent.iterdir())) == 1


def test_a_kill_while_writing_loses_nothing(path, monkeypatch):
    append(path, FIRST)
    write = labels.atomic_write

    def killed(to, data):
        if to == path:
            raise KeyboardInterrupt
        write(to, data)

    monkeypatch.setattr(labels, "atomic_write", killed)
    with pytest.raises(KeyboardInterrupt):
        append(path, table(("i1", "ann", "bad")))
    assert load(path).equals(checked(FIRST))


def test_the_same_image_may_be_labelled_for_two_prompts_and_by_two_raters():
    both = pd.concat([FIRST, FIRST.assign(prompt="Two cats")])
    assert len(checked(both)) == 6


def test_ratings_are_one_for_good_zero_for_bad_and_missing_for_a_skip():
    matrix = ratings_matrix(FIRST)
    assert list(matrix) == ["ann", "bob"] and len(matrix) == 2
    assert matrix.loc[("i1", "Two dogs")].tolist() == [1, 0] and matrix.loc[("i2", "Two dogs")].isna().all()


def test_ratings_keep_the_order_of_raters_asked_for():
    assert list(ratings_matrix(FIRST, ["bob", "ann"])) == ["bob", "ann"] and list(ratings_matrix(FIRST, ["ann"])) == ["ann"]


@pytest.mark.parametrize("raters, count, named", [(["bob", "cleo"], "1 of 2", "cleo"), (["Ann"], "1 of 1", "Ann"),
                                                  (["ann ", "b", "bob"], "2 of 3", "ann ")])  # fmt: skip
def test_a_rater_who_is_not_in_the_table_is_refused_and_those_who_are_are_named(raters, count, named):
    with pytest.raises(ValueError, match=f"^{count} raters gave no labels, such as '{named}': .* are ann, bob$"):
        ratings_matrix(FIRST, raters)


# ---- labels and images ---------------------------------------------------------------------------------------------

DIGESTS = [image_digest(np.full((2, 2, 3), i, np.uint8)) for i in range(4)]
PROMPTS = ["Two dogs", "Two dogs", "A red colored apple", "Six cats"]


def given(*rows) -> pd.DataFrame:
    """Labels of one rater from pairs of (image, prompt)."""
    images, prompts = zip(*rows, strict=True)
    return table(*((i, "ann", "good") for i in images)).assign(prompt=prompts)


WHOLE = given(*zip(DIGESTS, PROMPTS, strict=True))


def test_labels_of_a_set_are_as_they_came_in_any_order_and_need_not_be_of_every_image():
    for part in (WHOLE, WHOLE[::-1], WHOLE[1:3], WHOLE[:0]):
        assert matched(part, DIGESTS, PROMPTS) is part
    twice = [*DIGESTS, DIGESTS[0], DIGESTS[0]], [*PROMPTS, PROMPTS[0], "Six cats"]  # the same pixels again, and for more
    assert matched(WHOLE, *twice) is WHOLE and len(matched(given(*zip(*twice, strict=True)), *twice)) == 6


@pytest.mark.parametrize("image, prompt, why", [
    (DIGESTS[0].upper(), "Two dogs", f"the digest is written with capital letters or spaces, expected '{DIGESTS[0]}'"),
    (DIGESTS[0] + "\n", "Two dogs", f"the digest is written with capital letters or spaces, expected '{DIGESTS[0]}'"),
    ("images/0003.png", "Two dogs", "this is the name of a file, expected the SHA-256 of the image's uint8 pixels, such "),
    (DIGESTS[0] + ".png", "Two dogs", "this is the name of a file, expected the SHA-256 of the image's uint8 pixels, such "),
    (DIGESTS[0], "Two dogs.", "the set has this image for another prompt, expected exactly 'Two dogs'"),
    (DIGESTS[2], "a red colored apple", "the set has this image for another prompt, expected exactly 'A red colored apple'"),
    (DIGESTS[0][:12], "Two dogs", "this is not the digest of an image, expected the SHA-256"),
    ("3", "Six cats", "this is not the digest of an image, expected the SHA-256 of the image's uint8 pixels, such as "),
    ("ab" * 32, "Two dogs", "no image has this digest (are these labels of other images, or is it the digest of a file?), "
     "expected the SHA-256"),
])  # fmt: skip
def test_labels_that_match_no_image_are_counted_shown_and_explained(image, prompt, why):
    rows = pd.concat([WHOLE[1:], given((image, prompt), (image, prompt + " "))])
    with pytest.raises(ValueError, match="^2 of 5 labels match no image of the set, such as image ") as refusal:
        matched(rows, DIGESTS, PROMPTS)
    said = str(refusal.value)
    assert f"such as image {image!r} for {prompt!r}: {why}" in said and "\n" not in said


def test_a_label_that_nobody_can_give_is_no_skip():
    for wrong in ("Good", "yes", None):
        with pytest.raises(ValueError, match="^unknown label .* in row 0: expected one of good, bad, skip$"):
            matched(WHOLE.assign(label=[wrong, "good", "bad", "skip"]), DIGESTS, PROMPTS)
    with pytest.raises(ValueError, match="^the label table lacks the column 'image'"):
        matched(WHOLE.rename(columns={"image": "digest"}), DIGESTS, PROMPTS)


def test_where_every_image_needs_a_label_those_without_are_refused():
    assert matched(WHOLE, DIGESTS, PROMPTS, every=True) is WHOLE
    with pytest.raises(ValueError, match=f"^1 of 4 images have no label, such as '{DIGESTS[3]}' for 'Six cats'"):
        matched(WHOLE[:3], DIGESTS, PROMPTS, every=True)
    with pytest.raises(ValueError, match="^need one prompt per image, got 4 images and 3 prompts$"):
        matched(WHOLE[:3], DIGESTS, PROMPTS[:3], every=True)
    with pytest.raises(ValueError, match="^4 of 4 labels match no image .*: the set has no images$"):
        matched(WHOLE, [], [])


@pytest.mark.parametrize("image, prompt", [(DIGESTS[0].upper(), "Two dogs"), (DIGESTS[0], "Two dogs."),
                                           (" " + DIGESTS[0], "two dogs")])  # fmt: skip
def test_a_second_thought_that_is_written_otherwise_is_refused_and_not_put_beside_the_first(path, image, prompt):
    append(path, WHOLE)
    said = f"'{image}' for '{prompt}' is in it as '{DIGESTS[0]}' for 'Two dogs'$"
    with pytest.raises(ValueError, match=f"^1 of 2 new labels are of images that the file spells differently: {said}"):
        append(path, given((DIGESTS[1], "Two dogs"), (image, prompt)))
    assert load(path).equals(checked(WHOLE)) and len(list(path.parent.iterdir())) == 1
    append(path, given((image, prompt)).assign(rater="bob"))  # another rater's has none to replace
    assert len(load(path)) == 5


# ---- shares --------------------------------------------------------------------------------------------------------


def test_labels_without_a_group_are_not_left_out_of_shares():
    for lost in (None, np.nan):
        with pytest.raises(ValueError, match="^1 of 3 labels have no category: every label needs one$"):
            shares(FIRST.assign(category=["count", lost, "colour"]), by="category")


def test_skips_stay_in_the_denominator_of_shares():
    found = shares(table(("i1", "ann", "good"), ("i2", "ann", "bad"), ("i3", "ann", "skip"), ("i4", "ann", "bad")))
    assert found.loc["all"].to_dict() == {"good": 0.25, "bad": 0.5, "skip": 0.25, "n": 4}


def test_shares_are_taken_group_by_group():
    found = shares(checked(FIRST), by="rater")
    assert found.index.tolist() == ["ann", "bob"] and found.n.tolist() == [2, 1]
    assert found.loc["ann", ["good", "bad", "skip"]].tolist() == [0.5, 0, 0.5]
    assert (found[["good", "bad", "skip"]].sum(axis=1) == 1).all()
