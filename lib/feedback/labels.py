"""Labels of simulated and real raters: one schema, one store (Parquet), and no label that a person gave is ever lost."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from lib.ground.cache import atomic_write

LABELS = ("good", "bad", "skip")
SOURCES = ("simulated", "human", "reader", "imported")
SCHEMA = {
    "image": "string",  # SHA-256 of the uint8 pixels
    "prompt": "string",
    "rater": "string",
    "label": "string",  # one of LABELS
    "time": "string",  # ISO 8601, UTC; empty for simulated raters
    "source": "string",  # one of SOURCES
}


def checked(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the schema's columns and types; raises ValueError that says what is wrong with it."""
    _has(table, SCHEMA)
    table = table[list(SCHEMA)].astype(SCHEMA).reset_index(drop=True)
    _refuse_unknown(table, "label", LABELS)
    _refuse_unknown(table, "source", SOURCES)
    for column in ("image", "prompt", "rater"):
        if (empty := table[column].isna() | (table[column] == "")).any():
            raise ValueError(f"row {int(empty.idxmax())} of the label table has no {column}")
    if (twice := table.duplicated(["image", "prompt", "rater"])).any():
        row = table[twice].iloc[0]
        raise ValueError(f"rater {row.rater!r} labelled image {row.image[:12]} for {row.prompt!r} twice: expected one label")
    return table


def _has(table: pd.DataFrame, columns: Iterable[str]) -> None:
    if missing := [c for c in columns if c not in table]:
        raise ValueError(f"the label table lacks the column {missing[0]!r}: expected {', '.join(SCHEMA)}")


def _refuse_unknown(table: pd.DataFrame, column: str, known: Sequence[str]) -> None:
    if len(wrong := table.loc[~table[column].isin(known), column]):
        raise ValueError(f"unknown {column} {wrong.iloc[0]!r} in row {wrong.index[0]}: expected one of {', '.join(known)}")


def save(path: Path, table: pd.DataFrame) -> None:
    """Write a label file, completely or not at all."""
    atomic_write(path, checked(table).to_parquet(index=False))


def load(path: Path) -> pd.DataFrame:
    """Read and check a label file."""
    if not path.exists():
        raise FileNotFoundError(f"there is no label file {path}")
    return checked(pd.read_parquet(path))


def append(path: Path, table: pd.DataFrame) -> None:
    """Add labels to a file. A rater's new label for the same image and prompt replaces the old one, which moves to a file
    `.replaced.parquet` beside it, so that no label is lost. Raises ValueError if a new label would duplicate an old one of
    the same rater, image and prompt because the two are spelt differently (capitals, spaces or full stops)."""
    new = checked(table)
    if path.exists():
        old, keys = load(path), ["image", "prompt", "rater"]
        said, given = (list(t[keys].itertuples(index=False, name=None)) for t in (old, new))
        alike, exact = {(*_plain(i, p), r): (i, p) for i, p, r in said}, set(said)
        if other := [(i, p, r) for i, p, r in given if (*_plain(i, p), r) in alike and (i, p, r) not in exact]:
            (image, prompt, rater), count = other[0], f"{len(other):,} of {len(new):,} new labels"
            was, asked = alike[*_plain(image, prompt), rater]
            raise ValueError(f"{count} are of images that the file spells differently: {image!r} for {prompt!r} is in it as "
                             f"{was!r} for {asked!r}")  # fmt: skip
        again = old.merge(new[keys], on=keys, how="left", indicator="in_new")["in_new"].eq("both").to_numpy()
        if again.any():
            beside = path.with_suffix(".replaced.parquet")
            before = pd.read_parquet(beside) if beside.exists() else old.iloc[:0]
            atomic_write(beside, pd.concat([before, old[again]], ignore_index=True).to_parquet(index=False))
        new = pd.concat([old[~again], new], ignore_index=True)
    save(path, new)


