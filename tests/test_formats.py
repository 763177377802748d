"""Labels go out in every format and come in again, and a file that is wrong changes nothing and is refused in one line."""

import base64
import csv
import io
import json
import random
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lib.feedback.answers import COLUMNS, QUESTIONS, Answer
from lib.feedback.exchange import READ, export_file, export_store, import_file, import_store
from lib.feedback.formats import FORMATS, csv_of
from lib.feedback.store import IMAGES, Store
from lib.ground.paths import DATA
from lib.images.sampling import ImageSet, image_digest

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 10, 3), dtype=np.uint8)
DIGESTS = [image_digest(x) for x in PIXELS]
PROMPTS = ("Two dogs", 'A "red", vase; in\nthe field', "Drei Äpfel, 三个苹果", "=1+1", "a\tb\u2028c", " x")


def fill(store):
    store.add_all((d, ("base", "Two dogs", i), x) for i, (d, x) in enumerate(zip(DIGESTS, PIXELS, strict=True)))


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "answers.sqlite") as opened:
        fill(opened)
        yield opened


@pytest.fixture
def empty(tmp_path):
    with Store.open(tmp_path / "empty.sqlite") as opened:
        yield opened


def a_value(rng, question, images):
    if question == "rank":
        return " ".join(str(rng.randint(1, images)) for _ in range(images))
    choices = {"good": ["good", "bad", "skip"], "best": [*range(images), "skip"]}
    return str(rng.choice(choices.get(question, ["A", "B", "tie"])))


def an_answer(rng, question, rater=None, images=None, **fields):
    number = images or {"good": 1, "best": rng.randint(2, 4), "rank": rng.randint(2, 6)}.get(question, 2)
    rater, value = rater or rng.choice(["ann", "b,o;b", "Zoë"]), a_value(rng, question, number)
    return Answer(rater, question, rng.choice(PROMPTS), rng.sample(DIGESTS, number), value, **fields)


def several(rng, question, count=60, **fields):
    """Answers to different questions."""
    made = [an_answer(rng, question, **fields) for _ in range(count)]
    return list({(a.rater, a.prompt, a.images): a for a in made}.values())


def said(store, *left_out):
    """What a store says, without the columns that a format does not hold."""
    rows = store.rows(current=False).drop(columns=["id", "software", "time", "seconds", "shown", "replaces", *left_out])
    return sorted(map(tuple, rows.values.tolist()))


# ---- there and back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", range(3))
@pytest.mark.parametrize("form", FORMATS)
def test_a_format_goes_out_and_in_again(store, empty, tmp_path, form, draw):
    rng, known = random.Random(draw), FORMATS[form]
    question = rng.choice(known.questions)
    rater = None if known.raters else "ann"
    answers = several(rng, question, rater=rater)
    if form == "textnorm":  # one prompt an image
        answers = [a for a in answers if a.prompt == PROMPTS[DIGESTS.index(a.images[0]) % 6]]
    if not known.skips:
        answers = [a for a in answers if a.value != "skip"]
    store.add_all(answers)
    path = tmp_path / "out" / f"labels of {form}"
    assert export_file(store, path, form, question=question) == len(answers)
    assert import_file(empty, path, form, question=question, rater="ann") == len(answers)
    left_out = ("rater",) if form == "textnorm" else ()  # has them by number
    assert said(empty, *left_out) == said(store, *left_out)
    assert all(np.array_equal(empty.pixels(d), store.pixels(d)) for d in empty.images().digest)
    assert import_file(empty, path, form, question=question, rater="ann") == 0
    again = tmp_path / "again" / path.name
    export_file(empty, again, form, question=question)
    assert again.read_bytes() == path.read_bytes() or form in ("textnorm", "pickapic")


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize("draw", range(3))
def test_the_whole_store_goes_out_and_in_again(store, empty, tmp_path, kind, draw):
    rng = random.Random(draw)
    for question in ("good", "alignment", "fidelity", "best", "rank"):
        store.add_all(several(rng, question, 20, seconds=rng.choice([None, 0.1, 1e-9, 12.0]), shown=["B", "A"], time=""))
    first = store.rows().iloc[0]
    asked = {name: first[name] for name in ("rater", "question", "prompt", "images", "item")}
    undone = store.add(**asked, value="undone", replaces=first.id)
    store.add(**asked, value="skip", seconds=2.5)
    export_store(store, tmp_path / "out", kind)
    assert import_store(empty, tmp_path / "out") == store.count() and undone in set(empty.rows(current=False).id)
    for current in (True, False):
        assert empty.rows(current=current).equals(store.rows(current=current))
    assert empty.images().drop(columns="png").equals(store.images().drop(columns="png"))
    assert all(np.array_equal(empty.pixels(d), store.pixels(d)) for d in DIGESTS)
    assert import_store(empty, tmp_path / "out") == 0


