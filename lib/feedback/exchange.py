"""Into a store and out of it: files of other campaigns and of released formats, and the whole store as Parquet or CSV.

What comes in comes whole or not at all: it is one transaction, and a row that is wrong is named with its file and a remedy.
"""

import io
import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lib.feedback.answers import COLUMNS, Answer, answers_of, short
from lib.feedback.formats import FORMATS, Format, csv_of
from lib.feedback.incoming import Pictures, Refused, Row, content, csv_rows, json_rows, parquet_rows
from lib.feedback.labelstudio import ASKED, read_task
from lib.feedback.pictures import pixels_of
from lib.feedback.store import IMAGES, Picture, Store
from lib.ground.cache import atomic_write
from lib.images.sampling import ImageSet

LABEL_STUDIO = Format(tuple(ASKED), json_rows, read_task, None, skips=True)  # writes tasks, not answers
READ = FORMATS | {"labelstudio": LABEL_STUDIO}
LISTS = ("images", "shown")
SCHEMA = pa.schema([(name, pa.list_(pa.string()) if name in LISTS else pa.float64() if name == "seconds" else pa.string())
                    for name in COLUMNS])  # fmt: skip
IMAGE_SCHEMA = pa.schema([(name, {"number": pa.int64(), "png": pa.binary()}.get(name, pa.string())) for name in IMAGES])


# ---- other campaigns -----------------------------------------------------------------------------------------------


def import_file(
    store: Store, path: Path | str, form: str, *, folder: Path | str | None = None, shown: ImageSet | None = None,
    question: str | None = None, rater: str = "imported",
) -> int:  # fmt: skip
    """Add the answers of a file in one of the formats `READ`; returns how many are new. Doing so again adds none.

    Images are looked for in the store, in the set `shown`, and in `folder` (by default the file's own). `question` tells
    what was asked, where a format leaves that open; `rater` names who answered, where the file does not. Raises ValueError
    that names file, row and remedy; then the store is as it was. Other writers wait while a long file is read.
    """
    path, known = Path(path), _known(form, READ)
    question = _asked(form, known, question)
    find = Pictures(store, Path(folder) if folder else path.parent, shown).find

    def convert(record: dict) -> Iterator[Answer | Picture]:
        for fields in known.read(record):
            fields = {"question": question, "software": f"imported: {form}", "time": ""} | fields
            number, given = fields.pop("number", None), fields.pop("digests", None)
            if fields.get("rater") is None:
                fields["rater"] = f"{rater}-{number}" if number else rater
            if not fields["images"]:
                raise ValueError("names no image: want at least one")
            fields["images"], pictures = zip(*(find(image, fields["prompt"]) for image in fields["images"]), strict=True)
            if given and tuple(given) != fields["images"]:
                raise ValueError("an image has other pixels than its digest says: want the task as it was exported")
            for found in pictures:
                yield from found
            answer = Answer(**fields)
            yield replace(answer, id=_id_of(answer))

    return _add(store, known.rows(path), convert)


def _known(form: str, formats: dict[str, Format]) -> Format:
    if form not in formats:
        raise ValueError(f"unknown format {form!r}: one of {', '.join(formats)}")
    return formats[form]


def _asked(form: str, known: Format, question: str | None) -> str:
    if question is not None and question not in known.questions:
        raise ValueError(f"{form} does not hold answers to {question!r}: one of {', '.join(known.questions)}")
    return question or known.questions[0]


def _id_of(answer: Answer) -> str:
    """The same for the same answer in any file, so that a file which is imported twice adds nothing."""
    said = (*_key(answer), answer.value, answer.shown, answer.seconds, answer.time)
    return uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(said)).hex


def _key(answer: Answer) -> tuple:
    return answer.rater, answer.question, answer.prompt, answer.images, answer.item


def _add(store: Store, rows: Iterable[Row], convert: Callable[[dict], Iterator[Answer | Picture]], **how: bool) -> int:
    """Add what rows of files say, all or none, and return how many answers are new; an error says where it is."""
    where, seen, before = "", {}, store.count()

    def things() -> Iterator[Answer | Picture]:
        nonlocal where
        for where, record in rows:
            for thing in convert(record):
                if isinstance(thing, Answer) and thing.item != "repeat" and not how:
                    if (key := _key(thing)) in seen:
                        raise ValueError(f"has the rater, prompt and image of {seen[key]}: keep one of them")
                    seen[key] = where
                yield thing

    try:
        store.add_all(things(), **how)
    except Refused:
        raise
    except ValueError as error:
        raise Refused(f"{where}: {error}") from error
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise Refused(f"{where}: {short(error)}: want a row as the format has it") from error
    return store.count() - before