def ratings_matrix(table: pd.DataFrame, raters: Sequence[str] | None = None) -> pd.DataFrame:
    """Items (image, prompt) x raters: 1 good, 0 bad, NaN for skip or no label. Refuses `raters` who gave no labels."""
    table = checked(table)
    if raters is not None and (strange := [r for r in raters if r not in set(table.rater)]):
        count, known = f"{len(strange)} of {len(raters)}", ", ".join(sorted(set(table.rater))[:9])
        raise ValueError(f"{count} raters gave no labels, such as {strange[0]!r}: the raters in the table are {known}")
    values = table.assign(value=table.label.map({"good": 1.0, "bad": 0.0}).astype(float))
    wide = values.pivot(index=["image", "prompt"], columns="rater", values="value")
    return wide.reindex(columns=list(raters)) if raters is not None else wide


# ---- labels and images ---------------------------------------------------------------------------------------------


def matched(table: pd.DataFrame, images: Sequence[str], prompts: Sequence[str], every: bool = False) -> pd.DataFrame:
    """A label table unchanged, if each of its rows is about an image of a set: `images` (digests) and `prompts`, [image].

    Joining it to the set by (image, prompt) then loses no label. Images without a label are allowed (a reader may have
    labelled only some) and get NaN in the join, unless `every` image must have one. Otherwise raises ValueError that says
    how many rows match no image, shows one, and says what is probably wrong with it.
    """
    _has(table, ("image", "prompt", "label"))
    _refuse_unknown(table, "label", LABELS)
    refuse_strangers("labels", zip(table.image, table.prompt, strict=True), images, prompts)
    labelled = set(zip(table.image, table.prompt, strict=True))
    if every and (without := [pair for pair in zip(images, prompts, strict=True) if pair not in labelled]):
        count, (image, prompt) = f"{len(without):,} of {len(images):,} images", without[0]
        raise ValueError(f"{count} have no label, such as {image!r} for {prompt!r}: every image of the set needs one here")
    return table


def refuse_strangers(what: str, pairs: Iterable[tuple[str, str]], images: Sequence[str], prompts: Sequence[str]) -> None:
    """Raise ValueError unless all `pairs` of image and prompt (called `what`) are in a set: digests and prompts, [image]."""
    if len(images) != len(prompts):
        raise ValueError(f"need one prompt per image, got {len(images):,} images and {len(prompts):,} prompts")
    pairs, known = list(pairs), list(zip(images, prompts, strict=True))
    there = set(known)
    if strange := [pair for pair in pairs if pair not in there]:
        count, (image, prompt) = f"{len(strange):,} of {len(pairs):,} {what}", map(str, strange[0])
        why = _why(image, prompt, known)
        raise ValueError(f"{count} match no image of the set, such as image {image!r} for {prompt!r}: {why}")


def _why(image: str, prompt: str, known: list[tuple[str, str]]) -> str:
    """What is probably wrong with an image and prompt that are not among those known, and what would be right."""
    if not known:
        return "the set has no images"
    plain, digests = _plain(image, prompt)[0], {digest for digest, _ in known}
    if image in digests:
        texts = list(dict.fromkeys(text for digest, text in known if digest == image))[:3]
        return f"the set has this image for another prompt, expected exactly {' or '.join(map(repr, texts))}"
    if plain in digests:
        return f"the digest is written with capital letters or spaces, expected {plain!r}"
    wanted = f"expected the SHA-256 of the image's uint8 pixels, such as {known[0][0]!r} for {known[0][1]!r}"
    if re.fullmatch("[0-9a-f]{64}", plain):
        return f"no image has this digest (are these labels of other images, or is it the digest of a file?), {wanted}"
    if any(sign in image for sign in "./\\"):
        return f"this is the name of a file, {wanted}"
    return f"this is not the digest of an image, {wanted}"


def _plain(image: str, prompt: str) -> tuple[str, str]:
    """Image and prompt normalised for comparison: without capitals, surrounding spaces and final full stops."""
    return image.strip().lower(), prompt.strip().rstrip(".").lower()


def shares(table: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """Shares of good, bad and skip, with skips in the denominator (Lee et al. 2023, Table 2), and the number of labels."""
    if by is not None and (lost := table[by].isna()).any():
        raise ValueError(f"{lost.sum():,} of {len(table):,} labels have no {by}: every label needs one")
    groups = [table] if by is None else [g for _, g in table.groupby(by, sort=False)]
    rows = [{label: float((g.label == label).mean()) for label in LABELS} | {"n": len(g)} for g in groups]
    return pd.DataFrame(rows, index=["all"] if by is None else [k for k, _ in table.groupby(by, sort=False)])