def test_an_empty_store_cannot_be_written_in_a_format(empty, tmp_path):
    with pytest.raises(ValueError, match="no answers to 'good'"):
        export_file(empty, tmp_path / "x.csv", "labels")
    assert not (tmp_path / "x.csv").exists()


def test_a_format_refuses_what_it_cannot_hold(store, tmp_path):
    store.add_all([Answer(r, "best", "Two dogs", DIGESTS[:2], "1") for r in ("ann", "bob")])
    store.add(rater="ann", question="alignment", prompt="Two dogs", images=DIGESTS[:8], value="A")
    store.add_all(Answer("ann", "good", p, DIGESTS[:1], "bad") for p in PROMPTS[:2])
    for form, question, words in (("hpd2", None, "ann, bob answered: name one rater"),
                                  ("pickapic", "alignment", "one a side"),
                                  ("textnorm", None, "two prompts"), ("labels", "best", "one of good"),
                                  ("labelstudio", None, "one of labels")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            export_file(store, tmp_path / "x", form, question=question)
    assert not (tmp_path / "x").exists()
    assert export_file(store, tmp_path / "x", "hpd2", rater="bob") == 1


def test_only_plain_answers_that_stand_are_written(store, tmp_path):
    first = store.add(rater="ann", question="good", prompt="Two dogs", images=DIGESTS[:1], value="good")
    store.add(rater="ann", question="good", prompt="Two dogs", images=DIGESTS[:1], value="bad", replaces=first)
    for item in ("repeat", "check"):
        store.add(rater="ann", question="good", prompt="Two dogs", images=DIGESTS[:1], value="good", item=item)
    assert export_file(store, tmp_path / "x.csv", "labels") == 1
    assert (tmp_path / "x.csv").read_text("utf-8") == f"image,prompt,rater,label\n{DIGESTS[0]},Two dogs,ann,bad\n"


# ---- the released forms --------------------------------------------------------------------------------------------


def png(i):
    Image.fromarray(PIXELS[i]).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """A folder with images 0.png to 11.png, as a campaign may have it."""
    made = tmp_path / "campaign"
    made.mkdir()
    for i in range(len(PIXELS)):
        (made / f"{i}.png").write_bytes(png(i))
    return made


def a_csv(*rows, head="image,prompt,rater,label"):
    return "\n".join([head, *rows, ""])


TEXTNORM = {"0.png": {"image": "0.png", "caption": "six vases", "human_labels": [1, 0, -1]}}
HPD = [{"prompt": "a dog", "id": 7, "file_path": ["0.png", "1.png", "2.png"], "human_preference": 1, "user_hash": "f00",
        "contain_name": False}]  # fmt: skip
HPD2 = [{"prompt": "a dog", "file_path": ["0.png", "1.png"], "human_preference": [0, 1]}]
HPD2_TEST = [{"prompt": "a dog", "image_path": ["0.png", "1.png"], "rank": [1, 2],
              "raw_annotations": [{"rank": [1, 2], "user_hash": "a"}, {"rank": [1, 1], "user_hash": "b"}]}]  # fmt: skip
REWARD = [{"id": "000904-0035", "prompt": "a dog", "generations": ["0.png", "1.png", "2.png"], "ranking": [2, 1, 2]}]
KTO = a_csv("0.png,a dog,exclusive_win", "1.png,a dog,exclusive_lose", head="file_path,caption,label")


@pytest.mark.parametrize(
    "form, text, expected",
    [("labels", a_csv("0.png,a dog,ann,good", f"{DIGESTS[1]},a dog,ann,skip"),
      [("ann", "good", "a dog", "0", "good"), ("ann", "good", "a dog", "1", "skip")]),
     ("labels", "label,rater,mood,prompt,image\r\nbad,ann,low,a dog,2.png\r\n", [("ann", "good", "a dog", "2", "bad")]),
     ("textnorm", TEXTNORM,
      [("imported-1", "good", "six vases", "0", "good"), ("imported-2", "good", "six vases", "0", "bad"),
       ("imported-3", "good", "six vases", "0", "skip")]),
     ("hpd", HPD, [("f00", "best", "a dog", "0 1 2", "1")]), ("hpd2", HPD2, [("imported", "best", "a dog", "0 1", "1")]),
     ("hpd2-test", HPD2_TEST, [("a", "rank", "a dog", "0 1", "1 2"), ("b", "rank", "a dog", "0 1", "1 1")]),
     ("imagereward", REWARD, [("imported", "rank", "a dog", "0 1 2", "2 1 2")]),
     ("kto", KTO, [("imported", "good", "a dog", "0", "good"), ("imported", "good", "a dog", "1", "bad")]),
     ("kto", KTO.replace("file_path", "file_name").replace("label", "split"),
      [("imported", "good", "a dog", "0", "good"), ("imported", "good", "a dog", "1", "bad")])],
)  # fmt: skip
def test_a_released_file_is_understood(empty, folder, form, text, expected):
    (folder / "labels").write_text(text if isinstance(text, str) else json.dumps(text), "utf-8")
    shown = ImageSet(PIXELS, "base", ["a dog"] * 12, list(range(12)), DIGESTS)
    assert import_file(empty, folder / "labels", form, shown=shown) == len(expected)
    rows = empty.rows()
    images = [" ".join(str(DIGESTS.index(x)) for x in row) for row in rows.images]
    assert list(zip(rows.rater, rows.question, rows.prompt, images, rows.value, strict=True)) == expected
    assert set(empty.images().digest) == {x for row in rows.images for x in row}


def pickapic(path, **changes):
    columns = {"caption": ["a dog"] * 3, "jpg_0": [png(0)] * 3, "jpg_1": [png(1)] * 3, "label_0": [1.0, 0.0, 0.5],
               "label_1": [0.0, 1.0, 0.5], "user_id": [7, 8, 9]}  # fmt: skip
    pq.write_table(pa.table({k: v for k, v in (columns | changes).items() if v}), path)


def test_a_file_of_pickapic_is_understood(empty, tmp_path):
    pickapic(tmp_path / "x.parquet", has_label=[True, False, True])
    assert import_file(empty, tmp_path / "x.parquet", "pickapic") == 2
    rows = empty.rows()[["rater", "question", "value"]].values.tolist()
    assert rows == [["7", "preference", "A"], ["9", "preference", "tie"]]
    assert import_file(empty, tmp_path / "x.parquet", "pickapic", question="fidelity") == 2


# ---- files that are wrong ------------------------------------------------------------------------------------------

REMEDY = r"want|keep |save |put it|split it|: one of |to correct"
ROW = "0.png,a dog,ann,good"
PNG_BOMB = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAA//8AAP//CAIAAAA=")


def sparse(path):
    with path.open("wb") as file:
        file.truncate(200_000_000)


def every_byte(store):
    return store._db._db.serialize()


def changed(record, **fields):
    return json.dumps([{k: v for k, v in (record[0] | fields).items() if v is not ...}])


WRONG = [
    # files
    ("labels", "", "lacks the column 'image': want image,prompt,rater,label"),
    ("labels", a_csv(), "has no rows: want at least one"),
    ("labels", a_csv("0.png,a dog,ann", head="image,prompt,rater"), "lacks the column 'label'"),
    ("labels", a_csv(ROW, head="image,prompt,rater,verdict"), "lacks the column 'label'"),
    ("labels", a_csv(ROW + ",x", head="image,prompt,rater,label,label"), "has the column 'label' twice"),
    ("labels", "\ufeff" + a_csv(ROW), "byte order mark: save it as UTF-8"),
    ("labels", a_csv(ROW).encode("utf-16"), "byte order mark: save it as UTF-8"),
    ("labels", a_csv(ROW).replace(",", ";"), "separates its columns by semicolons: want image,prompt"),
    ("labels", a_csv(ROW).replace(",", "\t"), "separates its columns by tabs"),
    ("labels", a_csv(ROW, "1.png,Zoë,ann,good").encode("latin-1"), "line 3: byte 0xeb is not UTF-8: save it as UTF-8"),
    ("labels", a_csv("0.png,Drei Äpfel,ann,good").encode() + "1.png,Äpfel,ann,good\n".encode("cp1252"), "line 3: byte 0xc4"),
    ("labels", a_csv("0.png,a dog, or two,ann,good"), "row 2: has 5 fields, want 4"),
    ("labels", a_csv(ROW, "1.png,a dog"), "row 3: has 2 fields, want 4"),
    ("labels", a_csv('0.png,"a dog,ann,good'), "want comma-separated values"),
    ("labels", a_csv('0.png,"a dog"s,ann,good'), "want comma-separated values"),
    ("labels", sparse, "has 200 MB: want at most 100 MB, so split it"),
    ("hpd", sparse, "has 200 MB"),
    ("labels", b"\x89PNG\r\n\x1a\n" + bytes(64), "is not UTF-8"),
    # labels
    ("labels", a_csv(ROW, "1.png,a dog,ann,great"), "row 3: unknown value 'great' of 'good' .* want good, bad or skip"),
    ("labels", a_csv("0.png,a dog,ann,Good"), "unknown value 'Good'"),
    ("labels", a_csv("0.png,a dog,ann,"), "row 2: unknown value ''"),
    ("labels", a_csv("0.png,a dog,,good"), "row 2: rater is '': want a text"),
    ("labels", a_csv("0.png,,ann,good"), "row 2: prompt is ''"),
    ("labels", a_csv(ROW, ROW), "row 3: has the rater, prompt and image of wrong, row 2: keep one"),
    ("labels", a_csv(ROW, "0.png,a dog,ann,bad"), "row 3: has the rater, prompt and image of wrong, row 2"),
    ("labels", a_csv(f"{DIGESTS[0]},there before,ann,bad"), "has answered .* with 'good': to correct it, replace"),
    ("labels", a_csv("0.png,a dog,ann,undone"), "undone"),
    ("labels", a_csv(f"0.png,a dog,ann,{'x' * 10_000}"), "unknown value 'xxx"),
    ("labels", a_csv('0.png,a dog,ann,"good\nbad"'), "unknown value 'good.nbad'"),
    # prompts
    ("labels", a_csv("0.png,<script>alert(1)</script>,ann,good"), "row 2: prompt has markup at '<script>alert"),
    ("labels", a_csv('0.png,"a dog <img src=x onerror=alert(1)>",ann,good'), "has markup at '<img src"),
    ("labels", a_csv("0.png,a dog,<b>ann</b>,good"), "rater has markup"),
    ("labels", a_csv("0.png,a \x00 dog,ann,good"), "want plain text|want comma-separated"),
    ("labels", a_csv("0.png,a \u202e dog,ann,good"), "unprintable character"),
    ("labels", a_csv(f"0.png,{'long ' * 3000},ann,good"), "has 15,000 characters"),
    # images
    ("labels", a_csv("12.png,a dog,ann,good"), "row 2: no image '12.png' in the folder campaign: put it there"),
    ("labels", a_csv("../secret.png,a dog,ann,good"), "image '../secret.png' is no name of a file in the folder"),
    ("labels", a_csv("a/../../secret.png,a dog,ann,good"), "is no name of a file in the folder"),
    ("labels", a_csv("/etc/hostname,a dog,ann,good"), "is no name of a file in the folder"),
    ("labels", a_csv("C:\\x.png,a dog,ann,good"), "is no name of a file in the folder"),
    ("labels", a_csv("https://example.org/x.png,a dog,ann,good"), "is no name of a file in the folder"),
    ("labels", a_csv("link.png,a dog,ann,good"), "no image 'link.png' in the folder"),
    ("labels", a_csv(f"{'f' * 64},a dog,ann,good"), "row 2: no image has the digest ffffffffffff: want one of the store"),
    ("labels", a_csv("wrong,a dog,ann,good"), "image 'wrong' cannot be read as an image: want PNG"),
    ("labels", a_csv("half.png,a dog,ann,good"), "image 'half.png' cannot be read as an image"),
    ("labels", a_csv("bomb.png,a dog,ann,good"), "image 'bomb.png' cannot be read as an image"),
    ("labels", a_csv("huge.png,a dog,ann,good"), "huge.png has 200 MB: want at most 50 MB"),
    ("labels", a_csv(",a dog,ann,good"), "image '' is no name"),
    ("labels", a_csv(".,a dog,ann,good"), "no image '.' in the folder"),
    # JSON
    ("hpd", '[{"prompt": "a dog", ', "line 1: .*: want JSON, whole"),
    ("hpd", "[]", "has no records: want a list of at least one"),
    ("hpd", "7", "has no records"),
    ("hpd", '["a dog"]', "row 1: is 'a dog': want an object"),
    ("hpd", '[{"prompt": NaN}]', "'NaN' is no number of JSON"),
    ("hpd", '[{"prompt": "a", "prompt": "b"}]', "'prompt' is there twice in one object: want it once"),
    ("hpd", "[" * 100_000, "nested too deeply|want JSON"),
    ("textnorm", '{"0.png": {"image": "0.png"}, "0.png": {"image": "0.png"}}', "'0.png' is there twice in one object"),
    ("textnorm", {"a": TEXTNORM["0.png"], "b": TEXTNORM["0.png"]}, "record 'b': has the rater, prompt and image of"),
    ("textnorm", {"a": TEXTNORM["0.png"] | {"human_labels": [1, 2, 0]}}, "'a': unknown human label 2: one of 1, 0"),
    ("textnorm", {"a": TEXTNORM["0.png"] | {"human_labels": [True]}}, "unknown human label True"),
    ("textnorm", {"a": TEXTNORM["0.png"] | {"human_labels": []}}, "human_labels is empty"),
    ("textnorm", {"a": {"image": "0.png", "human_labels": [1]}}, "lacks 'caption'"),
    ("kto", KTO.replace("exclusive_win", "won"), "row 2: unknown label 'won': one of exclusive_win"),
    ("hpd", changed(HPD, human_preference=3), "human_preference is 3: want the number of one of 3 images"),
    ("hpd", changed(HPD, human_preference=True), "human_preference is True: want a whole number"),
    ("hpd", changed(HPD, human_preference="1"), "want a whole number"),
    ("hpd", changed(HPD, file_path="0.png"), "file_path is '0.png': want a list"),
    ("hpd", changed(HPD, file_path=[0, 1, 2]), "file_path has 0: want names"),
    ("hpd", changed(HPD, file_path=["0.png"], human_preference=0), "about 1 images: want two or more"),
    ("hpd", changed(HPD, user_hash=...), "row 1: lacks 'user_hash'"),
    ("hpd2", changed(HPD2, human_preference=[1, 1]), "want a single 1"),
    ("hpd2", changed(HPD2, human_preference=[0, 1, 0]), "want 2 whole numbers, one an image"),
    ("hpd2-test", changed(HPD2_TEST, raw_annotations=[7]), "want objects of rank"),
    ("hpd2-test", changed(HPD2_TEST, raw_annotations=HPD2_TEST[0]["raw_annotations"][:1] * 2), "keep one"),
    ("hpd2-test", changed(HPD2_TEST, rank=[1]), "want 2 whole numbers"),
    ("imagereward", changed(REWARD, generations=[], ranking=[]), "row 1: names no image: want"),
    ("imagereward", changed(REWARD, ranking=[1, 2]), "ranking is .* want 3 whole numbers"),
    ("imagereward", changed(REWARD, ranking=[1, 2, -1]), "row 1: unknown value '1 2 -1'"),
    # Parquet
    ("pickapic", b"PAR1 and no more", "cannot be read as Parquet: want an undamaged"),
    ("pickapic", lambda p: pickapic(p, jpg_0=None), "lacks the column 'jpg_0'"),
    ("pickapic", lambda p: pickapic(p, label_0=[1.0, 1.0, 0.5]), "row 2: unknown pair of labels"),
    ("pickapic", lambda p: pickapic(p, label_0=[1.0, None, 0.5]), "row 2: label_0 is None: want"),
    ("pickapic", lambda p: pickapic(p, jpg_1=[png(1), b"no image", png(1)]), "row 2: the image cannot be read"),
    ("pickapic", lambda p: pickapic(p, caption=["a dog", "", "a dog"]), "row 2: prompt is ''"),
    ("pickapic", lambda p: pickapic(p, user_id=[7, 7, 9]), "row 2: has the rater, prompt and image of wrong, row 1"),
]


@pytest.mark.parametrize("form, made, words", WRONG)
def test_a_wrong_file_is_refused_in_one_line_and_changes_nothing(store, folder, form, made, words):
    store.add(rater="ann", question="good", prompt="there before", images=DIGESTS[:1], value="good")
    (folder.parent / "secret.png").write_bytes(png(0))
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "half.png").write_bytes(png(0)[:-30])
    (folder / "bomb.png").write_bytes(PNG_BOMB)
    sparse(folder / "huge.png")
    path = folder / "wrong"
    if callable(made):
        made(path)
    else:
        path.write_bytes(made if isinstance(made, bytes) else (made if isinstance(made, str) else json.dumps(made)).encode())
    before = every_byte(store)
    with pytest.raises(ValueError, match=words) as refusal:
        import_file(store, path, form)
    told = str(refusal.value)
    assert "\n" not in told and len(told) < 300 and re.search(REMEDY, told) and ("wrong" in told or "huge" in told)
    assert every_byte(store) == before and store.count() == 1