def export_file(store: Store, path: Path | str, form: str, *, question: str | None = None, rater: str | None = None) -> int:
    """Write the plain answers that stand to one question, perhaps of one rater, in one of FORMATS; returns how many.

    Images go into the folder `images` beside the file. Skips are left out where the format has none. Raises ValueError if
    there is no such answer, or the format cannot hold them.
    """
    path, known = Path(path), _known(form, FORMATS)
    question = _asked(form, known, question)
    rows = store.rows(rater, question)
    rows = rows[(rows["item"] == "plain") & (known.skips | (rows.value != "skip"))]
    if rows.empty:
        raise ValueError(f"no answers to {question!r} in {store.path.name}: want at least one to write")
    if not known.raters and rows.rater.nunique() > 1:
        several = ", ".join(sorted(set(rows.rater))[:5])
        raise ValueError(f"{form} tells no raters apart, and {several} answered: name one rater")
    found = known.write(list(answers_of(rows)), store.png)
    if form != "pickapic":
        _write_images(store, path.parent, {digest for images in rows.images for digest in images})
    atomic_write(path, found)
    return len(rows)


def _write_images(store: Store, folder: Path, digests: set[str]) -> None:
    for digest in sorted(digests):
        atomic_write(folder / "images" / f"{digest}.png", store.png(digest))


# ---- the whole store -----------------------------------------------------------------------------------------------


def export_store(store: Store, folder: Path | str, kind: str = "parquet") -> None:
    """Write every row and image into a folder: answers.parquet and images.parquet, or both as CSV and a folder images."""
    folder, rows, pictures = Path(folder), store.rows(current=False), store.images()
    if kind == "parquet":
        for name, table, schema in (("answers", rows, SCHEMA), ("images", pictures, IMAGE_SCHEMA)):
            file = io.BytesIO()
            pq.write_table(pa.Table.from_pandas(table, schema, preserve_index=False).replace_schema_metadata(), file)
            atomic_write(folder / f"{name}.parquet", file.getvalue())
    elif kind == "csv":
        texts = [[_text(value) for value in row] for row in rows.astype(object).values.tolist()]
        _write_images(store, folder, set(pictures.digest))
        atomic_write(folder / "images.csv", csv_of(IMAGES[:-1], pictures[list(IMAGES[:-1])].values.tolist()))
        atomic_write(folder / "answers.csv", csv_of(COLUMNS, texts))
    else:
        raise ValueError(f"unknown kind {kind!r}: parquet or csv")


def import_store(store: Store, folder: Path | str) -> int:
    """Add what `export_store` wrote, as `Store.merge` adds another store; returns how many rows are new."""
    folder = Path(folder)
    kind = "parquet" if (folder / "answers.parquet").is_file() else "csv"
    answers, pictures = folder / f"answers.{kind}", folder / f"images.{kind}"
    for path in (pictures, answers):
        if not path.is_file():
            raise FileNotFoundError(f"no {path.name} in {folder}: want a folder that export_store wrote")
    rows = parquet_rows if kind == "parquet" else csv_rows
    files = Pictures(store, folder)

    def convert(record: dict) -> Iterator[Answer | Picture]:
        if "digest" not in record:
            yield Answer(**{name: _value(name, record[name]) for name in COLUMNS})
            return
        digest, number = record["digest"], record["number"]
        if not str(number).isdecimal():
            raise ValueError(f"number is {number!r}: want a whole number of 0 or more")
        png = record["png"] if kind == "parquet" else content(files.path_of(f"images/{digest}.png"))
        yield digest, (record["stream"], record["prompt"], int(number)), pixels_of(digest, png)

    wanted = IMAGES if kind == "parquet" else IMAGES[:-1]
    return _add(store, chain(rows(pictures, wanted), rows(answers, COLUMNS)), convert, merging=True)


def _text(value) -> str:
    """A value as a field of CSV: lists as JSON, nothing as an empty field."""
    if isinstance(value, tuple):
        return json.dumps(value)
    return "" if value is None or value != value else str(value)


def _value(name: str, text):
    """The value of a field of CSV (one of Parquet is that already)."""
    if name in LISTS and isinstance(text, str):
        try:
            return tuple(json.loads(text))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name} is {short(text)}: want a list in JSON") from error
    if name == "seconds" and isinstance(text, str) and re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", text, re.A):
        return float(text)
    return None if name in ("seconds", "replaces") and text == "" else text
