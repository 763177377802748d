"""The store of people's answers: what was acknowledged stays, nothing changes, and writers do not hurt each other."""

import multiprocessing
import os
import random
import resource
import signal
import sqlite3
import time
import uuid

import numpy as np
import pytest

from lib.feedback.answers import Answer
from lib.feedback.store import Store
from lib.images.sampling import image_digest

SEED = 20  # of the moments at which writers are killed, and of who is
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 16, 24, 3), dtype=np.uint8)
DIGESTS = [image_digest(x) for x in PIXELS]
FORK = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


@pytest.fixture
def store(path):
    with Store.open(path) as opened:
        fill(opened)
        yield opened


def fill(store):
    store.add_all((d, ("base", "Two dogs", i), x) for i, (d, x) in enumerate(zip(DIGESTS, PIXELS, strict=True)))


def said(**changes):
    """Arguments of an answer that is right, with changes."""
    return dict(rater="ann", question="good", prompt="Two dogs", images=DIGESTS[:1], value="good") | changes


def sound(store):
    return store._db.one("PRAGMA integrity_check") == "ok" and not store._db.all("PRAGMA foreign_key_check")


# ---- answers -------------------------------------------------------------------------------------------------------


def test_an_answer_comes_back_as_it_was_given(store):
    row = store.add(**said(shown=[2], seconds=1.5, item="check", time="2023-02-23T12:00:00Z"))
    (found,) = store.rows().to_dict("records")
    assert found | {"software": "", "replaces": None} == {
        **said(images=(DIGESTS[0],)), "shown": ("2",), "seconds": 1.5, "item": "check", "replaces": None,
        "time": "2023-02-23T12:00:00Z", "software": "", "id": row,
    }  # fmt: skip
    assert found["software"].startswith("human-feedback 1")


@pytest.mark.parametrize(
    "question, images, value",
    [("good", 1, "skip"), ("alignment", 8, "A"), ("fidelity", 8, "tie"), ("best", 4, 3), ("best", 4, "skip"),
     ("rank", 3, "1 2 2"), ("preference", 2, "B")],
)  # fmt: skip
def test_every_question_takes_its_answers(store, question, images, value):
    store.add(**said(question=question, images=DIGESTS[:images], value=value))
    assert store.rows(question=question).value.tolist() == [str(value)]


@pytest.mark.parametrize(
    "change, words",
    [(dict(value="great"), "unknown value 'great'.* want good, bad or skip"), (dict(question="nice"), "one of good, "),
     (dict(images=DIGESTS[:2]), "about 2 images: want one"), (dict(images=["f" * 64]), "want it archived before"),
     (dict(images=["dog.png"]), "want 64 hexadecimal digits"), (dict(rater=" "), "rater is ' '"),
     (dict(prompt="<b>Two</b> dogs"), "has markup at '<b>Two"), (dict(prompt="a\x00b"), "unprintable"),
     (dict(seconds=-1), "want a number of 0 or more"), (dict(seconds=float("nan")), "seconds is nan"),
     (dict(item="odd"), "one of plain, repeat, check"), (dict(time="yesterday"), "want ISO 8601"),
     (dict(time="2023-02-30T12:00:00Z"), "want ISO 8601"), (dict(value="undone"), "want `replaces` to name it"),
     (dict(replaces="0" * 32), "want one to replace"), (dict(question="best", images=DIGESTS[:4], value=4), "unknown value"),
     (dict(question="alignment", images=DIGESTS[:3], value="A"), "an even number"),
     (dict(question="rank", images=DIGESTS[:3], value="1 2"), "a rank an image")],
)  # fmt: skip
def test_a_wrong_answer_is_refused_in_one_line_and_nothing_is_kept(store, change, words):
    with pytest.raises(ValueError, match=words) as refusal:
        store.add(**said(**change))
    assert "\n" not in str(refusal.value) and store.rows(current=False).empty


def test_of_many_answers_a_wrong_one_keeps_all_out(store):
    new = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="want it archived"):
        store.add_all([(image_digest(new), ("s", "p", 0), new), Answer(**said()), Answer(**said(images=["f" * 64]))])
    assert store.rows().empty and len(store.images()) == len(PIXELS)


# ---- corrections ---------------------------------------------------------------------------------------------------


def test_a_correction_is_a_new_row_and_the_old_one_stays(store):
    first = store.add(**said())
    second = store.add(**said(value="bad", replaces=first))
    assert store.rows().id.tolist() == [second]
    assert store.rows(current=False).value.tolist() == ["good", "bad"]


def test_what_was_undone_no_longer_counts_and_may_be_answered_again(store):
    first = store.add(**said())
    undone = store.add(**said(value="undone", replaces=first))
    assert store.rows().empty
    store.add(**said(value="bad"))
    assert store.rows()[["value", "replaces"]].values.tolist() == [["bad", undone]]