def test_there_are_enough_wrong_files():
    assert len(WRONG) >= 40 and {form for form, *_ in WRONG} == set(FORMATS)


def test_a_file_that_is_too_large_is_not_read(store, folder, monkeypatch):
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: pytest.fail("was read"))
    sparse(folder / "x.csv")
    with pytest.raises(ValueError, match="x.csv has 200 MB"):
        import_file(store, folder / "x.csv", "labels")


def exported(store, tmp_path, kind):
    store.add_all(several(random.Random(0), "good", 5, time=""))
    export_store(store, tmp_path / "out", kind)
    return tmp_path / "out"


def rewritten(path, change):
    """A table, CSV or Parquet, with a column changed by a function of its list of values."""
    name, of = change
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        at = table.schema.get_field_index(name)
        column = pa.array(of(table[name].to_pylist()), table.schema.types[at])
        pq.write_table(table.set_column(at, table.schema.field(at), column), path)
    else:
        head, *rows = csv.reader(io.StringIO(path.read_text("utf-8"), newline=""))
        at = head.index(name)
        for row, value in zip(rows, of([r[at] for r in rows]), strict=True):
            row[at] = value
        path.write_bytes(csv_of(head, rows))


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize(
    "table, change, words",
    [("answers", ("value", lambda x: [*x[:-1], "great"]), "row .: unknown value 'great'"),
     ("answers", ("id", lambda x: x[:1] * len(x)), "two different answers have the id"),
     ("answers", ("replaces", lambda x: ["0" * 32, *x[1:]]), "no row 0000.* want one to replace"),
     ("answers", ("prompt", lambda x: ["<i>x</i>", *x[1:]]), "prompt has markup"),
     ("images", ("digest", lambda x: ["../x", *x[1:]]), "damaged|no name of a file"),
     ("images", ("stream", lambda x: ["", *x[1:]]), "stream is ''")],
)  # fmt: skip
def test_a_store_that_was_changed_on_its_way_is_refused_whole(store, empty, tmp_path, kind, table, change, words):
    folder = exported(store, tmp_path, kind)
    rewritten(folder / f"{table}.{kind}", change)
    before = every_byte(empty)
    with pytest.raises(ValueError, match=words) as refusal:
        import_store(empty, folder)
    assert str(refusal.value).startswith(f"{table}.{kind}, row ") and "\n" not in str(refusal.value)
    assert every_byte(empty) == before


