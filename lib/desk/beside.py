"""Yours beside ours: `python -m lib.desk.beside --size SIZE` compares your run with the one that we committed.

Which verdicts on claims agree, which of your quality figures lie outside our 95 % interval, and how many would by chance: a
short table in the terminal, and all rows in beside.md of your run's folder. Exit code 1: your run is incomplete.
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
    """The probability that your value falls outside our interval if both runs drew everything anew, from both widths.

    The difference of two runs has the standard error sqrt(s_ours^2 + s_yours^2); our interval ends at 1.96 s_ours. For two
    equally precise runs the probability is 17 %, not 5 %.
    """
    s_ours, s_yours = ((q["high"] - q["low"]) / (2 * Z) for q in (ours, yours))
    return float(2 * norm.sf(Z * s_ours / sqrt(s_ours**2 + s_yours**2))) if s_ours or s_yours else 0.0


def compared_claims(ours: Sequence[Mapping], yours: Sequence[Mapping]) -> list[dict]:
    """One row per claim of either run, by name: both values and verdicts (None: no such claim in the run) and `agree`."""
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
    """One row per quality figure of either run, by name: both (None: the run has none), whether yours is `outside` our
    interval (None: nothing to compare), and the `chance` that it would be."""
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
    """Sentences that sum up the comparison of your run of one size with ours `of` the same or another size."""
    tested = [v for v in values if v["outside"] is not None]
    outside, expected = (sum(v[k] for v in tested) for k in ("outside", "chance"))
    compared = [
        f"Your run of size {size} beside ours of size {of}.",
        f"Verdicts: {sum(c['agree'] for c in claims)} of {len(claims)} agree.",
        f"Values: {outside} of {len(tested)} lie outside our 95 % interval; if both runs drew everything anew, about "
        f"{expected:.0f} would do so by chance.",
    ]
    if size == of:
        return [*compared, "With the same seed, images and raters are mostly the same on another machine: expect fewer."]
    return [*compared, f"We did not publish size {size}: at another size, intervals have other widths, and results that "
            "depend on the amount of training data differ by more than chance."]  # fmt: skip


def number(q: Mapping | None) -> str:
    """A quality figure with its interval."""
    return interval(q["value"], q["low"], q["high"], digits=3) if q else "none"


def differing(claims: Sequence[Mapping]) -> list[tuple[str, ...]]:
    """Claims whose verdicts differ: name, ours, yours."""

    def said(claim: Mapping, whose: str) -> str:
        return f"{claim[whose] or 'no such claim'} {claim[f'{whose} value'] or ''}".strip()

    return [(c["name"], said(c, "ours"), said(c, "yours")) for c in claims if not c["agree"]]


def terminal(said: Sequence[str], claims: Sequence[Mapping], values: Sequence[Mapping]) -> str:
    """The sentences, then the differences: at most `SHOWN` rows, verdicts first."""
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
    """A row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def beside(size: str, ours: Path) -> str:
    """Write beside.md into your run's folder and return the text for the terminal; raises ValueError if there is no run."""
    yours = reports(size)
    if not (yours / "claims.json").exists():
        raise ValueError(f"there is no complete run of size {size} yet: run `make reproduce SIZE={size}` first")
    claims = compared_claims(claims_of(ours), claims_of(yours))
    values = compared_values(quality_entries(ours), quality_entries(yours))
    said = summary(size, ours.name, claims, values)
    atomic_write(yours / "beside.md", page(said, claims, values))
    return terminal(said, claims, values) + f"\nall rows: {yours / 'beside.md'}"


def main(argv: list[str] | None = None) -> int:
    """Compare a run with our published run of the same size, or else of the largest size that we published."""
    parser = argparse.ArgumentParser(prog="python -m lib.desk.beside", description=main.__doc__)
    parser.add_argument("--size", default="laptop", choices=SIZES)
    parser.add_argument("--setup", default="mini")
    options = parser.parse_args(argv)
    if options.setup != "mini":
        print(f"the setup {options.setup} is not compared with ours: other models, raters and data")
        return 0
    size = options.size
    of = size if (published(size) / "claims.json").exists() else None if size == "smoke" else best_published()
    try:
        print(beside(size, published(of)) if of else f"there is no published run with which to compare size {size}")
    except (OSError, ValueError, KeyError) as error:
        print(f"beside: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
