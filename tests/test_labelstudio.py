"""Tasks for Label Studio and what it exports; the fixtures are exports of Label Studio 1.23.2 (`make labelstudio`)."""

import base64
import copy
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from lib.desk.campaign import carry_out, parse
from lib.feedback.assignments import AssignmentSpec
from lib.feedback.exchange import import_file
from lib.feedback.labelstudio import ASKED, CHOICES, LOCAL, NUMBER, configuration, export_tasks, tasks
from lib.feedback.pictures import decoded
from lib.feedback.store import Store
from lib.images.sampling import image_digest
from pretrain.reading import tiles

EXPORTS = Path(__file__).parent / "fixtures" / "labelstudio"
PIXELS = tiles()[:24]
DIGESTS = [image_digest(x) for x in PIXELS]


@pytest.fixture
def empty(tmp_path):
    with Store.open(tmp_path / "empty.sqlite") as opened:
        yield opened


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "answers.sqlite") as opened:
        opened.add_all((d, ("reading", "a dog", i), x) for i, (d, x) in enumerate(zip(DIGESTS, PIXELS, strict=True)))
        yield opened


def sets(question, count):
    size = NUMBER[question]
    return [(f"prompt {i}", DIGESTS[size * i % 24 : size * i % 24 + size]) for i in range(count)]


# ---- out -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", ASKED)
def test_a_configuration_shows_every_image_and_takes_every_answer(question):
    root = ET.fromstring(configuration(question))
    places = [x.attrib for x in root.iter("Image")]
    assert [x["value"] for x in places] == [f"$place_{i}" for i in range(1, NUMBER[question] + 1)]
    assert all(x["smoothing"] == "false" for x in places)
    assert root.find("Style").text == ".lsf-toolbar {display: none}"  # with it the edges of images were cut off
    (choices,) = root.iter("Choices")
    assert choices.attrib["toName"] in [x["name"] for x in places]
    keys = [(x.attrib["value"], x.attrib["hotkey"]) for x in choices.iter("Choice")]
    assert keys == [(c, str(i)) for i, c in enumerate(CHOICES[question], 1)]
    (task,) = tasks(question, [("a dog", DIGESTS[: NUMBER[question]], "plain")], str)
    wanted = {x.attrib["value"][1:] for x in root.iter() if x.attrib.get("value", "").startswith("$")}
    assert wanted <= set(task["data"]) and all(isinstance(task["data"][name], str) for name in wanted)


@pytest.mark.parametrize("question", ASKED)
def test_what_is_shown_where_is_random_and_noted(question):
    items = [(prompt, digests, "plain") for prompt, digests in sets(question, 40)]
    made, same, other = ([t["data"] for t in tasks(question, items, str, seed=s)] for s in (0, 0, 1))
    assert made == same and (made != other or question == "good")
    for data in made:
        places = [data[f"place_{i}"] for i in range(1, NUMBER[question] + 1)]
        if question in ("alignment", "fidelity"):
            sides = {"A": data["images"][:4], "B": data["images"][4:]}
            assert places == sides[data["shown"][0]] + sides[data["shown"][1]]
        else:
            assert places == [data["images"][int(i)] for i in data["shown"]]
    first = [d["shown"][0] for d in made]
    assert question == "good" or all(5 <= first.count(x) <= 30 for x in set(first)) and len(set(first)) > 1


def test_a_campaign_has_a_file_for_each_rater(store, tmp_path):
    spec, known = AssignmentSpec(overlap=3, repeats=0.25, checks=0.1), [("a known answer", DIGESTS[:1])]
    plan = export_tasks(store, tmp_path / "c", "good", sets("good", 12), ["ann", "bob"], [2] * 4 + [1] * 8, known, spec)
    for rater in ("ann", "bob"):
        made = json.loads((tmp_path / "c" / f"{rater}.json").read_text("utf-8"))
        assert [t["data"]["item"] for t in made] == plan[plan.rater == rater]["item"].tolist()
        assert {t["data"]["rater"] for t in made} == {rater} and {"repeat", "check"} < {t["data"]["item"] for t in made}
        for data in (t["data"] for t in made):
            inside = base64.b64decode(data["place_1"].removeprefix("data:image/png;base64,"))
            assert image_digest(decoded(inside, "it")) == data["images"][0]
    assert (tmp_path / "c" / "configuration.xml").read_text("utf-8") == configuration("good")
    assert not (tmp_path / "c" / "images").exists()


def test_images_may_lie_in_a_folder(store, tmp_path):
    export_tasks(store, tmp_path / "c", "best", sets("best", 3), ["ann"], inside=False)
    made = json.loads((tmp_path / "c" / "ann.json").read_text("utf-8"))
    for data in (t["data"] for t in made):
        file = tmp_path / "c" / data["place_1"].removeprefix(LOCAL)
        assert image_digest(decoded(file.read_bytes(), "it")) == data["images"][int(data["shown"][0])]