@pytest.mark.parametrize(
    "name, text, words",
    [("seconds", "soon", "seconds is 'soon': want a number"), ("seconds", "-1", "want a number"),
     ("shown", "A", "shown is 'A': want a list in JSON"), ("images", '["x"]', "image is 'x': want 64"),
     ("time", "1.2.2023", "want ISO 8601")],
)  # fmt: skip
def test_fields_of_csv_are_read_with_care(store, empty, tmp_path, name, text, words):
    folder = exported(store, tmp_path, "csv")
    rewritten(folder / "answers.csv", (name, lambda x: [text, *x[1:]]))
    with pytest.raises(ValueError, match=words):
        import_store(empty, folder)
    assert not empty.count() and empty.images().empty


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_an_image_that_is_not_of_its_digest_is_refused(store, empty, tmp_path, kind):
    folder = exported(store, tmp_path, kind)
    if kind == "parquet":
        rewritten(folder / "images.parquet", ("png", lambda x: x[::-1]))
    else:
        (folder / "images" / f"{DIGESTS[0]}.png").write_bytes(png(1))
    with pytest.raises(ValueError, match=f"images.{kind}, row .: image {DIGESTS[0][:12]} is damaged: .* another digest"):
        import_store(empty, folder)
    assert not empty.count() and empty.images().empty


