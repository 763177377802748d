"""People's labels as the study reads them: from a store, folder or file, in place of the panel's, never of other images."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib.feedback import exchange, labels, people
from lib.feedback.store import Store
from lib.images import sampling
from lib.images.sampling import image_digest
from lib.study import people as in_study
from lib.study.lee import LeeStudy

SEEN = {"right": "check, right", "wrong": "check, wrong"}


def pixels(n):
    return np.full((8, 8, 3), n, np.uint8)


@pytest.fixture
def store(tmp_path):
    """Two raters: Ann labels three images, one of them twice, and a check; Bob skips one."""
    with Store.open(tmp_path / "store.sqlite") as made:
        for n, stream in enumerate(("labelled", "labelled", "labelled", SEEN["right"], SEEN["wrong"])):
            made.archive(image_digest(pixels(n)), (stream, "Two cats", n), pixels(n))

        def say(rater, n, value, item="plain", seconds=2.0):
            about = dict(question="good", prompt="Two cats", images=[image_digest(pixels(n))])
            made.add(rater=rater, **about, value=value, item=item, seconds=seconds)

        say("ann", 0, "good", seconds=5.0), say("ann", 1, "bad"), say("ann", 2, "good")
        say("ann", 0, "bad", "repeat"), say("ann", 1, "bad", "repeat")
        say("ann", 3, "good", "check"), say("ann", 4, "good", "check")
        say("bob", 0, "skip")
    return tmp_path / "store.sqlite"


def test_quality_counts_repeats_checks_and_skips_by_rater(store):
    ann, bob = people.answers_in(store).quality().to_dict("records")
    assert (ann["rater"], ann["answers"], ann["skipped"]) == ("ann", 3, 0.0)
    assert (ann["same"], ann["repeats"], ann["right"], ann["checks"]) == (1, 2, 1, 2)
    assert ann["seconds"] == pytest.approx((5 + 6 * 2) / 7)
    assert (bob["answers"], bob["skipped"], bob["repeats"], bob["checks"]) == (1, 1.0, 0, 0)


def test_labels_are_the_same_from_the_store_its_export_and_a_file(store, tmp_path):
    wanted = people.labels_in(store)
    assert wanted[["rater", "label"]].values.tolist() == [["ann", "good"], ["ann", "bad"], ["ann", "good"], ["bob", "skip"]]
    assert set(wanted.source) == {"human"}
    with Store.open(store) as made:
        exchange.export_store(made, tmp_path / "whole")
        exchange.export_file(made, tmp_path / "labels.csv", "labels")
    assert people.labels_in(tmp_path / "whole").equals(wanted)
    key = ["image", "prompt", "rater", "label"]
    assert people.labels_in(tmp_path / "labels.csv")[key].equals(wanted[key])


def test_archived_images_come_back_to_the_bit_and_in_the_order_asked_for(store):
    held = people.answers_in(store)
    np.testing.assert_array_equal(held.pixels([image_digest(pixels(n)) for n in (2, 0)]), [pixels(2), pixels(0)])


@pytest.mark.parametrize("name", ["absent.sqlite", "absent.parquet", "absent.csv", "absent"])
def test_a_file_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"^there is no (store or folder of answers|label file) .*{name}$"):
        people.labels_in(tmp_path / name)


def test_too_few_labels_say_how_many_more_would_do():
    def table(good, bad):
        return pd.DataFrame({"label": ["good"] * good + ["bad"] * bad + ["skip"] * 9})

    assert people.lacking(table(75, 75)) == ""
    assert people.lacking(table(70, 10)) == "too few labels: 5 more good and 65 more bad ones would do"
    assert people.lacking(table(80, 74)) == "too few labels: 1 more bad ones would do"


def test_people_take_the_panels_place_and_labels_of_other_images_are_refused(tmp_path, monkeypatch):
    shown = {"labelled": SimpleNamespace(digests=["a", "b"], prompts=["Two cats", "A dog"]),
             "unseen": SimpleNamespace(digests=["c"], prompts=["A rose"])}  # fmt: skip
    monkeypatch.setattr(sampling, "load_images", shown.get)
    study = LeeStudy("smoke", tmp_path / "mine.parquet")
    study.labelled_images, study.unseen_images = shown
    rows = [("a", "Two cats", "good"), ("c", "A rose", "bad")]
    table = pd.DataFrame([dict(image=i, prompt=p, rater="ann", label=v, time="", source="human") for i, p, v in rows])
    labels.save(tmp_path / "mine.parquet", table)
    assert study.labels.image.tolist() == study.labels_of(3).image.tolist() == ["a"]
    assert study.unseen_labels.image.tolist() == ["c"]
    labels.save(tmp_path / "mine.parquet", table.assign(image=["a", "d"]))
    with pytest.raises(ValueError, match="^1 of 2 labels match no image of the set, such as image 'd' for 'A rose'"):
        study.labels_of(0)


def test_a_readers_reward_has_as_many_updates_as_the_panels(monkeypatch):
    given = {}
    monkeypatch.setattr(in_study.models, "load_clip", lambda: (None, None, None))
    monkeypatch.setattr(in_study.embedding, "embed_images", lambda c, p, x: np.zeros((len(x), 4)))
    monkeypatch.setattr(in_study.embedding, "embed_texts", lambda c, t, x: np.ones((len(x), 4)))
    monkeypatch.setattr(in_study.ensemble, "trained", lambda specs, *data: given.update(specs=specs, data=data) or specs)
    own = np.array([1.0, 0.0, 0.5, np.nan, 1.0, 0.0, 1.0, 0.0, 1.0])
    study = SimpleNamespace(
        feedback=(own, ["x"] * 9, np.zeros(9, int)), size=SimpleNamespace(reward_epochs=10, reward_seeds=2),
        clip_digest="clip", labelled_images="own", embeddings=lambda images: (np.zeros((9, 4)), np.ones((9, 4))),
    )  # fmt: skip
    said = ["good", "bad", "skip"]
    table = pd.DataFrame({"image": ["a", "b", "c"], "prompt": ["p", "p", "q"], "label": said, "rater": "ann"})
    in_study.rewards(study, table, np.zeros((3, 8, 8, 3), np.uint8))
    assert [s.epochs for s in given["specs"]] == [35, 35] and [s.seed for s in given["specs"]] == [0, 1]  # 7 of 2 labels
    image, _, texts, y, raters, _, inputs = given["data"]
    assert len(image) == 3 and texts == ["p", "p", "q"] and y.tolist() == [1.0, 0.0, 0.5] and "own images" not in inputs
    in_study.rewards(study, table, np.zeros((3, 8, 8, 3), np.uint8), added=True)
    image, _, texts, y, raters, _, inputs = given["data"]
    assert len(image) == 12 and given["specs"][0].epochs == 8 and raters.tolist() == [1] * 3 + [0] * 9  # 70 / 9
    assert inputs["own images"] == "own"
