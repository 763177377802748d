"""The label store takes only labels that mean something, and never loses one that a person gave."""

import pandas as pd
import pytest

from lib import labels
from lib.labels import append, checked, load, ratings_matrix, save, shares


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
    [(dict(label="great"), "unknown label 'great' in row 0: one of good, bad, skip"),
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


def test_ratings_keep_the_order_of_raters_asked_for_and_a_column_for_who_rated_nothing():
    assert list(ratings_matrix(FIRST, ["bob", "ann", "cleo"])) == ["bob", "ann", "cleo"]
    assert ratings_matrix(FIRST, ["cleo"]).isna().all(axis=None)


def test_skips_stay_in_the_denominator_of_shares():
    found = shares(table(("i1", "ann", "good"), ("i2", "ann", "bad"), ("i3", "ann", "skip"), ("i4", "ann", "bad")))
    assert found.loc["all"].to_dict() == {"good": 0.25, "bad": 0.5, "skip": 0.25, "n": 4}


def test_shares_are_taken_group_by_group():
    found = shares(checked(FIRST), by="rater")
    assert found.index.tolist() == ["ann", "bob"] and found.n.tolist() == [2, 1]
    assert found.loc["ann", ["good", "bad", "skip"]].tolist() == [0.5, 0, 0.5]
    assert (found[["good", "bad", "skip"]].sum(axis=1) == 1).all()
