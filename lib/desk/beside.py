"""Yours beside ours: `python -m lib.desk.beside --size SIZE` holds your run against the one that we committed.

Which verdicts on claims agree, and which of your quality figures lie outside our 95 % interval, with how many should by
chance: a short table in the terminal, all rows in beside.md of your run's folder. Exit code 1: your run is not whole.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path

from scipy.stats import norm

from lib.desk.claims import shown
from lib.desk.report import best_published, claims_of, interval, quality_entries
from lib.ground.cache import atomic_write
from lib.ground.paths import published, reports
from lib.ground.sizes import SIZES

Z = 1.96  # half the width of a 95 % interval, in standard errors
SHOWN = 12  # rows in the terminal


def chance_outside(ours: Mapping, yours: Mapping) -> float:
    """The chance that your value falls outside our interval if both runs drew everything anew, from both widths.

    The gap of two runs has the standard error sqrt(s_ours^2 + s_yours^2), our interval ends 1.96 s_ours away. Between two
    runs as exact as each other this is 17 %, not 5 %.
    """
    s_ours, s_yours = ((q["high"] - q["low"]) / (2 * Z) for q in (ours, yours))
    return float(2 * norm.sf(Z * s_ours / sqrt(s_ours**2 + s_yours**2))) if s_ours or s_yours else 0.0


def compared_claims(ours: Sequence[Mapping], yours: Sequence[Mapping]) -> list[dict]:
    """A row a claim of either run, by name: both values and verdicts (None: the run has no such claim) and `agree`."""
    a, b = ({c["name"]: c for c in claims} for claims in (ours, yours))
    rows = []
    for name in a | b:
        row = {"name": name}
        for whose, claims in (("ours", a), ("yours", b)):
            claim = claims.get(name)
            row |= {whose: claim and claim["verdict"], f"{whose} value": claim and shown(claim["value"], claim["unit"])}
        rows.append(row | {"agree": row["ours"] == row["yours"]})
    return rows


def compared_values(ours: Sequence[Mapping], yours: Sequence[Mapping]) -> list[dict]:
    """A row a quality figure of either run, by name: both (None: the run has none), whether yours lies `outside` our
    interval (None: nothing to compare) and the `chance` that it would."""
    a, b = ({q["name"]: q for q in entries} for entries in (ours, yours))
    rows = []
    for name in sorted(a | b):
        row = {"name": name, "ours": a.get(name), "yours": b.get(name), "outside": None, "chance": None}
        if all(q and q["low"] is not None and q["high"] is not None for q in (row["ours"], row["yours"])):
            row["outside"] = not row["ours"]["low"] <= row["yours"]["value"] <= row["ours"]["high"]
            row["chance"] = chance_outside(row["ours"], row["yours"])
        rows.append(row)
    return rows


# ---- in words ----------------------------------------------------------------------------------------------------


def summary(size: str, of: str, claims: Sequence[Mapping], values: Sequence[Mapping]) -> list[str]:
    """What the comparison of your run of one size with ours `of` another, or of the same, comes to, in sentences."""
    tested = [v for v in values if v["outside"] is not None]
    outside, expected = (sum(v[k] for v in tested) for k in ("outside", "chance"))
    compared = [
        f"Your run of size {size} beside ours of size {of}.",
        f"Verdicts: {sum(c['agree'] for c in claims)} of {len(claims)} agree.",
        f"Values: {outside} of {len(tested)} lie outside our 95 % interval; if both runs drew everything anew, about "
        f"{expected:.0f} would by chance.",
    ]
    if size == of:
        return [*compared, "With the same seed on another machine images and raters are mostly the same: expect fewer."]
    return [*compared, f"We did not publish size {size}: intervals of another size are of another width, and what depends "
            "on how much was learnt from differs by more than chance."]  # fmt: skip


def number(q: Mapping | None) -> str:
    """A quality figure with its interval."""
    return interval(q["value"], q["low"], q["high"], digits=3) if q else "none"


def differing(claims: Sequence[Mapping]) -> list[tuple[str, ...]]:
    """Claims on which the verdicts differ: name, ours, yours."""

    def said(claim: Mapping, whose: str) -> str:
        return f"{claim[whose] or 'no such claim'} {claim[f'{whose} value'] or ''}".strip()

    return [(c["name"], said(c, "ours"), said(c, "yours")) for c in claims if not c["agree"]]


def terminal(said: Sequence[str], claims: Sequence[Mapping], values: Sequence[Mapping]) -> str:
    """The sentences, then what differs: at most `SHOWN` rows, verdicts first."""
    rows = differing(claims) + [(v["name"], number(v["ours"]), number(v["yours"])) for v in values if v["outside"]]
    table = [("", "ours", "yours"), *rows[:SHOWN]]
    widths = [max(len(row[i]) for row in table) for i in range(3)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table if rows]
    return "\n".join([*said, *lines, *([f"and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else [])])


def page(said: Sequence[str], claims: Sequence[Mapping], values: Sequence[Mapping]) -> str:
    """All rows, as Markdown."""
    lines = ["# Yours beside ours", "", *said, "", "## Verdicts that differ", ""]
    apart = differing(claims)
    lines += ["| claim | ours | yours |", "| --- | --- | --- |", *map(line, apart)] if apart else ["None."]
    lines += ["", "## Values", "", "| value | ours [95 % interval] | yours | inside ours | chance of outside |",
              "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for v in values:
        inside = "no interval" if v["outside"] is None else "**no**" if v["outside"] else "yes"
        chance = "" if v["chance"] is None else f"{v['chance']:.0%}"
        lines.append(line((f"`{v['name']}`", number(v["ours"]), number(v["yours"]), inside, chance)))
    lines += ["", "## Verdicts that agree", "", "| claim | verdict | ours | yours |", "| --- | --- | --- | --- |"]
    lines += [line((c["name"], c["ours"], c["ours value"], c["yours value"])) for c in claims if c["agree"]]
    return "\n".join(lines) + "\n"


def line(cells: Sequence[str]) -> str:
    """A row of a table of Markdown."""
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def beside(size: str, ours: Path) -> str:
    """Write beside.md into the folder of your run, and return the terminal's words; raises ValueError without a run."""
    yours = reports(size)
    if not (yours / "claims.json").exists():
        raise ValueError(f"there is no whole run of size {size} yet: run `make reproduce SIZE={size}` first")
    claims = compared_claims(claims_of(ours), claims_of(yours))
    values = compared_values(quality_entries(ours), quality_entries(yours))
    said = summary(size, ours.name, claims, values)
    atomic_write(yours / "beside.md", page(said, claims, values))
    return terminal(said, claims, values) + f"\nall rows: {yours / 'beside.md'}"


def main(argv: list[str] | None = None) -> int:
    """Compare a run with what we published of its size, or else with the largest size that we did."""
    parser = argparse.ArgumentParser(prog="python -m lib.desk.beside", description=main.__doc__)
    parser.add_argument("--size", default="laptop", choices=SIZES)
    size = parser.parse_args(argv).size
    of = size if (published(size) / "claims.json").exists() else None if size == "smoke" else best_published()
    try:
        print(beside(size, published(of)) if of else f"nothing was published to hold size {size} against")
    except (OSError, ValueError, KeyError) as error:
        print(f"beside: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
