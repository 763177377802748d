"""A rater's session: random but resumable, blind, undone and corrected without loss, and no answer asked for twice."""

import re
from collections import Counter

import numpy as np
import pytest
from test_tasks import TEXTS, images

from lib.feedback import sessions, tasks
from lib.feedback.sessions import Session
from lib.feedback.store import Store
from lib.images.sampling import image_digest


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "answers.sqlite") as opened:
        yield opened


LABELS = tasks.to_label(images(each=3), checks=0.05)
PAIRS = tasks.to_compare(images(), images(stream="tuned"), checks=0.1)
CHOICES = tasks.to_choose(images(), checks=0.1)


def answered(session, count=None, choose=lambda q: sessions.choices(q)[0], seconds=2.0):
    """Answer open questions in the order shown; the list of (question, choice)."""
    said = []
    while session.screen and (count is None or len(said) < count):
        place = [session.given(q) for q in session.screen].index(None)
        question = session.screen[place]
        session.answer(place, choice := choose(question), seconds)
        said.append((question, choice))
    return said


@pytest.mark.parametrize("work", [LABELS, PAIRS, CHOICES], ids=["label", "compare", "choose"])
def test_all_is_asked_once_and_the_store_holds_what_was_said(store, work):
    rng = np.random.default_rng(0)
    session = Session(store, "ann", work, again=0.1)
    said = answered(session, choose=lambda q: str(rng.choice(sessions.choices(q))))
    assert session.screen is None and session.progress == (len(said), len(said))
    rows = store.rows(current=False)
    kept = [(r.question, r.prompt, r.images, r.item, r.value) for r in rows.itertuples()]
    assert kept == [(*q.about, q.item, sessions.value_of(q, choice)) for q, choice in said]
    assert [r.shown for r in rows.itertuples()] == [q.shown for q, _ in said]
    assert set(rows.rater) == {"ann"} and set(rows.seconds) == {2.0}
    asked = Counter(q.item for q, _ in said)
    assert asked["plain"] == sum(q.item == "plain" for s in work.screens for q in s)
    assert asked["check"] == sum(q.item == "check" for s in work.screens for q in s) > 0 < asked["repeat"]
    for digest in {d for q, _ in said for d in q.images}:
        assert image_digest(store.pixels(digest)) == digest


def test_each_rater_has_an_order_of_their_own_which_a_seed_changes_and_nothing_else(store):
    def order(rater, **options):
        return [q for screen in Session(store, rater, LABELS, **options)._screens for q in screen]

    assert order("ann") == order("ann") != order("ben")
    assert order("ann", seed=1) != order("ann")
    assert {q.about for q in order("ann")} == {q.about for q in order("ben")}
    assert order("ann")[0].prompt != LABELS.screens[0][0].prompt or order("ben")[0].prompt != LABELS.screens[0][0].prompt


def test_some_screens_come_again_later_and_shuffled_without_their_checks():
    screens = sessions.in_order(LABELS.screens, 0.3, np.random.default_rng(0))
    first = {screen[0].about: i for i, screen in enumerate(screens) if screen[0].item != "repeat"}
    where = {frozenset(q.about for q in s if q.item == "plain"): i for i, s in enumerate(screens) if s[0].item != "repeat"}
    again = [(i, screen) for i, screen in enumerate(screens) if screen[0].item == "repeat"]
    assert len(again) == round(0.3 * len(LABELS.screens)) and len(first) == len(LABELS.screens)
    for i, screen in again:
        assert {q.item for q in screen} == {"repeat"}
        assert i - where[frozenset(q.about for q in screen)] >= sessions.GAP
    assert len({frozenset(q.about for q in screen) for _, screen in again}) == len(again)


def test_a_short_session_repeats_at_its_end():
    screens = sessions.in_order(LABELS.screens[:2], 1.0, np.random.default_rng(0))
    assert [s[0].item == "repeat" for s in screens] == [False, False, True, True]


def test_a_session_goes_on_where_it_stopped(store):
    whole = [q for screen in Session(store, "ann", LABELS)._screens for q in screen]
    said = answered(Session(store, "ann", LABELS), 7)
    resumed = Session(store, "ann", LABELS)
    assert resumed.progress[0] == 7
    assert [q for q, _ in said + answered(resumed)] == whole
    assert Session(store, "ann", LABELS).screen is None
    assert Session(store, "ben", LABELS).progress[0] == 0


def test_what_was_answered_is_not_asked_again_among_more_images(store):
    answered(Session(store, "ann", tasks.to_label(images(TEXTS[:3], 3), 0), again=0))
    more = Session(store, "ann", tasks.to_label(images(TEXTS[:4], 3), 0), again=0)
    assert more.progress == (9, 12) and all(q.prompt == TEXTS[3] for q, _ in answered(more))


def test_undo_takes_back_the_latest_answer_and_turns_to_it_even_after_a_restart(store):
    session = Session(store, "ann", LABELS)
    said = answered(session, 4, lambda q: "bad")
    assert session.undo() == said[-1][0] and session.progress[0] == 3
    session = Session(store, "ann", LABELS)
    assert session.undo() == said[-2][0]
    assert said[-2][0] in session.screen and session.given(said[-2][0]) is None
    assert [q for q, _ in answered(session, 2, lambda q: "good")] == [q for q, _ in said[-2:]]
    assert store.rows().value.tolist() == ["bad", "bad", "good", "good"]
    assert store.rows(current=False).value.tolist() == ["bad"] * 4 + ["undone"] * 2 + ["good"] * 2


def test_undo_with_no_answer_does_nothing(store):
    assert Session(store, "ann", LABELS).undo() is None and len(store.rows(current=False)) == 0


