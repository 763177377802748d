"""Labels of simulated and of real raters: one schema, one store (Parquet), nothing that people gave is ever lost."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lib.cache import atomic_write

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
    """The table in the schema's columns and types; raises ValueError that says what is wrong with it."""
    if missing := [c for c in SCHEMA if c not in table]:
        raise ValueError(f"label table lacks the column {missing[0]!r}: want {', '.join(SCHEMA)}")
    table = table[list(SCHEMA)].astype(SCHEMA).reset_index(drop=True)
    for column, known in (("label", LABELS), ("source", SOURCES)):
        if len(wrong := table.loc[~table[column].isin(known), column]):
            raise ValueError(f"unknown {column} {wrong.iloc[0]!r} in row {wrong.index[0]}: one of {', '.join(known)}")
    for column in ("image", "prompt", "rater"):
        if (empty := table[column].isna() | (table[column] == "")).any():
            raise ValueError(f"row {int(empty.idxmax())} of the label table has no {column}")
    if (twice := table.duplicated(["image", "prompt", "rater"])).any():
        row = table[twice].iloc[0]
        raise ValueError(f"rater {row.rater!r} labelled image {row.image[:12]} for {row.prompt!r} twice")
    return table


def save(path: Path, table: pd.DataFrame) -> None:
    """Write a whole label file or none."""
    atomic_write(path, checked(table).to_parquet(index=False))


def load(path: Path) -> pd.DataFrame:
    """Read and check a label file."""
    if not path.exists():
        raise FileNotFoundError(f"no label file {path}")
    return checked(pd.read_parquet(path))


def append(path: Path, table: pd.DataFrame) -> None:
    """Add labels to a file. A rater's second label of the same image and prompt replaces the first in the file, which is
    kept beside it under `.replaced.parquet`: labels that people gave are not lost."""
    new = checked(table)
    if path.exists():
        old, keys = load(path), ["image", "prompt", "rater"]
        again = old.merge(new[keys], on=keys, how="left", indicator="in_new")["in_new"].eq("both").to_numpy()
        if again.any():
            beside = path.with_suffix(".replaced.parquet")
            before = pd.read_parquet(beside) if beside.exists() else old.iloc[:0]
            atomic_write(beside, pd.concat([before, old[again]], ignore_index=True).to_parquet(index=False))
        new = pd.concat([old[~again], new], ignore_index=True)
    save(path, new)


def ratings_matrix(table: pd.DataFrame, raters: Sequence[str] | None = None) -> pd.DataFrame:
    """Items (image, prompt) x raters: 1 good, 0 bad, NaN for skip or no label."""
    table = checked(table)
    values = table.assign(value=table.label.map({"good": 1.0, "bad": 0.0}).astype(float))
    wide = values.pivot(index=["image", "prompt"], columns="rater", values="value")
    return wide.reindex(columns=list(raters)) if raters is not None else wide


def shares(table: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """Shares of good, bad and skip, with skips in the denominator (Lee et al. 2023, Table 2), and the number of labels."""
    groups = [table] if by is None else [g for _, g in table.groupby(by, sort=False)]
    rows = [{label: float((g.label == label).mean()) for label in LABELS} | {"n": len(g)} for g in groups]
    return pd.DataFrame(rows, index=["all"] if by is None else [k for k, _ in table.groupby(by, sort=False)])
