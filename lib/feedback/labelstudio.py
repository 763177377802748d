"""Campaigns in Label Studio: its labelling configuration and tasks for each of three questions, and its JSON export.

A task has its images as data URIs, or as files that Label Studio serves from a folder. Sides and positions are shuffled when
tasks are made; each task holds the order that was shown, so that answers come back about the true sides.
"""

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pandas as pd

from lib.feedback.answers import short
from lib.feedback.assignments import AssignmentSpec, assign
from lib.feedback.incoming import field
from lib.feedback.store import Store
from lib.ground.cache import as_json, atomic_write
from lib.ground.seeds import name_of, uniforms

ASKED = {
    "good": "Does the image show what the text says?",
    "alignment": "Which four images show better what the text says?",
    "fidelity": "Which four images look better, whatever the text says?",
    "best": "Which image do you prefer for this text?",
}
CHOICES = {"good": ("good", "bad", "skip"), "alignment": ("left", "right", "tie"), "fidelity": ("left", "right", "tie"),
           "best": ("1", "2", "3", "4")}  # fmt: skip
NUMBER = {"good": 1, "alignment": 8, "fidelity": 8, "best": 4}
LOCAL = "/data/local-files/?d="
TOOLS = ".lsf-toolbar {display: none}"  # the bar takes its width from the image, of which the edges are then cut off
_BELOW = "\n      "


def configuration(question: str) -> str:
    """The labelling configuration, XML, for `good`, `alignment`, `fidelity` or `best`; keys 1, 2, 3 and 4 answer."""
    _refuse(question)
    plain = 'smoothing="false" zoomControl="false" rotateControl="false" selectionControl="false"'
    places = [f'<Image name="place_{i}" value="$place_{i}" {plain}/>' for i in range(1, NUMBER[question] + 1)]
    sides = [places[:4], places[4:]] if len(places) == 8 else [places]
    columns = 2 if len(sides) == 2 else len(places)
    grid = f"display: grid; gap: 8px; grid-template-columns: repeat({columns}, 192px)"
    boxes = "\n".join(f'    <View style="{grid}">\n      {_BELOW.join(side)}\n    </View>' for side in sides)
    choices = "\n".join(f'    <Choice value="{c}" hotkey="{i}"/>' for i, c in enumerate(CHOICES[question], 1))
    return f"""<View>
  <Style>{TOOLS}</Style>
  <Header value={quoteattr(ASKED[question])}/>
  <Text name="prompt" value="$prompt"/>
  <View style="display: flex; gap: 4em">
{boxes}
  </View>
  <Choices name="answer" toName="place_1" choice="single" showInline="true">
{choices}
  </Choices>
</View>
"""


def tasks(
    question: str, items: Iterable[tuple[str, Sequence[str], str]], address: Callable[[str], str], rater: str = "",
    seed: int = 0,
) -> list[dict]:  # fmt: skip
    """Tasks for items (prompt, digests of the images, plain or repeat or check), in their order.

    Of eight images the first four are side A. `address` gives an image's address by its digest: a data URI, or `LOCAL` and
    the name of a file. Answers are those of `rater` or, if it is empty, of the annotator's number. Sides and positions are
    shuffled by `seed`. Raises ValueError for another number of images.
    """
    _refuse(question)
    found = []
    for number, (prompt, digests, item) in enumerate(items):
        if len(digests) != NUMBER[question]:
            raise ValueError(f"a task of {question!r} has {NUMBER[question]} images, item {number} has {len(digests)}")
        name = name_of(question, rater, number, prompt, *digests)
        shown, order = _shuffled(uniforms([name_of(name, i) for i in range(len(digests))], "shown", seed).tolist())
        places = {f"place_{i}": address(digests[k]) for i, k in enumerate(order, 1)}
        data = {"question": question, "prompt": prompt, "item": item, "images": list(digests), "shown": shown}
        found.append({"data": data | ({"rater": rater} if rater else {}) | places})
    return found


