"""Labels that people gave, as the study reads them, and how reliable their raters are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.feedback import labels
from lib.feedback.answers import standing
from lib.feedback.incoming import csv_rows
from lib.feedback.pictures import pixels_of
from lib.feedback.store import Store
from lib.feedback.tasks import truth
from lib.images.sampling import ImageSet

ASKED = ["question", "prompt", "images"]  # what an answer is about
ENOUGH = 75  # good and bad labels each, below which a reward is seldom better than chance (notebook 04: 150 labels)


@dataclass(frozen=True)
class Answers:
    """The answers of a store that stand, with the columns of `lib.feedback.answers.Answer`, and its images: digest, stream,
    prompt, number, png."""

    rows: pd.DataFrame
    images: pd.DataFrame

    def pixels(self, digests: Sequence[str]) -> np.ndarray:
        """Archived images of one size, uint8 [image, height, width, 3], in the order of `digests`."""
        png = dict(zip(self.images.digest, self.images.png, strict=True))
        return np.stack([pixels_of(digest, png[digest]) for digest in digests])

    def shown(self) -> ImageSet:
        """The images of `labels`, in the same order."""
        table = self.labels()
        names = self.images.set_index("digest").loc[table.image]
        columns = (list(x) for x in (table.prompt, names.number, table.image))
        return ImageSet(self.pixels(table.image), names.stream.iloc[0], *columns)

    def labels(self, source: str = "human") -> pd.DataFrame:
        """The plain labels (good, bad or skip), in the schema of `lib.feedback.labels`."""
        found = self.rows[(self.rows.question == "good") & (self.rows["item"] == "plain")]
        return labels.checked(pd.DataFrame({
            "image": [images[0] for images in found.images], "prompt": found.prompt, "rater": found.rater,
            "label": found.value, "time": found.time, "source": source,
        }))  # fmt: skip

    def quality(self) -> pd.DataFrame:
        """By rater: answers, seconds per answer (their mean: the first answer on a screen takes the look at all of it), the
        share skipped; of repeated questions, how many were answered as before; of attention checks, how many correctly."""
        streams = dict(zip(self.images.digest, self.images.stream, strict=True))
        return pd.DataFrame([_quality(rater, rows, streams) for rater, rows in self.rows.groupby("rater")])


def _quality(rater: str, rows: pd.DataFrame, streams: dict[str, str]) -> dict:
    kinds = {kind: rows[rows["item"] == kind] for kind in ("plain", "repeat", "check")}
    before = kinds["plain"].set_index(ASKED).value
    again = [row.value == before[row.question, row.prompt, row.images] for row in kinds["repeat"].itertuples()
             if (row.question, row.prompt, row.images) in before.index]  # fmt: skip
    right = [row.value == truth(row.question, [streams[d] for d in row.images]) for row in kinds["check"].itertuples()]
    return dict(
        rater=rater, answers=len(kinds["plain"]), seconds=float(rows.seconds.mean()),
        skipped=float((kinds["plain"].value == "skip").mean()), repeats=len(again), same=sum(again), checks=len(right),
        right=sum(right),
    )  # fmt: skip


def answers_in(path: Path | str) -> Answers:
    """The answers in a store, or in a folder that `lib.feedback.exchange.export_store` wrote as Parquet."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no store or folder of answers {path}")
    if path.is_dir():
        rows, images = (pd.read_parquet(path / f"{name}.parquet") for name in ("answers", "images"))
        rows = rows.assign(**{name: rows[name].map(tuple) for name in ("images", "shown")})
        return Answers(standing(rows.astype(object).where(rows.notna(), None).astype({"seconds": float})), images)
    with Store.open(path) as store:
        return Answers(store.rows(), store.images())


def labels_in(path: Path | str) -> pd.DataFrame:
    """Labels in the schema of `lib.feedback.labels`, from a label file (.parquet, or .csv with the columns image, prompt,
    rater, label), a store of answers, or a folder of its export. Raises ValueError or FileNotFoundError that says what is
    wrong."""
    path = Path(path)
    if path.suffix == ".parquet":
        return labels.load(path)
    if path.suffix == ".csv" and path.exists():
        rows = [row for _, row in csv_rows(path, ("image", "prompt", "rater", "label"))]
        return labels.checked(pd.DataFrame(rows).assign(time="", source="human"))
    return answers_in(path).labels()


def lacking(table: pd.DataFrame) -> str:
    """What would do, in words, if a table has too few labels to train a reward on; empty if it has enough."""
    short = {label: ENOUGH - int((table.label == label).sum()) for label in ("good", "bad")}
    wanted = " and ".join(f"{n} more {label}" for label, n in short.items() if n > 0)
    return wanted and f"too few labels: {wanted} ones would do"
