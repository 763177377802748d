"""What a person answers: four questions about images of one prompt, and one schema for every row of the store."""

import functools
import math
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from numbers import Real

import pandas as pd

from lib.ground.paths import ROOT
from lib.ground.source import own_fingerprint

# `good` is about one image (Lee et al. 2023, section 3.1); in `alignment` and `fidelity` side A is the first half of the
# images and side B the second (appendix C); `best` is one of two or more images (Wu et al. 2023). Nobody is asked the last
# two here, but other campaigns have them: `preference` compares sides as a whole; `rank` is a whole number an image, lower
# is better and equal is a tie.
QUESTIONS = {
    "good": "good, bad or skip",
    "alignment": "A, B, tie or skip",
    "fidelity": "A, B, tie or skip",
    "best": "the number of an image from 0, or skip",
    "preference": "A, B, tie or skip",
    "rank": "a rank an image, such as '1 2 2', or skip",
}
UNDONE = "undone"  # the value of a row that takes another back
ITEMS = ("plain", "repeat", "check")  # a repeat measures a rater against themself, a check has a known answer
PROMPT, NAME = 10_000, 200  # the longest prompt and the longest other text, in characters


def now() -> str:
    """The time in UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@functools.cache
def software() -> str:
    """The study's version and a digest of the code that checks and keeps answers."""
    (version,) = re.findall(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.M)
    return f"human-feedback {version}, store {own_fingerprint('lib.feedback.store')[:12]}"


@dataclass(frozen=True)
class Answer:
    """One row of the store. Raises ValueError that says which field is wrong and what would be right."""

    rater: str  # who answered; no names of people
    question: str  # one of QUESTIONS
    prompt: str  # what was asked of the images
    images: tuple[str, ...]  # SHA-256 of the uint8 pixels of each
    value: str  # as QUESTIONS tells; sides are the true ones, not left and right
    shown: tuple[str, ...] = ()  # how they were placed: sides or positions, in the order of the screen
    seconds: float | None = None  # from the question's appearance to the answer; None: not known
    item: str = "plain"  # one of ITEMS
    replaces: str | None = None  # the id of the row that this one corrects or takes back
    time: str = field(default_factory=now)  # ISO 8601, UTC; empty: not known
    software: str = field(default_factory=software)  # what recorded it
    id: str = field(default_factory=lambda: uuid.uuid4().hex)  # the same in every store that holds the row

    def __post_init__(self):
        for name in ("images", "shown"):
            object.__setattr__(self, name, tuple(map(str, getattr(self, name))))
        object.__setattr__(self, "value", str(self.value))
        if isinstance(self.seconds, Real):
            object.__setattr__(self, "seconds", float(self.seconds))
        for name, limit in (("rater", NAME), ("prompt", PROMPT), ("software", NAME)):
            plain_text(name, getattr(self, name), limit)
        for text in self.shown:
            plain_text("shown", text, NAME)
        self._check_forms()
        check_value(self.question, self.value, len(self.images))
        if self.value == UNDONE and self.replaces is None:
            raise ValueError(f"the value {UNDONE!r} takes back a row: want `replaces` to name it")

    def _check_forms(self) -> None:
        if self.item not in ITEMS:
            raise ValueError(f"unknown item {short(self.item)}: one of {', '.join(ITEMS)}")
        if self.seconds is not None and not (isinstance(self.seconds, float) and 0 <= self.seconds < math.inf):
            raise ValueError(f"seconds is {short(self.seconds)}: want a number of 0 or more")
        if self.time and not _is_utc(self.time):
            raise ValueError(f"time is {short(self.time)}: want ISO 8601 in UTC, such as 2023-02-23T12:00:00Z")
        for name, texts, digits in (("image", self.images, 64), ("id", (self.id,), 32), ("replaces", (self.replaces,), 32)):
            for text in texts:
                if not (re.fullmatch(f"[0-9a-f]{{{digits}}}", text or "") or name == "replaces" and text is None):
                    raise ValueError(f"{name} is {short(text)}: want {digits} hexadecimal digits")


COLUMNS = tuple(f.name for f in fields(Answer))


def tabled(answers: Iterable[Answer]) -> pd.DataFrame:
    """A table of answers, one a row, with the columns of `Answer`; unknown seconds are NaN."""
    return pd.DataFrame([vars(a) for a in answers], columns=COLUMNS).astype({"seconds": float})


def answers_of(table: pd.DataFrame) -> Iterator[Answer]:
    """The answers of a table that `tabled` made."""
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        yield Answer(**row)


def standing(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that stand: without those that another row replaces, and without what was taken back.

    Of several plain answers of one rater to one question, which only merged files can hold, the latest stands.
    """
    ends = table[~table.id.isin(table.replaces.dropna())].sort_values("time", kind="stable")
    plain = ends[ends["item"] == "plain"]
    earlier = plain[plain.duplicated(["rater", "question", "prompt", "images"], keep="last")]
    kept = ends.drop(earlier.index)
    return kept[kept.value != UNDONE].sort_index().reset_index(drop=True)


def short(value: object) -> str:
    """A value as an error shows it: in one line, and not all of it if it is long."""
    return repr(value if len(str(value)) <= 80 else str(value)[:80])


def plain_text(name: str, text: object, limit: int = NAME) -> str:
    """`text` unchanged, if it is not empty, not long, and shows as what it is on a page. Raises ValueError otherwise."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{name} is {short(text)}: want a text that is not empty")
    if len(text) > limit:
        raise ValueError(f"{name} has {len(text):,} characters, beginning {text[:20]!r}: want at most {limit:,}")
    if markup := re.search(r"<[A-Za-z/!?]", text):
        raise ValueError(f"{name} has markup at {text[markup.start() :][:20]!r}: want plain text, without '<'")
    if strange := re.search("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufeff\ufffd\u202a-\u202e]", text):
        raise ValueError(f"{name} has the unprintable character {strange[0]!a}: want plain text, read as UTF-8")
    return text


def check_value(question: str, value: str, images: int) -> None:
    """Raise ValueError unless the value answers the question on that number of images."""
    if question not in QUESTIONS:
        raise ValueError(f"unknown question {short(question)}: one of {', '.join(QUESTIONS)}")
    wanted = {"good": images == 1, "best": images > 1, "rank": images > 1}.get(question, images > 1 and images % 2 == 0)
    if not wanted:
        number = {"good": "one", "best": "two or more", "rank": "two or more"}.get(question, "an even number of them")
        raise ValueError(f"the question {question!r} is about {images} images: want {number}")
    if value not in ("skip", UNDONE) and not _answers(question, value, images):
        raise ValueError(f"unknown value {short(value)} of {question!r} on {images} images: want {QUESTIONS[question]}")


def _answers(question: str, value: str, images: int) -> bool:
    if question == "good":
        return value in ("good", "bad")
    if question == "best":
        return value in map(str, range(images))
    if question == "rank":
        return bool(re.fullmatch(r"(0|[1-9]\d{0,3})( (0|[1-9]\d{0,3}))*", value, re.A)) and value.count(" ") == images - 1
    return value in ("A", "B", "tie")


def _is_utc(text: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", text, re.A):
        return False
    try:
        return datetime.fromisoformat(text).year >= 1970
    except ValueError:
        return False
