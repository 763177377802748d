"""The papers' claims, each tested on this study's numbers by a rule in `data/claims.toml`.

A claim's parts read rows that notebooks stored with `report.write`; a result that is still missing is a reason, not an
error. Rules apply to whole 95 % intervals, so a claim can also remain open. `data/README.md` says when the rules were fixed.
"""

import math
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from lib.desk import report
from lib.ground.cache import save_json
from lib.ground.paths import DATA, reports
from lib.ground.setups import NotServed

TABLE = DATA / "claims.toml"
KEYS = (
    "paper", "where", "claim", "rule", "paper_value", "value", "low", "high", "n", "seeds", "verdict", "notebook", "figure",
)  # fmt: skip
VERDICTS = ("reproduced", "not reproduced", "not resolved", "by construction", "cannot be tested here")
REPRODUCED, NOT_REPRODUCED, NOT_RESOLVED, BY_CONSTRUCTION, NOT_TESTED = VERDICTS
FOUND = VERDICTS[:3]  # possible results of a test; the others are counted separately
CLAIM = {"paper", "name", "at", "claim", "paper_value", "unit", "notebook", "figure", "parts", "reason", "by_construction"}
PART = {"of", "row", "value", "bounds"}
TESTS = ("above", "below", "near", "equals")
UNITS = ("%", "points", "%change", "images")
COUNTS = ("prompts", "pairs", "images", "n")  # the units of an interval: the first of these that a row has


class Missing(Exception):
    """Something that a rule needs is missing; the message says what."""


@dataclass(frozen=True)
class Found:
    """A part's measurement and whether its test holds: `state` is holds, fails, not resolved or missing."""

    state: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    seeds: int | None = None
    reason: str = ""


# ---- the table -------------------------------------------------------------------------------------------


