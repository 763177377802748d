"""The store of people's answers: one SQLite file of answers and of the images that they are about.

A row is acknowledged only when it is on the disk (WAL, synchronous=FULL), and is never changed or deleted: a correction is a
new row that names the one it replaces. Several processes may write at once. Images are kept in the same file, as PNG by the
digest of their pixels, so that no answer can be without its images and one file is all that a rater hands over.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pandas as pd

from lib.feedback.answers import COLUMNS, PROMPT, UNDONE, Answer, plain_text, standing, tabled
from lib.feedback.pictures import pixels_of, png_of
from lib.ground.database import Database

KIND, VERSION = 0x4C61_6265, 1  # mark the file as a store of labels
IMAGES = ("digest", "stream", "prompt", "number", "png")
_ANSWERS, _IMAGES = (", ".join(names) for names in (COLUMNS, IMAGES))
_ONLY_GROWS = "a store of answers only grows: add a row that replaces the old one"
SCHEMA = (
    """CREATE TABLE image (digest TEXT PRIMARY KEY, stream TEXT NOT NULL, prompt TEXT NOT NULL, number INTEGER NOT NULL,
    png BLOB NOT NULL) STRICT""",
    """CREATE TABLE answer (rater TEXT NOT NULL, question TEXT NOT NULL, prompt TEXT NOT NULL, images TEXT NOT NULL,
    value TEXT NOT NULL, shown TEXT NOT NULL, seconds REAL, item TEXT NOT NULL, replaces TEXT REFERENCES answer(id),
    time TEXT NOT NULL, software TEXT NOT NULL, id TEXT PRIMARY KEY) STRICT""",
    "CREATE INDEX asked ON answer (rater, question, prompt, images)",
    "CREATE INDEX replaced ON answer (replaces)",
    *(f"CREATE TRIGGER {table}_{what} BEFORE {what} ON {table} BEGIN SELECT RAISE(ABORT, '{_ONLY_GROWS}'); END"
      for table in ("answer", "image") for what in ("UPDATE", "DELETE")),
    # INSERT OR REPLACE fires no trigger on DELETE.
    *(f"CREATE TRIGGER {table}_again BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} WHERE {key} = NEW.{key}) "
      f"BEGIN SELECT RAISE(ABORT, '{_ONLY_GROWS}'); END" for table, key in (("answer", "id"), ("image", "digest"))),
)  # fmt: skip
Picture = tuple[str, tuple[str, str, int], np.ndarray]  # digest, name (stream, prompt, number), pixels


class Store:
    """People's answers and the images that they judged. Open it with `Store.open`; a process that was forked opens its own.

    A method that writes returns only when the disk has it. Otherwise it keeps nothing and raises an error of one line:
    OSError if the disk is full or failing, TimeoutError if another process holds the store, ValueError for a wrong answer.
    """

    def __init__(self, database: Database):
        self._db, self.path = database, database.path

    @classmethod
    def open(cls, path: Path | str, wait: float = 60.0) -> "Store":
        """The store in a file on a local disk, created if it is missing; `wait` seconds for other processes."""
        return cls(Database(path, "a store of answers", SCHEMA, KIND, VERSION, wait))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    # ---- writing ---------------------------------------------------------------------------------------------------

    def archive(self, digest: str, name: tuple[str, str, int], pixels: np.ndarray) -> None:
        """Keep an image, uint8 [height, width, 3], lossless, under the SHA-256 of its pixels; `name` is the stream, prompt
        and number that it was drawn under. An image that is there already stays as it is, with its first name."""
        self.add_all([(digest, name, pixels)])

    def add(
        self, *, rater: str, question: str, prompt: str, images: Sequence[str], value: str | int, shown: Sequence = (),
        seconds: float | None = None, item: str = "plain", replaces: str | None = None, **more: str,
    ) -> str:  # fmt: skip
        """Add an answer about archived images; returns its id when it is durable. Fields as in `Answer`.

        The value "undone" takes back the row that `replaces` names. Giving the same `id` again adds nothing, so that who
        does not know whether an answer arrived may repeat it. Raises ValueError if the rater has answered this before and
        `replaces` does not name that row; a repeat or a check may be answered more than once.
        """
        return self.add_all([Answer(rater, question, prompt, images, value, shown, seconds, item, replaces, **more)])[0]

    def add_all(self, things: Iterable[Answer | Picture], merging: bool = False) -> list[str]:
        """Add answers, and images as for `archive` before them, all or none of them; returns the answers' ids.

        They are taken one by one, so that a long file need not be in memory. With `merging`, answers are rows of another
        store, and of a rater's several answers to one question the latest is the current one.
        """
        with self._db.writing():
            ids = []
            for thing in things:
                if isinstance(thing, Answer):
                    ids.append(self._insert(thing, alone=not merging))
                else:
                    self._keep(*thing)
            return ids

    def merge(self, path: Path | str) -> int:
        """Add the rows and images of another store that this one lacks, all or none; returns how many rows are new.

        Merging again, or in another order, gives the same answers. Raises ValueError if a row or an image of the other file
        is damaged.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no store {path} to merge")
        before = self.count()
        with Store.open(path, self._db.wait) as other:
            self.add_all(other.everything(), merging=True)
        return self.count() - before

    def _keep(self, digest: str, name: tuple[str, str, int], pixels: np.ndarray) -> None:
        if not self.has(digest):
            (stream, prompt, number), png = name, png_of(digest, pixels)
            row = (digest, plain_text("stream", stream), plain_text("prompt", prompt, PROMPT), int(number), png)
            self._db.all(f"INSERT INTO image ({_IMAGES}) VALUES (?, ?, ?, ?, ?)", *row)

    def _insert(self, answer: Answer, alone: bool) -> str:
        """Insert in a transaction; with `alone`, the row may not contradict another."""
        if there := self._row(answer.id):
            if (*_asked(there), there.value) != (*_asked(answer), answer.value):
                raise ValueError(f"two different answers have the id {answer.id}: want the undamaged one")
            return answer.id
        for digest in answer.images:
            if not self.has(digest):
                raise ValueError(f"image {digest[:12]} is not in {self.path.name}: want it archived before its answer")
        if answer.replaces is not None:
            old = self._row(answer.replaces)
            if old is None or _asked(old) != _asked(answer):
                raise ValueError(f"no row {answer.replaces} of this rater, question and images: want one to replace")
        row = _row(self._linked(answer) if alone else answer)
        self._db.all(f"INSERT INTO answer ({_ANSWERS}) VALUES ({', '.join('?' * len(row))})", *row)
        return answer.id

    def _row(self, row: str) -> Answer | None:
        return next(map(_answer, self._db.all(f"SELECT {_ANSWERS} FROM answer WHERE id = ?", row)), None)

    def _linked(self, answer: Answer) -> Answer:
        """The answer, which replaces what was taken back before; raises ValueError if it contradicts what is there."""
        if answer.replaces is not None:
            if after := self._db.all("SELECT id FROM answer WHERE replaces = ?", answer.replaces):
                raise ValueError(f"row {answer.replaces} is replaced already: want {after[0][0]}, which replaces it")
        elif answer.item == "plain":
            key = "rater = ? AND question = ? AND prompt = ? AND images = ? AND item = ?"
            ends = "NOT EXISTS (SELECT 1 FROM answer b WHERE b.replaces = a.id)"
            found = self._db.all(f"SELECT id, value FROM answer a WHERE {key} AND {ends} ORDER BY time", *_asked(answer))
            if found and found[-1][1] != UNDONE:
                raise ValueError(f"{answer.rater!r} has answered {answer.question!r} of image {answer.images[0][:12]} with "
                                 f"{found[-1][1]!r}: to correct it, replace row {found[-1][0]}")  # fmt: skip
            return replace(answer, replaces=found[-1][0]) if found else answer
        return answer

    # ---- reading ---------------------------------------------------------------------------------------------------

    def count(self) -> int:
        """The number of rows, current or not."""
        return self._db.one("SELECT count(*) FROM answer")

    def rows(self, rater: str | None = None, question: str | None = None, current: bool = True) -> pd.DataFrame:
        """Answers, in the order in which they came, with the columns of `Answer`; `current`: only those that stand."""
        wanted = {name: value for name, value in (("rater", rater), ("question", question)) if value is not None}
        where = " AND ".join(f"{name} = ?" for name in wanted) or "TRUE"
        found = self._db.all(f"SELECT {_ANSWERS} FROM answer WHERE {where} ORDER BY rowid", *wanted.values())
        table = tabled(map(_answer, found))
        return standing(table) if current else table

    def images(self) -> pd.DataFrame:
        """The archived images in the order in which they came: digest, stream, prompt, number, png (bytes)."""
        return pd.DataFrame(self._db.all(f"SELECT {_IMAGES} FROM image ORDER BY rowid"), columns=IMAGES)

    def everything(self) -> Iterator[Answer | Picture]:
        """All images, then all rows, in the order in which they came: what another store's `add_all` takes."""
        for digest, *name in self._db.all("SELECT digest, stream, prompt, number FROM image ORDER BY rowid"):
            yield digest, tuple(name), self.pixels(digest)
        yield from map(_answer, self._db.all(f"SELECT {_ANSWERS} FROM answer ORDER BY rowid"))

    def has(self, digest: str) -> bool:
        """Whether an image is archived."""
        return bool(self._db.one("SELECT count(*) FROM image WHERE digest = ?", digest))

    def png(self, digest: str) -> bytes:
        """An archived image as PNG; raises KeyError if there is none."""
        for (png,) in self._db.all("SELECT png FROM image WHERE digest = ?", digest):
            return png
        raise KeyError(f"no image {digest[:12]} in {self.path.name}")

    def pixels(self, digest: str) -> np.ndarray:
        """An archived image, uint8 [height, width, 3]; raises KeyError if there is none, ValueError if it is damaged."""
        return pixels_of(digest, self.png(digest))


def _asked(answer: Answer) -> tuple:
    """What an answer is an answer to: the columns that a correction may not change."""
    return answer.rater, answer.question, answer.prompt, json.dumps(answer.images), answer.item


def _row(answer: Answer) -> tuple:
    return tuple(json.dumps(value) if isinstance(value, tuple) else value for value in astuple(answer))


def _answer(row: tuple) -> Answer:
    fields = dict(zip(COLUMNS, row, strict=True))
    return Answer(**fields | {name: tuple(json.loads(fields[name])) for name in ("images", "shown")})