def test_undone_answers_are_turned_to_before_other_open_screens(store):
    few, many = (tasks.to_label(images(TEXTS[:n], 3), 0) for n in (4, 8))
    answered(Session(store, "ann", few, again=0))
    session = Session(store, "ann", many, again=0)
    undone = session.undo()
    assert undone in session.screen
    answered(session, 1)
    assert undone not in session.screen


def test_an_answer_to_a_question_that_has_one_corrects_it(store):
    session = Session(store, "ann", tasks.to_label(images(each=3), 0))
    screen = session.screen
    session.answer(0, "good")
    session.answer(1, "skip")
    session.answer(0, "bad")
    assert [session.given(q) for q in screen] == ["bad", "skip", None]
    assert store.rows().value.tolist() == ["skip", "bad"] and session.progress[0] == 2
    assert session.undo() == screen[0] and session.undo() == screen[1] and session.progress[0] == 0
    assert len(store.rows()) == 0 and len(store.rows(current=False)) == 5


def test_an_answer_from_another_window_is_seen_after_a_refresh(store):
    here, there = Session(store, "ann", LABELS), Session(store, "ann", LABELS)
    there.answer(0, "good")
    with pytest.raises(ValueError, match="has answered 'good'"):
        here.answer(0, "bad")
    here.refresh()
    assert here.given(here.screen[0]) == "good"


@pytest.mark.parametrize("work", [PAIRS, CHOICES], ids=["compare", "choose"])
def test_choices_are_kept_by_true_place_and_shown_by_place_on_the_screen(store, work):
    session = Session(store, "ann", work, again=0)
    places = Counter()
    while screen := session.screen:
        place = [session.given(q) for q in screen].index(None)
        question = screen[place]
        for choice in sessions.choices(question):
            value = sessions.value_of(question, choice)
            if choice.isdigit():
                assert value == question.shown[int(choice)]
            elif choice in ("first", "second"):
                assert value == question.shown[0 if choice == "first" else 1]
                places[choice, value] += 1
        session.answer(place, sessions.choices(question)[1])
        assert session.chosen(question) == sessions.choices(question)[1]
    assert work is CHOICES or min(places.values()) > 0 and len(places) == 4


@pytest.mark.parametrize(
    "place, choice, words",
    [(3, "good", "there is no question 3: the screen has"), (-1, "good", "no question -1"),
     (0, "A", "unknown choice 'A' of 'good': one of good, bad, skip"), (0, "0", "unknown choice '0'"),
     ("0", "good", "no question 0")],
)  # fmt: skip
def test_a_wrong_answer_is_refused_and_changes_nothing(store, place, choice, words):
    session = Session(store, "ann", tasks.to_label(images(each=3), 0))
    with pytest.raises(ValueError, match=re.escape(words)):
        session.answer(place, choice)
    assert session.progress[0] == 0 and len(store.rows(current=False)) == 0


def test_there_are_two_images_to_choose_from_where_two_are_shown(store):
    session = Session(store, "ann", tasks.to_choose(images(each=2), 0))
    assert sessions.choices(session.screen[0]) == ("0", "1", "skip")
    with pytest.raises(ValueError, match="unknown choice '2'"):
        session.answer(0, "2")


def test_an_answer_that_cannot_be_kept_is_not_given(store, monkeypatch):
    session = Session(store, "ann", LABELS)

    def full(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(store, "add_all", full)
    with pytest.raises(OSError, match="full"):
        session.answer(0, "good")
    assert session.progress[0] == 0 and session.given(session.screen[0]) is None


@pytest.mark.parametrize("again", [-0.1, 1.5, "all", True])
def test_a_share_outside_its_domain_is_refused(store, again):
    with pytest.raises(ValueError, match=r"^again = .* is not a number in \[0, 1\]"):
        Session(store, "ann", LABELS, again=again)


def test_no_screens_are_refused(store):
    with pytest.raises(ValueError, match="at least one image"):
        Session(store, "ann", tasks.Tasks([], {}))


def test_time_left_is_the_median_times_what_is_open(store):
    session = Session(store, "ann", LABELS)
    answered(session, 4)
    assert session.seconds_left is None
    answered(session, 1, seconds=600.0)  # away for ten minutes
    done, of = session.progress
    assert session.seconds_left == 2.0 * (of - done)
    assert Session(store, "ann", LABELS).seconds_left == session.seconds_left


def test_agreement_is_told_for_ten_answers_at_a_time_without_skips_checks_and_what_others_did_not_say(store):
    work = tasks.to_label(images(each=3), checks=0)
    others = {q.about: "good" for s in work.screens for q in s}
    session = Session(store, "ann", work, again=0, verdicts={"judge-a": others})
    said = answered(session, 9, lambda q: "good")
    assert session.agreement == {"judge-a": (0, 0), "yourself": (0, 0)}
    said += answered(session, 1, lambda q: "skip")
    assert session.agreement["judge-a"] == (9, 9)
    answered(session, 9, lambda q: "bad")
    assert session.agreement["judge-a"] == (9, 9)
    answered(session, 1, lambda q: "bad")
    assert session.agreement["judge-a"] == (9, 19)
    others[said[0][0].about], others[said[1][0].about] = "skip", "bad"
    del others[said[2][0].about]
    assert session.agreement["judge-a"] == (6, 17)


def test_agreement_with_oneself_is_of_what_came_again(store):
    session = Session(store, "ann", LABELS, again=0.5)
    said = answered(session, choose=lambda q: "bad" if q.item == "repeat" and q.prompt == TEXTS[0] else "good")
    told = {q.about for q, _ in said[: len(said) // 10 * 10] if q.item == "repeat"}
    differ = sum(q[1] == TEXTS[0] for q in told)
    assert session.agreement == {"yourself": (len(told) - differ, len(told))}