def load(path: Path = TABLE) -> tuple[str, list[dict]]:
    """The first paper, and all claims (one from another paper names it); raises ValueError on an incomplete claim."""
    table = tomllib.loads(report.noted(path).read_text("utf-8"))
    for claim in table["claim"]:
        checked(claim)
    names = [claim["name"] for claim in table["claim"]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several claims have the same name: {', '.join(twice)}")
    return table["paper"], table["claim"]


def checked(claim: dict) -> dict:
    """The claim; raises ValueError if a key is unknown or missing, or a part has no test or too many."""
    name = claim.get("name", "a claim without a name")
    if unknown := set(claim) - CLAIM:
        raise ValueError(f"{name}: unknown keys: {', '.join(sorted(unknown))}")
    if lacking := {"name", "at", "claim", "notebook", "figure"} - set(claim):
        raise ValueError(f"{name}: missing keys: {', '.join(sorted(lacking))}")
    if ("parts" in claim) == ("reason" in claim):
        raise ValueError(f"{name}: needs either parts or the reason why it has none, but not both")
    if "by_construction" in claim and "parts" not in claim:
        raise ValueError(f"{name}: a claim that holds by construction needs parts that show it")
    for part in claim.get("parts", ()):
        if unknown := set(part) - PART - set(TESTS):
            raise ValueError(f"{name}: unknown keys in a part: {', '.join(sorted(unknown))}")
        if not {"of", "row"} <= set(part) or (len(tests := set(part) & set(TESTS)) != 1 and tests != {"above", "below"}):
            raise ValueError(f"{name}: a part needs `of`, `row` and exactly one test, or both `above` and `below`")
    if "parts" in claim and claim.get("unit") not in UNITS:
        raise ValueError(f"{name}: the unit must be one of {', '.join(UNITS)}")
    return claim


# ---- a part ----------------------------------------------------------------------------------------------


def chosen(rows: list[dict], row: dict, of: str) -> dict:
    """The one row whose columns have these values (a list: any of them)."""
    rows = [rows] if isinstance(rows, dict) else rows
    if absent := [column for column in row if not any(column in r for r in rows)]:
        raise Missing(f"result '{of}' has no column {', '.join(absent)}")
    allowed = {column: value if isinstance(value, list) else [value] for column, value in row.items()}
    hits = [r for r in rows if all(r.get(column) in values for column, values in allowed.items())]
    if len(hits) != 1:
        wanted = ", ".join(f"{column} = {value}" for column, value in row.items())
        raise Missing(f"result '{of}' has {len(hits) or 'no'} rows with {wanted}")
    return hits[0]


def number(row: dict, column: str, of: str) -> float:
    """The number in a row's column."""
    if not isinstance(row.get(column), (int, float)):
        raise Missing(f"result '{of}' has no number in column {column}")
    return row[column]


def interval(row: dict, part: dict) -> tuple[float, float | None, float | None]:
    """The part's value in a row, with its bounds (None: it has none)."""
    column, of = part.get("value", "value"), part["of"]
    value = number(row, column, of)
    low, high = part.get("bounds") or (("low", "high") if column == "value" else (f"{column}_low", f"{column}_high"))
    return value, row.get(low), row.get(high)


def count(row: dict) -> int | None:
    """The number of units behind the row's interval, by the first of COUNTS that it has."""
    return next((int(row[c]) for c in COUNTS if row.get(c) is not None), None)


def measured(part: dict, read: Callable[[str], list[dict]]) -> Found:
    """A part's numbers and the state of its test."""
    of = part["of"]
    try:
        row = chosen(read(of), part["row"], of)
        numbers = interval(row, part)
        state = state_of(part, *numbers)
    except Missing as missing:
        return Found("missing", reason=str(missing))
    seeds = row.get("seeds", 1)  # a result without this column comes from one run
    return Found(state, *numbers, count(row), len(seeds) if isinstance(seeds, list) else seeds)


def state_of(part: dict, value: float, low: float | None, high: float | None) -> str:
    """holds or fails, if the whole interval (for `equals`, the value) does; else not resolved."""
    if "equals" in part:
        return "holds" if value == part["equals"] else "fails"
    if low is None or high is None:
        raise Missing(f"result '{part['of']}' has no interval, which this rule needs")
    if "near" in part:
        target, margin = part["near"]
        inside, outside = max(high - target, target - low) <= margin + 1e-9, max(low - target, target - high) > margin
        return "holds" if inside else "fails" if outside else "not resolved"
    over, under = part.get("above", -math.inf), part.get("below", math.inf)
    return "holds" if low > over and high < under else "fails" if high <= over or low >= under else "not resolved"


def in_words(part: dict, unit: str) -> tuple[str, str, str]:
    """The part's rule as three phrases: the quantity, the row, and what must hold."""
    row = ", ".join(str(v[0] if isinstance(v, list) else v) for v in part["row"].values())
    quantity = f"{part.get('value', 'value').replace('_', ' ')} in '{part['of']}' of"
    if "equals" in part:
        return quantity, row, f"exactly {shown(part['equals'], unit)}"
    if "near" in part:
        target, margin = part["near"]
        width = shown(margin, "points" if unit == "%" else unit).lstrip("+")
        return quantity, row, f"95 % interval within {width} of {shown(target, unit)}"
    bounds = {"above": "lower", "below": "upper"}
    return quantity, row, " and ".join(f"{bounds[t]} 95 % bound {t} {shown(part[t], unit)}" for t in bounds if t in part)


def rule_of(claim: dict) -> str:
    """All parts in words; parts that differ only in the row are merged."""
    rows = {}
    for quantity, row, test in (in_words(part, claim["unit"]) for part in claim["parts"]):
        rows.setdefault((quantity, test), []).append(f"({row})")
    return "; ".join(f"{quantity} {' and '.join(where)}: {test}" for (quantity, test), where in rows.items())


# ---- a claim ---------------------------------------------------------------------------------------------


def judged(claim: dict, read: Callable[[str], list[dict]]) -> tuple[str, list[Found], str]:
    """The verdict, each part's finding, and why the verdict is not `reproduced` (empty if it is)."""
    if "reason" in claim:
        return NOT_TESTED, [], claim["reason"]
    parts = [measured(part, read) for part in claim["parts"]]
    states = [part.state for part in parts]
    if "missing" in states:
        return NOT_TESTED, parts, next(p.reason for p in parts if p.state == "missing")
    if why := claim.get("by_construction"):
        return BY_CONSTRUCTION, parts, why + ("" if set(states) == {"holds"} else ", but it is not shown to hold here")
    if "fails" in states:
        return NOT_REPRODUCED, parts, "the rule fails"
    if "not resolved" in states:
        return NOT_RESOLVED, parts, "the interval lies on both sides of the rule"
    return REPRODUCED, parts, ""


def counted(verdicts: Iterable[str]) -> str:
    """How many verdicts of each kind there are, in words, those of FOUND separate from the others."""
    n = Counter(verdicts)
    found = ", ".join(f"{n[v]} {v}" for v in FOUND)
    return f"of {sum(n[v] for v in FOUND)} claims that numbers can decide: {found}; in addition, " + ", ".join(
        f"{n[v]} {v}" for v in VERDICTS if v not in FOUND)  # fmt: skip


def reader(size: str, notebook: str) -> Callable[[str], list[dict]]:
    """A function that reads a result of this size, or says which notebook is needed."""

    def read(name: str) -> list[dict]:
        try:
            return report.read(name, size)
        except FileNotFoundError:
            raise Missing(f"needs notebook {notebook[:2]} (its result '{name}')") from None
        except NotServed as error:
            raise Missing(f"not served by this setup: {error}") from None

    return read


def judge_all(size: str) -> tuple[list[dict], list[dict]]:
    """Rows of claims.json, and for each claim a row with its name, unit, reason and the state of each part."""
    paper, table = load()
    rows, more = [], []
    for claim in table:
        verdict, parts, reason = judged(claim, reader(size, claim["notebook"]))
        first = parts[0] if parts else Found("missing")
        tested = verdict != NOT_TESTED
        sampled = tested and claim["unit"] != "images"  # a number of images is a count, not an estimate
        value, low, high = (first.value, first.low, first.high) if tested else (None, None, None)
        rule = rule_of(claim) if parts else "none: " + reason
        rows.append(dict(zip(KEYS, (
            claim.get("paper", paper), claim["at"], claim["claim"], rule, claim.get("paper_value"), value, low, high,
            first.n if sampled else None, first.seeds if sampled else None, verdict, claim["notebook"], claim["figure"],
        ), strict=True)))  # fmt: skip
        more.append(dict(name=claim["name"], unit=claim.get("unit", ""), reason=reason, parts=[p.state for p in parts]))
    return rows, more


def write(rows: list[dict], more: list[dict], size: str) -> Path:
    """Store both lists of `judge_all`: the first as claims.json of that size, the second as the result claim_parts."""
    report.write("claim_parts", more, size, "99_claims")
    path = reports(size) / "claims.json"
    save_json(path, report.plain(rows, "claims"))
    return path


def shown(value: float | None, unit: str) -> str:
    """A number in its unit; empty if there is none."""
    if value is None:
        return ""
    if unit == "images":
        return f"{value:,.0f} images"
    rounded = round(100 * value, 1) + 0.0  # no negative zero
    sign = "" if unit == "%" else "+" if rounded > 0 else ""
    return f"{sign}{rounded:g} {'%' if unit in ('%', '%change') else 'points'}"
