"""Files that come from elsewhere: their rows and images, read with care, and refused by file, row and remedy."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lib.feedback.answers import short
from lib.feedback.pictures import decoded
from lib.feedback.store import Picture, Store
from lib.images.sampling import ImageSet, image_digest

TEXT, TABLE, IMAGE = 100_000_000, 2_000_000_000, 50_000_000  # the largest text, Parquet and image file, in bytes
Row = tuple[str, dict]  # the file and where in it, and what is there


class Refused(ValueError):
    """A file, or a row of it, cannot be taken: says which, why, and what would be right."""


# ---- rows ----------------------------------------------------------------------------------------------------------


def content(path: Path, limit: int = TEXT) -> bytes:
    """What a file contains; raises ValueError, before reading it, if it is larger than `limit` bytes."""
    if (size := path.stat().st_size) > limit:
        raise Refused(f"{path.name} has {size / 1e6:,.0f} MB: want at most {limit / 1e6:,.0f} MB, so split it")
    return path.read_bytes()


def text_of(path: Path) -> str:
    """A text file in UTF-8 without a byte order mark."""
    found = content(path)
    if found.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise Refused(f"{path.name} begins with a byte order mark: save it as UTF-8 without one (not as 'UTF-8 with BOM')")
    try:
        return found.decode("utf-8")
    except UnicodeDecodeError as error:
        line = found[: error.start].count(b"\n") + 1
        raise Refused(f"{path.name}, line {line}: byte {found[error.start]:#04x} is not UTF-8: save it as UTF-8") from error


def csv_rows(path: Path, columns: Sequence[str], also: Mapping[str, str] = {}) -> Iterator[Row]:  # noqa: B006
    """Rows of a comma-separated file that has these columns, and perhaps others; `also`: other names that some have."""
    lines = csv.reader(io.StringIO(text_of(path), newline=""), strict=True)
    try:
        head = next(lines, [])
        head = [also[x] if x in also and also[x] not in head else x for x in head]
        _has(path, columns, head)
        for row in lines:
            where = f"{path.name}, row {lines.line_num}"  # as a spreadsheet counts, where no field has line breaks
            if len(row) != len(head):
                raise Refused(f"{where}: has {len(row)} fields, want {len(head)} (a comma in a text needs quotes)")
            yield where, dict(zip(head, row, strict=True))
        if lines.line_num < 2:
            raise Refused(f"{path.name} has no rows: want at least one under the names of the columns")
    except csv.Error as error:
        raise Refused(f"{path.name}, row {lines.line_num}: {error}: want comma-separated values") from error


def _has(path: Path, columns: Sequence[str], head: Sequence[str]) -> None:
    if missing := [name for name in columns if name not in head]:
        sign = next((s for s, other in (("semicolons", ";"), ("tabs", "\t")) if len(head) == 1 and other in head[0]), None)
        why = f"separates its columns by {sign}" if sign else f"lacks the column {missing[0]!r}"
        raise Refused(f"{path.name} {why}: want {','.join(columns)}, separated by commas")
    if twice := _twice(head):
        raise Refused(f"{path.name} has the column {twice} twice: want it once")


def _twice(names: Sequence[str]) -> str:
    """The first of the names that is there twice, if any."""
    return next((short(x) for x, count in Counter(names).items() if count > 1), "")


def json_of(path: Path):
    """What a JSON file says; a name that is there twice in one object, NaN and Infinity are refused."""

    def once(pairs: list[tuple[str, object]]) -> dict:
        if twice := _twice([name for name, _ in pairs]):
            raise ValueError(f"{twice} is there twice in one object: want it once")
        return dict(pairs)

    def number(text: str) -> None:
        raise ValueError(f"{short(text)} is no number of JSON: want a finite number")

    try:
        return json.loads(text_of(path), object_pairs_hook=once, parse_constant=number)
    except json.JSONDecodeError as error:
        raise Refused(f"{path.name}, line {error.lineno}: {error.msg}: want JSON, whole") from error
    except RecursionError as error:
        raise Refused(f"{path.name} is nested too deeply: want a list of records") from error
    except ValueError as error:
        raise error if isinstance(error, Refused) else Refused(f"{path.name}: {error}") from error


def json_rows(path: Path) -> Iterator[Row]:
    """Records of a JSON file that is a list, or an object, of objects."""
    found = json_of(path)
    named = found.items() if isinstance(found, dict) else enumerate(found, 1) if isinstance(found, list) else ()
    if not named or not found:
        raise Refused(f"{path.name} has no records: want a list of at least one")
    for key, record in named:
        where = f"{path.name}, " + (f"row {key}" if isinstance(key, int) else f"record {short(key)}")
        if not isinstance(record, dict):
            raise Refused(f"{where}: is {short(record)}: want an object with named fields")
        yield where, record


def parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Rows of a Parquet file that has these columns, and perhaps others."""
    if (size := path.stat().st_size) > TABLE:
        raise Refused(f"{path.name} has {size / 1e6:,.0f} MB: want at most {TABLE / 1e6:,.0f} MB, so split it")
    try:
        with pq.ParquetFile(path) as file:
            _has(path, columns, file.schema_arrow.names)
            if not file.metadata.num_rows:
                raise Refused(f"{path.name} has no rows: want at least one")
            number = 0
            for batch in file.iter_batches(64):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path.name}, row {number}", record
    except (pa.ArrowException, OSError) as error:
        raise Refused(f"{path.name} cannot be read as Parquet: want an undamaged Parquet file") from error


