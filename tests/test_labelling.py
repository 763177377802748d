"""The labelling panel without a browser: what it shows, that no press counts twice, and what is there without a person."""

import base64
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from test_tasks import TEXTS, images

from lib.desk import labelling, widget
from lib.feedback import sessions, tasks
from lib.feedback.store import Store
from lib.ground.paths import ROOT

WORK = tasks.to_label(images(TEXTS[:6], 3), checks=0)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "answers.sqlite") as opened:
        yield opened


class View:
    """A view's side of the conversation, which keeps the last message."""

    def __init__(self, panel, monkeypatch):
        self.panel, self.heard = panel, []
        monkeypatch.setattr(panel, "send", lambda message: self.heard.append(json.loads(json.dumps(message))))

    def says(self, kind, **more):
        self.panel.receive({"kind": kind, "ticket": self.heard[-1]["ticket"] if self.heard else None} | more)
        return self.heard[-1]


def opened(store, monkeypatch, work=WORK, **options):
    return View(widget.LabellingPanel(sessions.Session(store, "ann", work, again=0, **options)), monkeypatch)


def answer(choice="good", place=0, seconds=1.5):
    return dict(choice=choice, place=place, seconds=seconds)


def digests(group):
    """The images that a group shows, by the digest of their pixels."""
    found = []
    for source in group:
        kind, content = source.split(",")
        assert kind == "data:image/png;base64"
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
        found.append(widget.image_digest(pixels))
    return found


def test_a_view_that_opens_is_shown_where_the_session_is(store, monkeypatch):
    view = opened(store, monkeypatch)
    told = view.says("ready")
    assert (told["answered"], told["of"], told["rater"], told["left"], told["agreement"]) == (0, 18, "ann", "", "")
    screen = told["screen"]
    assert (screen["question"], screen["given"], screen["open"], screen["side"]) == ("good", [None] * 3, 0, 8)
    assert [digests(g) for g in screen["groups"]] == [list(q.images) for q in view.panel.session.screen]


def test_an_answer_is_kept_and_shown(store, monkeypatch):
    view = opened(store, monkeypatch)
    first = view.says("ready")
    told = view.says("answer", **answer("bad"))
    assert told["said"] == "Saved." and told["answered"] == 1
    assert told["screen"]["given"] == ["bad", None, None] and told["screen"]["open"] == 1
    (row,) = store.rows().itertuples()
    assert (row.value, row.seconds, row.prompt) == ("bad", 1.5, first["screen"]["prompt"])
    assert list(row.images) == digests(first["screen"]["groups"][0])


def test_a_press_that_comes_twice_or_too_late_counts_once(store, monkeypatch):
    view = opened(store, monkeypatch)
    ticket = view.says("ready")["ticket"]
    for _ in range(3):
        view.says("answer", ticket=ticket, **answer())
    assert len(store.rows(current=False)) == 1
    assert view.says("undo", ticket=ticket)["answered"] == 1
    assert view.says("undo")["answered"] == 0


def test_a_second_view_disturbs_no_press(store, monkeypatch):
    view = opened(store, monkeypatch)
    before = view.says("ready")["ticket"]
    assert view.says("ready", ticket=None)["ticket"] == before
    assert view.says("answer", ticket=before, **answer())["answered"] == 1


def test_undo_says_what_it_did(store, monkeypatch):
    view = opened(store, monkeypatch)
    view.says("ready")
    assert view.says("undo")["said"] == "There is nothing to undo."
    view.says("answer", **answer())
    assert view.says("undo")["said"] == "Undone." and len(store.rows()) == 0


@pytest.mark.parametrize("error", [OSError("the disk is full"), TimeoutError("another process holds it")])
def test_what_cannot_be_kept_is_said_and_not_shown_as_given(store, monkeypatch, error):
    view = opened(store, monkeypatch)
    view.says("ready")
    with monkeypatch.context() as patch:
        patch.setattr(store, "add_all", lambda *_: (_ for _ in ()).throw(error))
        told = view.says("answer", **answer())
    assert told["said"] == f"Not saved: {error}" and told["screen"]["given"] == [None] * 3
    assert view.says("answer", **answer())["said"] == "Saved."


def test_an_answer_given_in_another_window_is_shown_after_the_next_press(store, monkeypatch):
    view = opened(store, monkeypatch)
    view.says("ready")
    sessions.Session(store, "ann", WORK, again=0).answer(0, "bad")
    told = view.says("answer", **answer("good"))
    assert told["said"].startswith("Not saved: ") and told["screen"]["given"] == ["bad", None, None]


