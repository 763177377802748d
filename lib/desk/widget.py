"""The labelling panel: a widget in which a person answers a session's questions, inside a notebook and without a server.

It is one anywidget (its browser side is widget.js and widget.css), for JupyterLab, VS Code and Colab. Images and prompts are
sent when a view asks for them and are no part of the widget's state, so that a saved notebook holds none.
"""

import base64
import math
from pathlib import Path

import anywidget
import numpy as np

from lib.feedback.pictures import png_of
from lib.feedback.sessions import Session
from lib.feedback.tasks import Question
from lib.images.sampling import image_digest


class LabellingPanel(anywidget.AnyWidget):
    """A view of a session. It shows an answer as given only once the store has it; a press that was meant for an earlier
    screen, or that comes twice, is not counted."""

    _esm = Path(__file__).with_name("widget.js")
    _css = Path(__file__).with_name("widget.css")

    def __init__(self, session: Session):
        super().__init__()
        self.session, self._ticket = session, 0
        self.on_msg(lambda _, message, buffers: self.receive(message))

    def receive(self, message: dict) -> None:
        """What a view says: it is `ready`, or a person gave an `answer` or wants to `undo`; answered by what to show."""
        said = ""
        try:
            if message.get("ticket") == self._ticket:
                said = self._do(message)
        except (OSError, ValueError) as error:
            said = f"Not saved: {error}"
            self.session.refresh()
        self._ticket += message.get("kind") != "ready"
        self.send(shown(self.session) | {"ticket": self._ticket, "said": said})

    def _do(self, message: dict) -> str:
        if message["kind"] == "answer":
            self.session.answer(message["place"], message["choice"], message["seconds"])
            return "Saved."
        if message["kind"] == "undo":
            return "Undone." if self.session.undo() else "There is nothing to undo."
        return ""


def shown(session: Session) -> dict:
    """What a view needs: how far the session is, in words, and its screen (None: all is answered)."""
    answered, of = session.progress
    agreement = [f"same as {who}: {same} of {both}" for who, (same, both) in session.agreement.items() if both]
    return {
        "rater": session.rater, "answered": answered, "of": of, "left": _left(session.seconds_left),
        "agreement": "; ".join(agreement), "screen": session.screen and _screen(session, session.screen),
    }  # fmt: skip


def _left(seconds: float | None) -> str:
    if not seconds:
        return ""
    return f"about {math.ceil(seconds / 60)} min left" if seconds > 60 else "less than 1 min left"


def _screen(session: Session, screen: tuple[Question, ...]) -> dict:
    """What is asked, and the images in groups that a choice is about: an image each, or two sets."""
    given = [session.chosen(q) for q in screen]
    place = given.index(None)
    return {
        "question": screen[place].question, "prompt": screen[place].prompt, "given": given, "open": place,
        "groups": [[_source(session.pixels(digest)) for digest in group] for group in _groups(screen)],
        "side": max(session.pixels(digest).shape[1] for q in screen for digest in q.images),
    }  # fmt: skip


def _groups(screen: tuple[Question, ...]) -> list[list[str]]:
    if screen[0].question == "good":
        return [list(q.images) for q in screen]
    images = screen[0].images
    half = len(images) // 2
    places = {"A": images[:half], "B": images[half:]} | {str(i): [digest] for i, digest in enumerate(images)}
    return [list(places[place]) for place in screen[0].shown]


def _source(pixels: np.ndarray) -> str:
    return "data:image/png;base64," + base64.b64encode(png_of(image_digest(pixels), pixels)).decode()
