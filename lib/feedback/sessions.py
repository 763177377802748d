"""Labelling sessions: what one rater is asked, in which order, and what they have answered; no browser takes part.

Each rater sees the screens in an order of their own, images and sides in random places, and some screens again later. What
the store holds is not asked again, so a session goes on where it stopped. It knows others' verdicts only to say how often
they were the same as the rater's, for ten answers at a time, so that none shows before an answer nor just after it.
"""

import statistics
from collections.abc import Mapping

import numpy as np

from lib.feedback.answers import UNDONE, Answer
from lib.feedback.store import Store
from lib.feedback.tasks import Question, Tasks, placed
from lib.ground.domains import fits, wanted
from lib.ground.seeds import rng_of, seed_of

GAP = 5  # screens, at least, between a screen and its repetition
STEP = 10  # answers after which agreement is told anew
RECENT = 30  # answers from whose median time the time left is told
SHARE = "in [0, 1]"


class Session:
    """One rater's way through tasks, kept in a store.

    `again` is the share of screens that come again, in [0, 1]; another `seed` draws another order. `verdicts` are others'
    answers by who gave them and what they are about (`Question.about`), with which the rater's are compared.
    """

    def __init__(
        self, store: Store, rater: str, tasks: Tasks, *, again: float = 0.1, seed: int = 0,
        verdicts: Mapping[str, Mapping[tuple, str]] | None = None,
    ):  # fmt: skip
        if not fits(again, float, SHARE):
            raise ValueError(f"again = {again!r} is not {wanted(float, SHARE)}")
        if not tasks.screens:
            raise ValueError("no screens: a session needs at least one image to ask about")
        self.store, self.rater, self.verdicts = store, rater, dict(verdicts or {})
        self._pictures = tasks.pictures
        self._screens = in_order(tasks.screens, again, rng_of(seed_of("session", rater, seed)))
        self._at = {_key(q): place for place, screen in enumerate(self._screens) for q in screen}
        self._turned_to: int | None = None  # a screen that undoing has opened
        self.refresh()

    def refresh(self) -> None:
        """Read from the store what the rater has answered, perhaps in another window."""
        self._given: dict[tuple, tuple[str, str, float]] = {}  # id, value and seconds by key, in the order of answers
        for row in self.store.rows(rater=self.rater).itertuples():
            if (key := (row.question, row.prompt, tuple(row.images), row.item)) in self._at:
                self._note(key, row.id, row.value, row.seconds)

    def _note(self, key: tuple, id: str, value: str, seconds: float) -> None:
        self._given.pop(key, None)  # a corrected answer is the latest
        self._given[key] = id, value, seconds

    # ---- what is asked ---------------------------------------------------------------------------------------------

    @property
    def screen(self) -> tuple[Question, ...] | None:
        """The screen to show, with a question that is open; None if all is answered."""
        turned = [] if self._turned_to is None else [self._screens[self._turned_to]]
        return next((s for s in (*turned, *self._screens) if any(not self.given(q) for q in s)), None)

    def given(self, question: Question) -> str | None:
        """The value that the rater gave, None if the question is open."""
        return self._given[_key(question)][1] if _key(question) in self._given else None

    def chosen(self, question: Question) -> str | None:
        """What the rater chose, as one of `choices`; None if the question is open."""
        value = self.given(question)
        return next((c for c in choices(question) if value_of(question, c) == value), None)

    def pixels(self, digest: str) -> np.ndarray:
        """An image of the session: uint8 [height, width, 3]."""
        return self._pictures[digest][1]

    # ---- what is answered ------------------------------------------------------------------------------------------

    def answer(self, place: int, choice: str, seconds: float | None = None) -> str:
        """Keep the answer to one of the screen's questions, counted from 0; returns its id when it is durable.

        `choice` is one of `choices`. An answer to a question that has one corrects it. Raises ValueError if there is no such
        question or choice, and the store's errors if it could not be kept; nothing has changed then.
        """
        screen = self.screen or ()
        if place not in range(len(screen)):
            raise ValueError(f"there is no question {place}: the screen has {len(screen)}, counted from 0")
        question = screen[place]
        before, value = self._given.get(_key(question)), value_of(question, choice)
        answer = Answer(self.rater, *question.about, value, question.shown, seconds, question.item, before and before[0])
        pictures = [(digest, *self._pictures[digest]) for digest in dict.fromkeys(question.images)]
        self.store.add_all([*pictures, answer])
        self._note(_key(question), answer.id, value, answer.seconds)
        return answer.id

    def undo(self) -> Question | None:
        """Take back the latest answer and turn to its screen; returns its question, None if there is no answer."""
        if not self._given:
            return None
        key = next(reversed(self._given))
        place = self._at[key]
        question = next(q for q in self._screens[place] if _key(q) == key)
        self.store.add(rater=self.rater, question=question.question, prompt=question.prompt, images=question.images,
                       value=UNDONE, shown=question.shown, item=question.item, replaces=self._given[key][0])  # fmt: skip
        del self._given[key]
        self._turned_to = place
        return question

    # ---- how far it is ---------------------------------------------------------------------------------------------

    @property
    def progress(self) -> tuple[int, int]:
        """How many questions are answered, and how many there are."""
        return len(self._given), len(self._at)

    @property
    def seconds_left(self) -> float | None:
        """What the open questions will take at the median time of recent answers; None before the fifth."""
        recent = [s for _, _, s in list(self._given.values())[-RECENT:] if s is not None and s == s]
        answered, of = self.progress
        return (of - answered) * statistics.median(recent) if len(recent) >= 5 else None

    @property
    def agreement(self) -> dict[str, tuple[int, int]]:
        """With whom of `verdicts`, and with `yourself` on what came again: how many answers are the same, of how many.

        Only what both answered, without skips and checks; of all but the last up to nine answers.
        """
        told = list(self._given.items())[: len(self._given) // STEP * STEP]
        mine = {key: value for key, (_, value, _) in told if value != "skip"}
        first = {key[:3]: value for key, value in mine.items() if key[3] == "plain"}
        again = {key[:3]: value for key, value in mine.items() if key[3] == "repeat"}
        pairs = {who: (said, first) for who, said in self.verdicts.items()} | {"yourself": (first, again)}
        found = {}
        for who, (theirs, ours) in pairs.items():
            both = [(theirs[about], value) for about, value in ours.items() if theirs.get(about, "skip") != "skip"]
            found[who] = sum(a == b for a, b in both), len(both)
        return found


def _key(question: Question) -> tuple:
    return *question.about, question.item


def choices(question: Question) -> tuple[str, ...]:
    """What a rater may choose, in terms of what is shown: places on the screen count from 0."""
    if question.question == "best":
        return *map(str, range(len(question.images))), "skip"
    return ("good", "bad", "skip") if question.question == "good" else ("first", "second", "tie")


def value_of(question: Question, choice: str) -> str:
    """The value that the store keeps for a choice: images and sides by their true place, not by that on the screen."""
    if choice not in choices(question):
        raise ValueError(f"unknown choice {choice!r} of {question.question!r}: one of {', '.join(choices(question))}")
    if choice in ("first", "second"):
        return question.shown[choice == "second"]
    return question.shown[int(choice)] if choice.isdigit() else choice


def in_order(screens: list[tuple[Question, ...]], again: float, rng: np.random.Generator) -> list[tuple[Question, ...]]:
    """All screens in random order, and a share of them again without their checks, later by GAP screens or more where
    there are so many."""
    shuffled, end = [screens[i] for i in rng.permutation(len(screens))], len(screens)
    timed = [(float(when), placed(screen, rng)) for when, screen in enumerate(shuffled)]
    plain = [(when, tuple(q for q in screen if q.item == "plain")) for when, screen in enumerate(shuffled)]
    plain = [(when, screen) for when, screen in plain if screen]
    early = [(when, screen) for when, screen in plain if when + GAP < end] or plain
    for i in rng.permutation(len(early))[: round(again * len(plain))]:
        when, screen = early[i]
        timed.append((rng.uniform(min(when + GAP, end), end), placed(screen, rng, "repeat")))
    return [screen for _, screen in sorted(timed, key=lambda pair: pair[0])]