def test_two_answers_to_one_question_need_a_word_of_which_replaces_which(store):
    first = store.add(**said())
    for change in (dict(), dict(value="bad")):
        with pytest.raises(ValueError, match=f"'ann' has answered .* with 'good': to correct it, replace row {first}"):
            store.add(**said(**change))
    store.add(**said(item="repeat", value="bad"))  # measures the rater against themself
    store.add(**said(rater="bob"))
    assert len(store.rows()) == 3 and store.rows(rater="bob").value.tolist() == ["good"]


@pytest.mark.parametrize(
    "change", [dict(rater="bob"), dict(prompt="Two cats"), dict(images=DIGESTS[1:2]), dict(item="repeat")]
)
def test_a_row_is_replaced_only_by_an_answer_to_the_same_question(store, change):
    first = store.add(**said())
    with pytest.raises(ValueError, match=f"no row {first} of this rater"):
        store.add(**said(replaces=first, **change))


def test_a_row_is_replaced_once(store):
    first = store.add(**said())
    second = store.add(**said(value="bad", replaces=first))
    with pytest.raises(ValueError, match=f"replaced already: want {second}"):
        store.add(**said(value="skip", replaces=first))


def test_an_answer_that_is_sent_again_is_one_answer(store):
    given = said(id=uuid.uuid4().hex)
    assert store.add(**given) == store.add(**given) == given["id"] and len(store.rows()) == 1
    with pytest.raises(ValueError, match="two different answers have the id"):
        store.add(**given | {"value": "bad"})


@pytest.mark.parametrize("table", ["answer", "image"])
def test_no_program_changes_a_row(store, path, table):
    store.add(**said())
    before = store.rows(), store.images()
    column = {"answer": "value", "image": "prompt"}[table]
    for statement in (f"UPDATE {table} SET {column} = 'x'", f"DELETE FROM {table}",
                      f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}"):  # fmt: skip
        with sqlite3.connect(path) as other, pytest.raises(sqlite3.IntegrityError, match="only grows"):
            other.execute(statement)
        other.close()
    assert all(a.equals(b) for a, b in zip(before, (store.rows(), store.images()), strict=True))


# ---- images --------------------------------------------------------------------------------------------------------


def test_an_image_comes_back_to_the_last_bit_with_its_first_name(store):
    for digest, pixels in zip(DIGESTS, PIXELS, strict=True):
        assert np.array_equal(store.pixels(digest), pixels)
    store.archive(DIGESTS[0], ("another", "Two cats", 7), PIXELS[0])
    assert store.images()[["stream", "prompt", "number"]].values.tolist()[0] == ["base", "Two dogs", 0]
    with pytest.raises(KeyError, match="no image ffff"):
        store.pixels("f" * 64)


@pytest.mark.parametrize(
    "digest, pixels, words",
    [(DIGESTS[1], PIXELS[0], "has other pixels: want"), (DIGESTS[0], PIXELS[0] / 255, "an image is uint8 .* got float64"),
     (DIGESTS[0], PIXELS[0][..., 0], "an image is uint8"), (DIGESTS[0], PIXELS[0][:0], "an image is uint8")],
)  # fmt: skip
def test_what_is_not_the_image_of_the_digest_is_refused(path, digest, pixels, words):
    with Store.open(path) as store, pytest.raises(ValueError, match=words):
        store.archive(digest, ("base", "Two dogs", 0), pixels)
    with Store.open(path) as store:
        assert store.images().empty


# ---- merging -------------------------------------------------------------------------------------------------------


def raters(tmp_path, names):
    for name in names:
        with Store.open(tmp_path / name) as one:
            fill(one)
            first = one.add(**said(rater=name))
            one.add(**said(rater=name, value="bad", replaces=first))
            one.add(**said(rater=name, images=DIGESTS[1:2], item="repeat"))


def test_files_of_several_raters_merge_in_any_order_any_number_of_times(tmp_path):
    raters(tmp_path, "abc")
    merged = []
    for order in ("abc", "cabbac"):
        with Store.open(tmp_path / f"all-{order}") as whole:
            assert sum(whole.merge(tmp_path / name) for name in order) == 9
            assert sound(whole) and len(whole.images()) == len(PIXELS)
            merged.append(whole.rows().sort_values("id", ignore_index=True))
    assert merged[0].equals(merged[1]) and sorted(merged[0].rater) == sorted("aabbcc")


def test_of_a_raters_two_answers_in_two_files_the_later_stands(tmp_path):
    for name, value, at in (("a", "good", "2023-02-23T12:00:01Z"), ("b", "bad", "2023-02-23T12:00:00Z")):
        with Store.open(tmp_path / name) as one:
            fill(one)
            one.add(**said(value=value, time=at))
    with Store.open(tmp_path / "a") as whole:
        whole.merge(tmp_path / "b")
        assert whole.rows().value.tolist() == ["good"] and len(whole.rows(current=False)) == 2