def test_a_folder_without_an_export_is_named(empty, tmp_path):
    with pytest.raises(FileNotFoundError, match="no images.csv in"):
        import_store(empty, tmp_path)


# ---- the datasheet, and other readers ------------------------------------------------------------------------------

SHEET = (DATA / "labels" / "README.md").read_text("utf-8")


def described(part):
    """The first column of a part's table."""
    return re.findall(r"^\| (`.*?) \|", SHEET.split(f"\n## {part}")[1].split("\n## ")[0], re.M)


def test_the_datasheet_describes_every_column(store, tmp_path):
    assert [x.strip("`") for x in described("`answers`")] == list(COLUMNS)
    assert [x.strip("`") for x in described("`images`")] == list(IMAGES)
    store.add_all(several(random.Random(0), "good", 5))
    export_store(store, tmp_path, "parquet")
    export_store(store, tmp_path, "csv")
    for name, columns in (("answers", COLUMNS), ("images", IMAGES)):
        assert pq.read_schema(tmp_path / f"{name}.parquet").names == list(columns)
        head = (tmp_path / f"{name}.csv").read_text("utf-8").partition("\n")[0].split(",")
        assert head == [c for c in columns if c != "png"]


def test_the_datasheet_describes_every_question_and_format():
    assert re.findall(r"`(\w+)`", " ".join(described("Questions"))) == list(QUESTIONS)
    assert re.findall(r"`([\w-]+)`", " ".join(described("In and out"))) == ["parquet", "csv", *READ]


def test_datasets_reads_the_exports(store, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the library datasets is not part of this study's environment")
    store.add_all(several(random.Random(0), "best", 20, seconds=1.5))
    export_store(store, tmp_path, "parquet")
    for name, table in (("answers", store.rows(current=False)), ("images", store.images())):
        file, cache = str(tmp_path / f"{name}.parquet"), str(tmp_path / "cache")
        found = datasets.load_dataset("parquet", data_files=file, cache_dir=cache)["train"]
        assert found.column_names == list(table) and len(found) == len(table) > 0
        for column in table:
            given = [list(x) if isinstance(x, tuple) else None if x != x else x for x in table[column]]
            assert list(found[column]) == given
