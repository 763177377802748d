"""Pre-training pairs, streamed: tar shards of jpg, txt and json (img2dataset, Conceptual 12M), or Parquet with image bytes.

Shards are read from beginning to end, a pair at a time. A pair without a readable image or a caption is counted and skipped.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from lib.ground.setups import PairSource

IMAGES = ("jpg", "jpeg", "png", "webp")
ROWS = 64  # of a Parquet file that are read at once


@dataclass
class Tally:
    """How many pairs a stream gave, and why others were skipped."""

    good: int = 0
    corrupt: int = 0  # an image file that cannot be decoded
    missing: int = 0  # no image
    captionless: int = 0
    first: str = ""  # the first pair that was skipped

    @property
    def bad(self) -> int:
        """Pairs skipped."""
        return self.corrupt + self.missing + self.captionless

    def skip(self, why: str, name: str) -> None:
        """Count one pair as skipped because it is `corrupt`, `missing` or `captionless`."""
        setattr(self, why, getattr(self, why) + 1)
        self.first = self.first or name

    def check(self, limit: float) -> None:
        """Raise ValueError if more than `limit` of all pairs were skipped, or if none was good."""
        seen = self.good + self.bad
        if not self.good or self.bad > limit * seen:
            why = f"corrupt image {self.corrupt:,}, no image {self.missing:,}, no caption {self.captionless:,}"
            first, how = self.first or "none", "fetch the shards again, or raise pairs.corrupt_limit"
            said = f"{self.bad:,} of {seen:,} pairs cannot be used ({why}; the first is {first})"
            raise ValueError(f"{said}: expected at most {limit:.2%}; {how}")


# ---- shards --------------------------------------------------------------------------------------------------------


def shard_paths(source: PairSource) -> list[Path]:
    """The shards of a source, sorted; raises FileNotFoundError for a path or a number that is missing."""
    found: list[Path] = []
    for pattern in source.paths:
        names = sorted(glob(pattern)) if set("*?[") & set(pattern) else [pattern]
        if not names or not all(Path(n).is_file() for n in names):
            raise FileNotFoundError(f"no shard of pre-training pairs at {pattern}: fetch it, or correct pairs.paths")
        found += map(Path, names)
        _refuse_gap([Path(n) for n in names])
    return found


def _refuse_gap(paths: Sequence[Path]) -> None:
    """Refuse numbered files of which one is missing between two others."""
    numbers = [re.fullmatch(r"(.*?)(\d+)", p.stem) for p in paths]
    for path, one, other in zip(paths, numbers, numbers[1:], strict=False):
        if one and other and one[1] == other[1] and int(other[2]) > int(one[2]) + 1:
            name = path.with_stem(f"{one[1]}{int(one[2]) + 1:0{len(one[2])}d}")
            raise FileNotFoundError(f"{name} is missing between its neighbours: fetch it, or list the shards in pairs.paths")


def pairs_in(path: Path, source: PairSource, resolution: int, tally: Tally) -> Iterator[tuple[str, str, np.ndarray]]:
    """Key, caption and image (uint8 [resolution, resolution, 3]) of each usable pair in one shard, counted in `tally`.

    An image's shorter side is resized to `resolution` (Lanczos), and its middle is kept.
    """
    for key, caption, content in (_tar if source.kind == "tar" else _parquet)(path, source):
        where = f"{key} in {path}"
        if content is None:
            tally.skip("missing", where)
        elif not (caption or "").strip():
            tally.skip("captionless", where)
        elif (image := _decoded(content, resolution)) is None:
            tally.skip("corrupt", where)
        else:
            tally.good += 1
            yield key, caption.strip(), image


def _tar(path: Path, source: PairSource) -> Iterator[tuple[str, str | None, bytes | None]]:
    """Key, caption and image file of each pair in a tar: consecutive members that have a name but for the extension."""
    files: dict[str, bytes] = {}
    key = None
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        whole = file.read() == bytes(1024)
    try:
        if not whole:
            raise EOFError("it does not end with two empty blocks")
        with tarfile.open(path, "r|") as tar:
            for member in tar:
                tar.members = []  # else it remembers every member
                if not member.isfile():
                    continue
                stem, _, kind = PurePosixPath(member.name).name.partition(".")
                if stem != key and files:
                    yield _pair(key, files)
                    files = {}
                key = stem
                files[kind.lower()] = tar.extractfile(member).read()
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path} is not a whole tar file ({error}): fetch it again") from None
    if files:
        yield _pair(key, files)


def _pair(key: str, files: dict[str, bytes]) -> tuple[str, str | None, bytes | None]:
    caption = files["txt"].decode("utf-8", "replace") if "txt" in files else None
    if caption is None and "json" in files:
        try:
            caption = json.loads(files["json"]).get("caption")
        except (ValueError, AttributeError):
            pass
    return key, caption, next((files[kind] for kind in IMAGES if kind in files), None)


def _parquet(path: Path, source: PairSource) -> Iterator[tuple[str, str | None, bytes | None]]:
    """Row number, caption and image file of each row; the image column holds bytes or a struct with `bytes`."""
    names, row = [source.image_column, source.caption_column], 0
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a Parquet file ({str(error).splitlines()[0]}): fetch it again") from None
    with file:
        if lacking := [n for n in names if n not in file.schema_arrow.names]:
            known = ", ".join(file.schema_arrow.names)
            raise ValueError(
                f"{path} has no column {lacking[0]!r}: set pairs.image_column or caption_column to one of {known}"
            )
        for batch in file.iter_batches(ROWS, columns=names):
            for image, caption in zip(*(batch.column(n).to_pylist() for n in names), strict=True):
                yield f"row {row}", caption, image["bytes"] if isinstance(image, dict) else image
                row += 1


def _decoded(content: bytes, resolution: int) -> np.ndarray | None:
    """The middle square of an image file, or None if it cannot be decoded."""
    try:
        image = Image.open(io.BytesIO(content)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    scale = resolution / min(image.size)
    width, height = (max(resolution, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    return np.asarray(image.crop((left, top, left + resolution, top + resolution)))
