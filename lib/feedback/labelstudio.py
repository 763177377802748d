"""Campaigns in Label Studio: its labelling configuration and tasks for each of three questions, and its JSON export.

A task has its images as data URIs, or as files that Label Studio serves from a folder. Sides and positions are shuffled when
tasks are made; each task holds the order that was shown, so that answers come back about the true sides.
"""

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from xml.sax.saxutils import quoteattr

from lib.feedback.incoming import field
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


def configuration(question: str) -> str:
    """The labelling configuration, XML, for `good`, `alignment`, `fidelity` or `best`; keys 1, 2, 3 and 4 answer."""
    _refuse(question)
    places = [f'<Image name="place_{i}" value="$place_{i}" zoom="false"/>' for i in range(1, NUMBER[question] + 1)]
    half = len(places) // 2
    groups = [places[:half], places[half:]] if len(places) == 8 else [[place] for place in places]
    boxes = "\n".join(f'    <View style="flex: 1">\n      {"".join(group)}\n    </View>' for group in groups)
    choices = "\n".join(f'    <Choice value="{c}" hotkey="{i}"/>' for i, c in enumerate(CHOICES[question], 1))
    return f"""<View>
  <Header value={quoteattr(ASKED[question])}/>
  <Text name="prompt" value="$prompt"/>
  <View style="display: flex; gap: 2em">
{boxes}
  </View>
  <Choices name="answer" toName="place_1" choice="single" showInline="true">
{choices}
  </Choices>
</View>
"""


def data_uri(png: bytes) -> str:
    """An image within a task."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def tasks(
    question: str, items: Iterable[tuple[str, Sequence[str], str]], address: Callable[[str], str], seed: int = 0
) -> list[dict]:
    """Tasks for items (prompt, digests of the images, plain or repeat or check), in their order.

    Of eight images the first four are side A. `address` gives an image's address by its digest: a data URI, or `LOCAL` and
    the name of a file. Sides and positions are shuffled by `seed`. Raises ValueError for another number of images.
    """
    _refuse(question)
    found = []
    for number, (prompt, digests, item) in enumerate(items):
        if len(digests) != NUMBER[question]:
            raise ValueError(f"a task of {question!r} has {NUMBER[question]} images, item {number} has {len(digests)}")
        name = name_of(question, number, prompt, *digests)
        shown, order = _shuffled(question, uniforms([name_of(name, i) for i in range(len(digests))], "shown", seed).tolist())
        places = {f"place_{i}": address(digests[k]) for i, k in enumerate(order, 1)}
        data = {"question": question, "prompt": prompt, "item": item, "images": list(digests), "shown": shown}
        found.append({"data": data | places})
    return found


def _shuffled(question: str, draws: list[float]) -> tuple[list[str], list[int]]:
    """What is noted as shown, and the true number of the image at each place."""
    if len(draws) == 8:
        sides = ["A", "B"] if draws[0] < 0.5 else ["B", "A"]
        return sides, [i + 4 * (side == "B") for side in sides for i in range(4)]
    order = sorted(range(len(draws)), key=draws.__getitem__)
    return [str(i) for i in order], order


def read_task(record: dict) -> list[dict]:
    """Answers in one task of an export, as fields of `Answer`; a cancelled annotation is a skip, predictions are ignored."""
    data, found = field(record, "data", dict), []
    question = field(data, "question", str)
    _refuse(question)
    digests, shown = field(data, "images", list), field(data, "shown", list)
    sides = {"left": shown[0], "right": shown[-1]} if shown else {}
    order = [i + 4 * (s == "B") for s in shown for i in range(4)] if len(digests) == 8 else [int(s) for s in shown]
    if len(digests) != NUMBER[question] or sorted(order) != list(range(len(digests))):
        raise ValueError(f"images and shown do not fit the question {question!r}: want the task as it was exported")
    images = [_inside(data.get(f"place_{order.index(i) + 1}"), digest) for i, digest in enumerate(digests)]
    for one in field(record, "annotations", list):
        if not isinstance(one, dict):
            raise ValueError(f"annotations has {str(one)[:40]!r}: want objects")
        chosen = "skip" if one.get("was_cancelled") else _chosen(question, field(one, "result", list))
        value = sides.get(chosen, chosen) if question in ("alignment", "fidelity") else chosen
        value = shown[int(chosen) - 1] if question == "best" and chosen != "skip" else value
        found.append({
            "question": question, "prompt": field(data, "prompt", str), "images": images, "digests": digests, "value": value,
            "shown": shown, "item": field(data, "item", str), "rater": _rater(one.get("completed_by")),
            "seconds": one.get("lead_time"), "time": _utc(one.get("created_at")),
        })  # fmt: skip
    return found


def _refuse(question: str) -> None:
    if question not in ASKED:
        raise ValueError(f"unknown question {question!r}: one of {', '.join(ASKED)}")


def _chosen(question: str, result: list) -> str:
    given = [r["value"]["choices"] for r in result if isinstance(r, dict) and r.get("from_name") == "answer"]
    if len(given) != 1 or len(given[0]) != 1 or given[0][0] not in CHOICES[question]:
        raise ValueError(f"an annotation answers {str(given)[:60]}: want one of {', '.join(CHOICES[question])}")
    return given[0][0]


def _inside(address: object, digest: str) -> str | bytes:
    """The content of an image that is within the task; otherwise its digest."""
    if isinstance(address, str) and (found := re.match("data:image/[a-z]+;base64,", address)):
        return base64.b64decode(address[found.end() :], validate=True)
    return digest


def _rater(who: object) -> str:
    """Annotators by the number that Label Studio gives them: a store has no names of people."""
    number = who.get("id") if isinstance(who, dict) else who
    if not isinstance(number, int):
        raise ValueError(f"completed_by is {str(who)[:40]!r}: want the number of an annotator")
    return f"annotator-{number}"


def _utc(text: object) -> str:
    if not text:
        return ""
    return datetime.fromisoformat(str(text)).astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