def field(record: dict, name: str, kind: type | tuple[type, ...]):
    """A field of a record; raises ValueError unless it is there and of that type."""
    if name not in record:
        raise ValueError(f"lacks {name!r}: want a record with it")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = {str: "a text", list: "a list", dict: "an object", int: "a whole number", bytes: "an image's bytes"}
        wanted = " or ".join(kinds.get(k, "a number") for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{name} is {short(value)}: want {wanted}")
    return value


# ---- images --------------------------------------------------------------------------------------------------------


class Pictures:
    """Finds the images that a file names: by digest in a store or in a set of the study's, or as files in a folder."""

    def __init__(self, store: Store, folder: Path, shown: ImageSet | None = None):
        self.store, self.folder, self.shown = store, folder.resolve(), shown
        self.rows = {digest: i for i, digest in enumerate(shown.digests)} if shown else {}
        self.known: dict[str, str] = {}  # digests by what the file calls an image

    def find(self, name: str | bytes, prompt: str) -> tuple[str, list[Picture]]:
        """The digest of an image, and the image itself if the store may lack it. `name` is a digest, the name of a file, or
        a file's content. Raises ValueError if there is no such image."""
        if isinstance(name, bytes):
            pixels = decoded(name, "the image")
            return (digest := image_digest(pixels)), [(digest, ("imported", prompt, 0), pixels)]
        if name in self.known:
            return self.known[name], []
        if re.fullmatch("[0-9a-f]{64}", name):
            found = self._by_digest(name, prompt)
        else:
            found = self._file(name, prompt)
        self.known[name] = found[0]
        return found

    def _by_digest(self, digest: str, prompt: str) -> tuple[str, list[Picture]]:
        if self.store.has(digest):
            return digest, []
        if (row := self.rows.get(digest)) is not None:
            name = (self.shown.stream, self.shown.prompts[row], self.shown.numbers[row])
            return digest, [(digest, name, self.shown.pixels[row])]
        if (self.folder / "images" / f"{digest}.png").is_file():
            found = self._file(f"images/{digest}.png", prompt)
            if found[0] == digest:
                return found
        raise ValueError(f"no image has the digest {digest[:12]}: want one of the store, the set or the folder images")

    def _file(self, name: str, prompt: str) -> tuple[str, list[Picture]]:
        pixels = decoded(content(self.path_of(name), IMAGE), f"image {short(name)}")
        return (digest := image_digest(pixels)), [(digest, (name, prompt, 0), pixels)]

    def path_of(self, name: str) -> Path:
        """The path of an image's file; raises ValueError if it is not there, or elsewhere."""
        if not name or name[0] in "/~" or re.search(r"[\\:\x00-\x1f]|(^|/)\.\.(/|$)", name):
            raise ValueError(f"image {short(name)} is no name of a file in the folder: want one such as 'images/1.png'")
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder) or not path.is_file():
            raise ValueError(f"no image {short(name)} in the folder {self.folder.name}: put it there, or name its folder")
        return path