def test_a_damaged_file_adds_nothing(store, tmp_path):
    raters(tmp_path, "a")
    with sqlite3.connect(tmp_path / "a") as other:
        other.execute("DROP TRIGGER image_UPDATE")
        other.execute("UPDATE image SET png = substr(png, 1, 60)")
    with Store.open(tmp_path / "new") as whole, pytest.raises(ValueError, match="cannot be read as an image"):
        whole.merge(tmp_path / "a")
    with Store.open(tmp_path / "new") as whole:
        assert whole.rows().empty and whole.images().empty
    with pytest.raises(FileNotFoundError, match="no store"):
        store.merge(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


# ---- files ---------------------------------------------------------------------------------------------------------


def test_a_label_is_acknowledged_when_the_disk_has_it(store):
    assert store._db.one("PRAGMA journal_mode") == "wal" and store._db.one("PRAGMA synchronous") == 2


def test_other_files_are_refused_and_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    (tmp_path / "text.sqlite").write_text("no database " * 99, "utf-8")
    for name, words in (("other.sqlite", "something else"), ("text.sqlite", "want a store of answers")):
        with pytest.raises(ValueError, match=words):
            Store.open(tmp_path / name)
    assert (tmp_path / "text.sqlite").read_text("utf-8").startswith("no database")


def test_a_store_of_another_version_is_refused(path):
    with Store.open(path) as store:
        store._db.all("PRAGMA user_version = 9")
    with pytest.raises(ValueError, match="version 9, and this code reads version 1"):
        Store.open(path)


def test_a_process_that_holds_the_store_is_waited_for_and_then_named(store, path):
    with Store.open(path, wait=0.1) as other, store._db.writing():
        with pytest.raises(TimeoutError, match="another process holds the file"):
            other.add(**said())
    assert store.rows().empty


# ---- kills and full disks ------------------------------------------------------------------------------------------


def write(path, rater, count, heard):
    """A writer: `count` answers, each noted in the file `heard` once it was acknowledged; goes on after those noted."""
    done = heard.stat().st_size
    with Store.open(path, wait=600) as store, heard.open("ab", buffering=0) as file:
        for i in range(done, count):
            given = said(rater=rater, prompt=f"Prompt {i}", id=uuid.uuid5(uuid.NAMESPACE_OID, f"{rater} {i}").hex)
            store.add(**given)
            file.write(b".")


@FORK
def test_no_acknowledged_answer_is_lost_or_doubled_when_writers_are_killed(store, path, tmp_path):
    writers, each, rng, fork = 8, 1_250, random.Random(SEED), multiprocessing.get_context("fork")
    store.close()
    heard = [tmp_path / f"heard-{i}" for i in range(writers)]
    for file in heard:
        file.touch()

    def start(i):
        process = fork.Process(target=write, args=(path, f"rater-{i}", each, heard[i]), daemon=True)
        process.start()
        return process

    running, kills = [start(i) for i in range(writers)], 0
    while any(p.is_alive() for p in running):
        time.sleep(rng.uniform(0.02, 0.5))
        writing = [i for i, p in enumerate(running) if p.is_alive() and 0 < heard[i].stat().st_size < each]
        if kills < 5 and writing:
            i = rng.choice(writing)
            os.kill(running[i].pid, signal.SIGKILL)
            running[i].join()
            kills += running[i].exitcode == -signal.SIGKILL
            with Store.open(path) as left:  # what was acknowledged is there at once
                assert len(left.rows(rater=f"rater-{i}")) >= heard[i].stat().st_size
            running[i] = start(i)
    assert kills == 5 and [p.exitcode for p in running] == [0] * writers
    with Store.open(path) as whole:
        rows = whole.rows(current=False)
        assert sound(whole) and len(rows) == writers * each == sum(f.stat().st_size for f in heard)
        assert not rows.duplicated(["rater", "prompt"]).any() and len(whole.rows()) == len(rows)


def write_on_a_small_disk(path, heard, size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        write(path, "ann", 5_000, heard)
    except OSError as error:
        os._exit(7 if "the disk is full or failing; free space" in str(error) and "\n" not in str(error) else 8)


@FORK
@pytest.mark.parametrize("size", [100_000, 101_111, 150_000])
def test_on_a_full_disk_an_answer_is_not_acknowledged_and_the_store_opens_again(store, path, tmp_path, size):
    store.close()
    (tmp_path / "heard").touch()
    arguments = (path, tmp_path / "heard", size)
    process = multiprocessing.get_context("fork").Process(target=write_on_a_small_disk, args=arguments)
    process.start()
    process.join()
    acknowledged = (tmp_path / "heard").stat().st_size
    assert process.exitcode == 7 and acknowledged > 5
    with Store.open(path) as again:
        assert sound(again) and len(again.rows()) == acknowledged
        again.add(**said(prompt=f"Prompt {acknowledged}"))


def test_a_store_that_was_full_takes_answers_when_there_is_room(store):
    pages = store._db.one("PRAGMA page_count")
    store._db.all(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(OSError, match="full, and nothing was saved"):
        store.add_all([Answer(**said(prompt=f"Prompt {i}")) for i in range(500)])
    assert store.rows().empty and sound(store)
    store._db.all("PRAGMA max_page_count = 100000")
    store.add(**said())
    assert len(store.rows()) == 1
