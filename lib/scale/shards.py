"""Image sets larger than memory: PNG files in tar shards, each with its index beside it, read when they are asked for.

    00000.tar       00000000.png, 00000001.png, …
    00000.parquet   of each: stream, prompt, number, digest of the pixels, and where in the tar its bytes are
    index.parquet   of all: stream, prompt, number, digest, as in a stage of `lib.images.sampling`
    shards.json     number of images and SHA-256 of each shard, written last

`lib.images.sampling.load_images` opens a stage of such shards, too. Whatever slices `ImageSet.pixels` (embeddings, features,
latents) works on such a set unchanged. Images that people judged are archived in this form, because another machine would
draw other last digits, and labels know an image by its pixels.
"""

import io
import json
import os
import tarfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from lib.ground.cache import STAND_INS, Artifact, atomic_write, file_digest, save_json, stage
from lib.images.sampling import ImageSet, image_digest

PER_SHARD = 256  # 512 px images: 120 MB
NAMED = ["stream", "prompt", "number", "digest"]


@dataclass(frozen=True)
class Pixels:
    """uint8 images [image, height, width, 3] on disk. An index, a slice, a list of rows or a mask reads those images."""

    paths: Sequence[Path]  # of shards
    shard: np.ndarray  # [image]: which shard it is in
    offset: np.ndarray  # [image]: of its first byte
    size: np.ndarray  # [image]: bytes
    digests: Sequence[str]  # of its pixels

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array; reads the first image."""
        return len(self), *self[0].shape

    def __getitem__(self, key) -> np.ndarray:
        rows = np.arange(len(self))[key]
        if rows.ndim == 0:
            return self._read(int(rows))
        read = [self._read(row) for row in rows]
        if len({x.shape for x in read}) > 1:
            raise ValueError(f"{self.paths[0].parent} has images of several sizes: read them one by one")
        return np.stack(read)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def __array__(self, *_, **__):
        raise TypeError(f"{len(self):,} images on disk are no array: read some of them, as in pixels[:64]")

    def take(self, rows: Sequence[int]) -> "Pixels":
        """Some of the images, in the order of `rows`, still on disk."""
        rows = np.arange(len(self))[rows]
        return Pixels(self.paths, self.shard[rows], self.offset[rows], self.size[rows], [self.digests[r] for r in rows])

    def kept(self, row: int) -> tuple[bytes, str]:
        """The file of an image as it is kept, and the digest that its pixels should have."""
        with open(self.paths[self.shard[row]], "rb") as file:
            file.seek(self.offset[row])
            return file.read(self.size[row]), self.digests[row]

    def _read(self, row: int) -> np.ndarray:
        path, (content, digest) = self.paths[self.shard[row]], self.kept(row)
        try:
            pixels = np.asarray(Image.open(io.BytesIO(content)))
        except OSError:
            pixels = None
        if pixels is None or image_digest(pixels) != digest:
            raise ValueError(f"image {self.digests[row][:12]} in {path} is damaged: restore the shard, or draw it again")
        return pixels


class ShardedSet(ImageSet):
    """An `ImageSet` whose pixels stay on disk."""

    def part(self, rows: Sequence[int]) -> "ShardedSet":
        """Some of the images, in the order of `rows`, still on disk."""
        rows = np.arange(len(self))[rows]
        columns = ([column[i] for i in rows] for column in (self.prompts, self.numbers, self.digests))
        return ShardedSet(self.pixels.take(rows), self.stream, *columns)


# ---- write ---------------------------------------------------------------------------------------------------------


def write_shard(
    folder: Path, number: int, pixels: Sequence[np.ndarray], stream: str, prompts: Sequence[str], numbers: Sequence[int]
) -> None:
    """Write one shard, completely or not at all: images uint8 [image, height, width, 3] with prompts and numbers, [image].

    Processes may write different shards of a folder at the same time; `finish` closes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:05d}.tar"
    partial = path.with_suffix(".partial")
    digests = []
    with tarfile.open(partial, "w") as tar:
        kept = map(pixels.kept, range(len(pixels))) if isinstance(pixels, Pixels) else map(_encoded, pixels)
        for row, (content, digest) in enumerate(kept):
            member = tarfile.TarInfo(f"{row:08d}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
            digests.append(digest)
    with tarfile.open(partial) as tar:
        places = [(m.offset_data, m.size) for m in tar]
    os.replace(partial, path)
    table = pd.DataFrame(
        {"stream": stream, "prompt": list(prompts), "number": list(numbers), "digest": digests}
        | {"offset": [o for o, _ in places], "size": [s for _, s in places]}
    )
    atomic_write(path.with_suffix(".parquet"), table.to_parquet(index=False))


def _encoded(image: np.ndarray) -> tuple[bytes, str]:
    Image.fromarray(image).save(file := io.BytesIO(), "PNG")
    return file.getvalue(), image_digest(image)


def written(folder: Path, number: int) -> bool:
    """Whether a shard is complete: its index is written after its images."""
    return (folder / f"{number:05d}.parquet").exists()


def finish(folder: Path, count: int | None = None) -> None:
    """Close a folder whose shards are all written, `count` of them if given; what a killed process left beyond is deleted.

    Raises FileNotFoundError that names a missing shard.
    """
    there = 1 + max((int(p.stem) for p in folder.glob("[0-9]*.tar")), default=-1)
    for number in range(there if count is None else count, there):
        for kind in ("tar", "parquet"):
            (folder / f"{number:05d}.{kind}").unlink(missing_ok=True)
    shards, tables = {}, []
    for number in range(there if count is None else count):
        if not written(folder, number) or not (folder / f"{number:05d}.tar").exists():
            raise FileNotFoundError(f"shard {number:05d} of {folder} is missing: write all shards before closing the folder")
        tables.append(pd.read_parquet(folder / f"{number:05d}.parquet", columns=NAMED))
        shards[f"{number:05d}"] = {"images": len(tables[-1]), "sha256": file_digest(folder / f"{number:05d}.tar")}
    atomic_write(folder / "index.parquet", pd.concat(tables, ignore_index=True).to_parquet(index=False))
    save_json(folder / "shards.json", shards)


def archive(folder: Path, images: ImageSet, digests: Collection[str]) -> ShardedSet:
    """Add the images with these digests to an archive, unless they are there; returns all that it then contains.

    An archive has images of one stream. Raises ValueError if that of `images` is another, or if a digest is neither in the
    archive nor among `images`.
    """
    before = opened(folder) if (folder / "shards.json").exists() else None
    there = before.digests if before else []
    if before and before.stream != images.stream:
        raise ValueError(f"{folder} archives images of {before.stream!r}: keep those of {images.stream!r} in another folder")
    rows = {digest: row for row, digest in enumerate(images.digests)}
    new = [d for d in dict.fromkeys(digests) if d not in set(there)]
    if lost := [d for d in new if d not in rows]:
        raise ValueError(
            f"{len(lost):,} of {len(set(digests)):,} judged images are not there to archive, such as {lost[0]!r}"
        )
    first = len(_listed(folder)) if before else 0
    starts = range(0, len(new), PER_SHARD)
    for k, start in enumerate(starts):
        part = images.part([rows[d] for d in new[start : start + PER_SHARD]])
        write_shard(folder, first + k, part.pixels, part.stream, part.prompts, part.numbers)
    finish(folder, first + len(starts))
    return opened(folder)


# ---- read ----------------------------------------------------------------------------------------------------------


def opened(folder: Path, verify: bool = False) -> ShardedSet:
    """The image set in a folder of shards; `verify` also compares the shards' SHA-256 sums.

    Raises FileNotFoundError for a missing shard, ValueError for one that does not have its number of images or its sum.
    """
    tables, paths = [], []
    for k, (name, said) in enumerate(_listed(folder).items()):
        path = folder / f"{name}.tar"
        for needed in (path, path.with_suffix(".parquet")):
            if not needed.exists():
                raise FileNotFoundError(f"{needed} is missing: the set in {folder} has {len(_listed(folder))} shards")
        table = pd.read_parquet(path.with_suffix(".parquet"))
        if len(table) != said["images"] or verify and file_digest(path) != said["sha256"]:
            raise ValueError(f"{path} is not the shard that shards.json describes: restore it, or draw its images again")
        tables.append(table.assign(shard=k))
        paths.append(path)
    whole = pd.concat(tables, ignore_index=True)
    places = (whole[name].to_numpy() for name in ("shard", "offset", "size"))
    digests = whole.digest.tolist()
    texts = dict(zip(whole.prompt.unique(), whole.prompt.unique(), strict=True))  # each distinct prompt once in memory
    prompts = [texts[p] for p in whole.prompt]
    return ShardedSet(Pixels(paths, *places, digests), whole.stream[0], prompts, whole.number.tolist(), digests)


STAND_INS["shards.json"] = lambda folder: {"pixels": opened(folder).pixels}


def part_of(folder: Path, rows: Sequence[int], digest: str) -> Artifact:
    """The stage of some images of a folder of shards, in the order of `rows`; `digest` is that of the folder."""
    rows = [int(r) for r in rows]

    def make(out: Path) -> None:
        images = opened(folder)
        for k, start in enumerate(range(0, len(rows), PER_SHARD)):
            part = images.part(rows[start : start + PER_SHARD])
            write_shard(out, k, part.pixels, part.stream, part.prompts, part.numbers)
        finish(out)

    return stage("scale-part", {"rows": rows}, {"images": digest}, make)


def _listed(folder: Path) -> dict[str, dict]:
    path = folder / "shards.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: expected a folder of image shards, closed by `finish`")
    return json.loads(path.read_text("utf-8"))