def test_what_cannot_be_a_campaign_is_refused(store, tmp_path):
    for question, rater, words in (("rank", "ann", "one of good, alignment"), ("good", "../ann", "cannot name a file"),
                                   ("best", "ann", "a task of 'best' has 4 images, item 0 has 1")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            export_tasks(store, tmp_path / "c", question, sets("good", 3), [rater])
    assert not (tmp_path / "c" / "configuration.xml").exists()


# ---- in ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", ASKED)
def test_what_label_studio_exported_comes_in_as_it_was_answered(store, empty, question):
    into = empty if question == "good" else store  # images are within tasks of `good` only
    assert import_file(into, EXPORTS / f"{question}.json", "labelstudio") == {"good": 4}.get(question, 2)
    rows = into.rows().sort_values("time", ignore_index=True)
    assert rows.value.notna().all() and set(rows.rater) == {"ann"} and set(rows.seconds) == {1.5}
    assert set(rows.question) == {question} and (rows.time > "2026-11-28T00:00:00Z").all()
    for row, task in zip(rows.itertuples(), json.loads((EXPORTS / f"{question}.json").read_text("utf-8")), strict=True):
        data, (annotation,) = task["data"], task["annotations"]
        assert (list(row.images), list(row.shown), row.prompt) == (data["images"], data["shown"], data["prompt"])
        if annotation["was_cancelled"]:
            assert row.value == "skip"
            continue
        answer = annotation["result"][0]["value"]["choices"][0]
        if question == "best":  # the image at the place that was chosen
            assert data[f"place_{answer}"] == f"{LOCAL}images/{row.images[int(row.value)]}.png"
        elif answer in ("left", "right"):  # the first image of the side that was chosen
            chosen = data["place_1" if answer == "left" else "place_5"]
            assert chosen == f"{LOCAL}images/{row.images[0 if row.value == 'A' else 4]}.png"
        else:
            assert row.value == answer
    assert import_file(into, EXPORTS / f"{question}.json", "labelstudio") == 0


@pytest.mark.parametrize("question", ["alignment", "fidelity"])
@pytest.mark.parametrize("shown", ["AB", "BA"])
@pytest.mark.parametrize("chosen", ["left", "right"])
def test_the_side_that_was_chosen_is_the_one_that_was_shown_there(store, tmp_path, question, shown, chosen):
    record = json.loads((EXPORTS / "alignment.json").read_text("utf-8"))[0]
    record["data"] |= {"question": question, "shown": list(shown)}
    answer(record, {"choices": [chosen]})
    (tmp_path / "x.json").write_text(json.dumps([record]), "utf-8")
    import_file(store, tmp_path / "x.json", "labelstudio")
    assert store.rows().value.tolist() == [shown[chosen == "right"]]


@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_the_best_image_is_the_one_at_the_place_that_was_chosen(store, tmp_path, place):
    record = json.loads((EXPORTS / "best.json").read_text("utf-8"))[0]
    record["data"]["shown"] = ["2", "0", "3", "1"]
    answer(record, {"choices": [str(place)]})
    (tmp_path / "x.json").write_text(json.dumps([record]), "utf-8")
    import_file(store, tmp_path / "x.json", "labelstudio")
    assert store.rows().value.tolist() == ["2031"[place - 1]]


def test_ties_and_cancelled_annotations_are_among_the_exports():
    found = [a for q in ASKED for t in json.loads((EXPORTS / f"{q}.json").read_text("utf-8")) for a in t["annotations"]]
    answers = [r["value"]["choices"][0] for a in found for r in a["result"]]
    assert len(found) == 10 and sum(a["was_cancelled"] for a in found) == 2
    assert set(answers) == {"good", "bad", "skip", "left", "right", "tie", "1", "4"}


def task(question, change):
    record = copy.deepcopy(json.loads((EXPORTS / f"{question}.json").read_text("utf-8"))[0])
    change(record)
    return [record]


def answer(record, value):
    record["annotations"][0]["result"][0]["value"] = value


WRONG = [
    ("good", lambda r: r.pop("data"), "lacks 'data'"),
    ("good", lambda r: r.pop("annotations"), "lacks 'annotations'"),
    ("good", lambda r: r.update(annotations=[7]), "annotations has 7: want objects"),
    ("good", lambda r: r["data"].pop("images"), "lacks 'images'"),
    ("good", lambda r: r["data"].update(question="nice"), "unknown question 'nice': one of good"),
    ("good", lambda r: r["data"].update(item="odd"), "unknown item 'odd': one of plain"),
    ("good", lambda r: r["data"].update(prompt="<script>x</script>"), "prompt has markup"),
    ("good", lambda r: r["data"].update(place_1="data:image/png;base64,AAAA"), "cannot be read as an image: want PNG"),
    ("good", lambda r: r["data"].update(place_1="data:image/png;base64,!"), "is no base64: want"),
    ("good", lambda r: r["data"].update(images=["f" * 64]), "other pixels than its digest says: want"),
    ("good", lambda r: r["data"].update(place_1="/data/upload/1/x.png"), "no image has the digest .* want one of the store"),
    ("good", lambda r: answer(r, {"choices": ["fine"]}), "want one of good, bad, skip"),
    ("good", lambda r: answer(r, {"choices": ["good", "bad"]}), "want one of good, bad, skip"),
    ("good", lambda r: answer(r, {"rating": 3}), "want one of good, bad, skip|want a row"),
    ("good", lambda r: r["annotations"][0].update(result=[]), "want one of good, bad, skip"),
    ("good", lambda r: r["annotations"].append(r["annotations"][0]), "has the rater, prompt and image of wrong.json, row 1"),
    ("good", lambda r: r["annotations"][0].update(lead_time="soon"), "seconds is 'soon': want a number"),
    ("good", lambda r: r["annotations"][0].update(created_at="soon"), "created_at is 'soon': want ISO 8601"),
    ("good", lambda r: (r["data"].pop("rater"), r["annotations"][0].pop("completed_by")), "completed_by is None: want"),
    ("good", lambda r: r["data"].update(rater=7), "rater is 7: want a text"),
    ("alignment", lambda r: r["data"].update(shown=["A", "A"]), "want the task as it was exported"),
    ("alignment", lambda r: r["data"].update(shown=[]), "want the task as it was exported"),
    ("best", lambda r: r["data"].update(shown=["0", "1", "2", "x"]), "want the task as it was exported"),
    ("best", lambda r: r["data"].update(images=r["data"]["images"][:3]), "want the task as it was exported"),
]


@pytest.mark.parametrize("question, change, words", WRONG)
def test_a_wrong_export_is_refused_in_one_line_and_changes_nothing(empty, tmp_path, question, change, words):
    (tmp_path / "wrong.json").write_text(json.dumps(task(question, change)), "utf-8")
    before = empty._db._db.serialize()
    with pytest.raises(ValueError, match=words) as refusal:
        import_file(empty, tmp_path / "wrong.json", "labelstudio")
    assert "\n" not in str(refusal.value) and str(refusal.value).startswith("wrong.json, row 1: ")
    assert empty._db._db.serialize() == before


def test_a_rater_who_is_not_named_goes_by_number(empty, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(task("good", lambda r: r["data"].pop("rater"))), "utf-8")
    import_file(empty, tmp_path / "x.json", "labelstudio")
    assert empty.rows().rater.tolist() == ["annotator-1"]


# ---- from the command line -----------------------------------------------------------------------------------------


def test_files_come_and_go_by_command(store, tmp_path):
    def run(*words):
        return carry_out(parse([str(w) for w in words]))

    whole = tmp_path / "whole.sqlite"
    assert run("import", whole, EXPORTS / "good.json", "--as", "labelstudio") == "4 new rows in whole.sqlite"
    assert run("merge", store.path, whole) == "4 new rows in answers.sqlite"
    assert run("merge", store.path, whole, whole) == "0 new rows in answers.sqlite"
    for form in ("parquet", "csv"):
        assert run("export", whole, tmp_path / form, "--as", form) == f"4 rows in {tmp_path / form}"
        assert run("import", tmp_path / f"{form}.sqlite", tmp_path / form, "--as", form) == f"4 new rows in {form}.sqlite"
    out = tmp_path / "out" / "labels.csv"
    assert run("export", whole, out, "--as", "labels", "--rater", "ann") == f"4 answers in {out}"
    assert run("import", tmp_path / "new.sqlite", out, "--as", "labels") == "4 new rows in new.sqlite"
    assert run("export", whole, tmp_path / "kto.csv", "--as", "kto") == f"4 answers in {tmp_path / 'kto.csv'}"
    assert run("import", tmp_path / "k.sqlite", tmp_path / "kto.csv", "--as", "kto", "--rater", "zoe").startswith("4 new")
    with Store.open(tmp_path / "k.sqlite") as k:
        assert set(k.rows().rater) == {"zoe"} and np.array_equal(k.pixels(DIGESTS[0]), PIXELS[0])


def test_a_command_that_asks_for_nothing_shows_what_there_is(capsys):
    assert parse([]).what is None and "merge STORE OTHER" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        parse(["export", "/nonexistent", "x", "--as", "csv"])
    assert "no store /nonexistent" in capsys.readouterr().err
