"""Labels in the formats of released datasets: what each can hold, how a row is read, how a file is written.

None has times or repeats, and some tell no raters apart. Images are named `images/<digest>.png`; Pick-a-Pic has them inside,
there as PNG, too, so that no bit of them is lost.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import rankdata

from lib.feedback.answers import Answer, short
from lib.feedback.incoming import Row, csv_rows, field, json_rows, parquet_rows

TEXTNORM = {"good": 1, "bad": 0, "skip": -1}
# Diffusion-KTO splits Pick-a-Pic's images by whether they won, lost, or did both.
KTO = {"good": "exclusive_win", "bad": "exclusive_lose", "skip": "intersections"}
PICKS = {"A": [1.0, 0.0], "B": [0.0, 1.0], "tie": [0.5, 0.5]}


@dataclass(frozen=True)
class Format:
    """What a format can hold, and how it is read and written.

    `rows` gives a file's rows; `read` turns one into fields of `Answer`, in which images are digests, names of files or
    bytes; `write` makes a file's content from answers and a function that gives an image's PNG by its digest.
    """

    questions: tuple[str, ...]  # a file has the answers to one of them; the first unless told
    rows: Callable[[Path], Iterator[Row]]
    read: Callable[[dict], list[dict]]
    write: Callable[[list[Answer], Callable[[str], bytes]], bytes]
    raters: bool = True  # whether it tells raters apart
    skips: bool = False  # whether it has skipped questions


def _name(digest: str) -> str:
    return f"images/{digest}.png"


def _names(record: dict, name: str) -> list[str]:
    found = field(record, name, list)
    if strange := [x for x in found if not isinstance(x, str)]:
        raise ValueError(f"{name} has {short(strange[0])}: want names of images")
    return found


def _numbers(record: dict, name: str, images: int) -> list[int]:
    found = field(record, name, list)
    if len(found) != images or any(not isinstance(x, int) or isinstance(x, bool) for x in found):
        raise ValueError(f"{name} is {short(found)}: want {images} whole numbers, one an image")
    return found


def _key(known: dict, value, name: str) -> str:
    for key, own in known.items():
        if value == own and not isinstance(value, bool):
            return key
    raise ValueError(f"unknown {name} {short(value)}: one of {', '.join(map(str, known.values()))}")


def _json(records: list | dict) -> bytes:
    return (json.dumps(records, indent=1, ensure_ascii=False) + "\n").encode()


def csv_of(columns: Sequence[str], rows: Iterable[Sequence]) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    return file.getvalue().encode()


# ---- one image -----------------------------------------------------------------------------------------------------


def _read_labels(record: dict) -> list[dict]:
    return [{"rater": record["rater"], "prompt": record["prompt"], "images": [record["image"]], "value": record["label"]}]


def _write_labels(answers: list[Answer], png: Callable) -> bytes:
    return csv_of(("image", "prompt", "rater", "label"), [(a.images[0], a.prompt, a.rater, a.value) for a in answers])


def _read_textnorm(record: dict) -> list[dict]:
    image, prompt, given = field(record, "image", str), field(record, "caption", str), field(record, "human_labels", list)
    if not given:
        raise ValueError("human_labels is empty: want at least one label")
    values = [_key(TEXTNORM, x, "human label") for x in given]
    return [{"number": n, "prompt": prompt, "images": [image], "value": v} for n, v in enumerate(values, 1)]


def _write_textnorm(answers: list[Answer], png: Callable) -> bytes:
    found: dict[str, dict] = {}
    for a in sorted(answers, key=lambda a: a.rater):
        name = _name(a.images[0])
        record = found.setdefault(name, {"image": name, "caption": a.prompt, "human_labels": []})
        if record["caption"] != a.prompt:
            raise ValueError(f"image {a.images[0][:12]} has labels for two prompts, and TextNorm holds one: take labels")
        record["human_labels"].append(TEXTNORM[a.value])
    return _json(found)


def _kto_rows(path: Path) -> Iterator[Row]:
    return csv_rows(path, ("file_path", "caption", "label"), {"file_name": "file_path", "split": "label"})


def _read_kto(record: dict) -> list[dict]:
    return [{"prompt": record["caption"], "images": [record["file_path"]], "value": _key(KTO, record["label"], "label")}]


def _write_kto(answers: list[Answer], png: Callable) -> bytes:
    return csv_of(("file_path", "caption", "label"), [(_name(a.images[0]), a.prompt, KTO[a.value]) for a in answers])


# ---- several images ------------------------------------------------------------------------------------------------


def _read_hpd(record: dict) -> list[dict]:
    images = _names(record, "file_path")
    given = {"prompt": field(record, "prompt", str), "images": images, "rater": field(record, "user_hash", str)}
    if not 0 <= (best := field(record, "human_preference", int)) < len(images):
        raise ValueError(f"human_preference is {short(best)}: want the number of one of {len(images)} images, from 0")
    return [given | {"value": best}]


def _write_hpd(answers: list[Answer], png: Callable) -> bytes:
    return _json([
        {"id": n, "prompt": a.prompt, "file_path": [_name(x) for x in a.images], "human_preference": int(a.value),
         "user_hash": a.rater}
        for n, a in enumerate(answers)
    ])  # fmt: skip


def _read_hpd2(record: dict) -> list[dict]:
    images = _names(record, "file_path")
    chosen = _numbers(record, "human_preference", len(images))
    if sorted(chosen) != [0] * (len(images) - 1) + [1]:
        raise ValueError(f"human_preference is {short(chosen)}: want a single 1, for the preferred image, and 0 for others")
    return [{"prompt": field(record, "prompt", str), "images": images, "value": chosen.index(1)}]


def _write_hpd2(answers: list[Answer], png: Callable) -> bytes:
    return _json([
        {"prompt": a.prompt, "file_path": [_name(x) for x in a.images],
         "human_preference": [int(str(i) == a.value) for i in range(len(a.images))]}
        for a in answers
    ])  # fmt: skip


def _read_hpd2_test(record: dict) -> list[dict]:
    images, found = _names(record, "image_path"), []
    _numbers(record, "rank", len(images))
    for one in field(record, "raw_annotations", list):
        if not isinstance(one, dict):
            raise ValueError(f"raw_annotations has {short(one)}: want objects of rank and user_hash")
        ranks = _numbers(one, "rank", len(images))
        found.append({"prompt": field(record, "prompt", str), "images": images, "rater": field(one, "user_hash", str),
                      "value": " ".join(map(str, ranks))})  # fmt: skip
    return found


def _write_hpd2_test(answers: list[Answer], png: Callable) -> bytes:
    groups: dict[tuple, list[Answer]] = {}
    for a in answers:
        groups.setdefault((a.prompt, a.images), []).append(a)
    records = []
    for (prompt, images), given in groups.items():
        raw = [{"rank": [int(x) for x in a.value.split()], "user_hash": a.rater} for a in given]
        rank = rankdata(np.mean([r["rank"] for r in raw], 0), "min").astype(int).tolist()
        names = [_name(x) for x in images]
        records.append({"prompt": prompt, "image_path": names, "rank": rank, "raw_annotations": raw})
    return _json(records)


def _read_imagereward(record: dict) -> list[dict]:
    images = _names(record, "generations")
    ranks = _numbers(record, "ranking", len(images))
    return [{"prompt": field(record, "prompt", str), "images": images, "value": " ".join(map(str, ranks))}]


def _write_imagereward(answers: list[Answer], png: Callable) -> bytes:
    return _json([
        {"id": f"{n:06d}-0000", "prompt": a.prompt, "generations": [_name(x) for x in a.images],
         "ranking": [int(x) for x in a.value.split()]}
        for n, a in enumerate(answers)
    ])  # fmt: skip


def _read_pickapic(record: dict) -> list[dict]:
    if record.get("has_label") is False:
        return []
    labels = [float(field(record, f"label_{i}", (int, float))) for i in (0, 1)]
    user = record.get("user_id")
    return [{
        "prompt": field(record, "caption", str), "images": [field(record, f"jpg_{i}", bytes) for i in (0, 1)],
        "value": _key(PICKS, labels, "pair of labels"), "rater": None if user is None else str(user),
    }]  # fmt: skip


def _write_pickapic(answers: list[Answer], png: Callable) -> bytes:
    if large := next((a for a in answers if len(a.images) > 2), None):
        sides = f"answer {large.id} compares sides of {len(large.images) // 2} images"
        raise ValueError(f"{sides}, and Pick-a-Pic holds one a side: take Parquet of the whole store")
    columns = {"caption": [a.prompt for a in answers], "user_id": [a.rater for a in answers]}
    for i in (0, 1):
        columns |= {f"jpg_{i}": [png(a.images[i]) for a in answers], f"label_{i}": [PICKS[a.value][i] for a in answers],
                    f"image_{i}_uid": [a.images[i] for a in answers]}  # fmt: skip
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


FORMATS = {
    "labels": Format(("good",), lambda p: csv_rows(p, ("image", "prompt", "rater", "label")), _read_labels, _write_labels,
                  skips=True),
    "textnorm": Format(("good",), json_rows, _read_textnorm, _write_textnorm, skips=True),
    "kto": Format(("good",), _kto_rows, _read_kto, _write_kto, False, True),
    "hpd": Format(("best",), json_rows, _read_hpd, _write_hpd),
    "hpd2": Format(("best",), json_rows, _read_hpd2, _write_hpd2, False),
    "hpd2-test": Format(("rank",), json_rows, _read_hpd2_test, _write_hpd2_test),
    "imagereward": Format(("rank",), json_rows, _read_imagereward, _write_imagereward, False),
    "pickapic": Format(("preference", "alignment", "fidelity"),
                       lambda p: parquet_rows(p, ("caption", "jpg_0", "jpg_1", "label_0", "label_1")), _read_pickapic,
                       _write_pickapic),
}  # fmt: skip