def export_tasks(
    store: Store, folder: Path | str, question: str, sets: Sequence[tuple[str, Sequence[str]]], raters: Sequence[str],
    labels: int | Sequence[int] = 1, known: Sequence[tuple[str, Sequence[str]]] = (),
    spec: AssignmentSpec = AssignmentSpec(), inside: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Write a campaign on archived images: `configuration.xml`, and a file of tasks for each rater.

    `sets` and `known` are (prompt, digests); who gets which is as in `lib.feedback.assignments.assign`, whose table is
    returned. Images are `inside` the tasks or, for Label Studio's local files, in the folder `images`.
    """
    if strange := [rater for rater in raters if not re.fullmatch(r"[\w@ -][\w.@ -]*", rater)]:
        raise ValueError(f"rater {strange[0]!r} cannot name a file: want letters, digits, spaces and . @ - _")
    folder, both = Path(folder), [*sets, *known]
    names = [name_of(prompt, *digests) for prompt, digests in both]
    plan = assign(names[: len(sets)], raters, labels, names[len(sets) :], spec)
    items, address = dict(zip(names, both, strict=True)), _data_uri if inside else _local
    for rater, one in plan.groupby("rater", sort=False):
        given = [(*items[name], item) for name, item in zip(one.image, one["item"], strict=True)]
        made = tasks(question, given, lambda digest: address(store, digest), rater, spec.seed)
        atomic_write(folder / f"{rater}.json", as_json(made))
    for digest in () if inside else sorted({d for _, digests in both for d in digests}):
        atomic_write(folder / "images" / f"{digest}.png", store.png(digest))
    atomic_write(folder / "configuration.xml", configuration(question))
    return plan


def _data_uri(store: Store, digest: str) -> str:
    return "data:image/png;base64," + base64.b64encode(store.png(digest)).decode()


def _local(store: Store, digest: str) -> str:
    return f"{LOCAL}images/{digest}.png"


def _shuffled(draws: list[float]) -> tuple[list[str], list[int]]:
    """What is noted as shown, and the true number of the image at each place."""
    if len(draws) == 8:
        shown = ["A", "B"] if draws[0] < 0.5 else ["B", "A"]
    else:
        shown = [str(i) for i in sorted(range(len(draws)), key=draws.__getitem__)]
    return shown, _order(shown)


def _order(shown: list) -> list[int]:
    """The true number of the image at each place; empty if what is noted as shown makes no sense."""
    if sorted(map(str, shown)) == ["A", "B"]:
        return [i + 4 * (side == "B") for side in shown for i in range(4)]
    order = [int(x) for x in shown if isinstance(x, str) and x.isdecimal()]
    return order if sorted(order) == list(range(len(shown))) else []


def read_task(record: dict) -> list[dict]:
    """Answers in one task of an export, as fields of `Answer`; a cancelled annotation is a skip, predictions are ignored."""
    data, found = field(record, "data", dict), []
    question = field(data, "question", str)
    _refuse(question)
    digests, shown = field(data, "images", list), field(data, "shown", list)
    if not len(digests) == NUMBER[question] == len(order := _order(shown)):
        raise ValueError(f"images and shown do not fit the question {question!r}: want the task as it was exported")
    images = [_inside(data.get(f"place_{order.index(i) + 1}"), digest) for i, digest in enumerate(digests)]
    sides = {"left": shown[0], "right": shown[-1]}
    for one in field(record, "annotations", list):
        if not isinstance(one, dict):
            raise ValueError(f"annotations has {short(one)}: want objects")
        chosen = "skip" if one.get("was_cancelled") else _chosen(question, field(one, "result", list))
        value = sides.get(chosen, chosen) if question in ("alignment", "fidelity") else chosen
        value = shown[int(chosen) - 1] if question == "best" and chosen != "skip" else value
        found.append({
            "question": question, "prompt": field(data, "prompt", str), "images": images, "digests": digests, "value": value,
            "shown": shown, "item": field(data, "item", str), "rater": data.get("rater") or _rater(one.get("completed_by")),
            "seconds": one.get("lead_time"), "time": _utc(one.get("created_at")),
        })  # fmt: skip
    return found


def _refuse(question: str) -> None:
    if question not in ASKED:
        raise ValueError(f"unknown question {short(question)}: one of {', '.join(ASKED)}")


def _chosen(question: str, result: list) -> str:
    given = [r["value"]["choices"] for r in result if isinstance(r, dict) and r.get("from_name") == "answer"]
    if len(given) != 1 or len(given[0]) != 1 or given[0][0] not in CHOICES[question]:
        raise ValueError(f"an annotation answers {short(given)}: want one of {', '.join(CHOICES[question])}")
    return given[0][0]


def _inside(address: object, digest: str) -> str | bytes:
    """The content of an image that is within the task; otherwise its digest."""
    if isinstance(address, str) and (found := re.match("data:image/[a-z]+;base64,", address)):
        try:
            return base64.b64decode(address[found.end() :], validate=True)
        except ValueError as error:
            raise ValueError("an image within the task is no base64: want the task as it was exported") from error
    return digest


def _rater(who: object) -> str:
    """Annotators by the number that Label Studio gives them: a store has no names of people."""
    number = who.get("id") if isinstance(who, dict) else who
    if not isinstance(number, int):
        raise ValueError(f"completed_by is {short(who)}: want the number of an annotator")
    return f"annotator-{number}"


def _utc(text: object) -> str:
    if not text:
        return ""
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except ValueError as error:
        raise ValueError(f"created_at is {short(text)}: want ISO 8601") from error