def test_a_comparison_shows_two_sets_and_one_question_at_a_time(store, monkeypatch):
    work = tasks.to_compare(images(TEXTS[:2]), images(TEXTS[:2], stream="tuned"), 0)
    view = opened(store, monkeypatch, work)
    first = view.says("ready")["screen"]
    assert first["question"] == "alignment" and [len(g) for g in first["groups"]] == [4, 4]
    second = view.says("answer", **answer("first"))["screen"]
    assert second["question"] == "fidelity" and second["groups"] == first["groups"]
    view.says("answer", **answer("tie", 1))
    rows = store.rows()
    side = list(rows.images[0][:4]) if rows.value[0] == "A" else list(rows.images[0][4:])
    assert sorted(digests(first["groups"][0])) == sorted(side) and rows.value[1] == "tie"


def test_the_best_image_is_the_one_that_was_shown_there(store, monkeypatch):
    view = opened(store, monkeypatch, tasks.to_choose(images(TEXTS[:2]), 0))
    shown = view.says("ready")["screen"]
    assert [len(g) for g in shown["groups"]] == [1] * 4
    view.says("answer", **answer("2"))
    (row,) = store.rows().itertuples()
    assert [row.images[int(row.value)]] == digests(shown["groups"][2])


def test_the_end_has_no_screen_and_time_and_agreement_are_told_in_words(store, monkeypatch):
    others = {q.about: "good" for s in WORK.screens for q in s}
    view = opened(store, monkeypatch, verdicts={"the panel": others})
    view.says("ready")
    for i in range(18):
        told = view.says("answer", **answer("good", i % 3, 30.0))
        if i == 9:
            assert (told["left"], told["agreement"]) == ("about 4 min left", "same as the panel: 10 of 10")
        if i == 16:
            assert told["left"] == "less than 1 min left"
    assert told["screen"] is None and told["answered"] == 18 and told["left"] == ""


def test_no_image_and_no_prompt_is_part_of_the_state_that_a_notebook_saves(store, monkeypatch):
    view = opened(store, monkeypatch)
    view.says("ready")
    state = json.dumps({k: v for k, v in view.panel.get_state().items() if k != "layout"}, default=str)
    assert "data:image/png;base64,iV" not in state and not any(text in state for text in TEXTS[:6])


def test_its_browser_side_writes_text_only_as_text_and_fetches_nothing():
    for name in ("widget.js", "widget.css"):
        code = (ROOT / "lib" / "desk" / name).read_text("utf-8")
        for wrong in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "://", "@import", "fetch("):
            assert wrong not in code, f"{name} has {wrong}"
        assert len(code.splitlines()) <= 250 and max(map(len, code.splitlines())) <= 125


def test_without_a_person_there_is_a_line_about_the_store_and_no_new_file(tmp_path):
    path = tmp_path / "mine.sqlite"
    assert "Nobody has answered yet (there is no mine.sqlite)" in labelling.panel(path, "ann", WORK).data
    assert list(tmp_path.iterdir()) == []
    with Store.open(path) as store:
        for rater in ("ann", "ben", "ben"):
            session = sessions.Session(store, rater, WORK)
            session.answer([session.given(q) for q in session.screen].index(None), "good")
    assert labelling.panel(path, "ann", WORK).data == "mine.sqlite holds 3 answers, 1 of ann, 2 of ben."


NOTEBOOK = """
import nbformat, nbclient, sys
cell = nbformat.v4.new_code_cell("from lib.desk import labelling; print(labelling.live())")
book = nbformat.v4.new_notebook(cells=[cell])
nbclient.NotebookClient(book, kernel_name="python3", timeout=600, startup_timeout=600).execute()
print(book.cells[0].outputs[0]["text"])
"""


def test_nobody_is_there_when_a_program_runs_the_notebook():
    run = subprocess.run([sys.executable, "-c", NOTEBOOK], env=os.environ | {"PYTHONPATH": str(ROOT)},
                         capture_output=True, text=True, check=True)  # fmt: skip
    assert run.stdout.strip() == "False"


def test_a_machine_that_only_computes_needs_no_widgets():
    code = "import sys, lib.desk.labelling; print('anywidget' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
                         capture_output=True, text=True, check=True)  # fmt: skip
    assert run.stdout.strip() == "False"
