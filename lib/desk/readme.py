"""The numbers and the table of claims in README.md, written by code: `python -m lib.desk.readme --size SIZE`."""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from lib.desk import report
from lib.desk.claims import VERDICTS, shown
from lib.desk.report import TIMING, interval, percent, points, quality_entries, read_list
from lib.ground.cache import atomic_write
from lib.ground.paths import ROOT, reports

MARKER = re.compile(r"<!-- value:(\w+) -->(.*?)<!-- /value -->", re.DOTALL)


def readme_values(size: str) -> dict[str, str]:
    """Text for each marker: NAME, NAME_percent and NAME_points of a quality figure, minutes_NOTEBOOK and minutes_total."""
    values = {}
    for entry in quality_entries(size):
        numbers = entry["value"], entry["low"], entry["high"]
        values[entry["name"]] = interval(*numbers)
        values[f"{entry['name']}_percent"] = percent(*numbers)
        values[f"{entry['name']}_points"] = points(*numbers)
    timings = [t for t in read_list(reports(size) / "timings.json", TIMING) if t["size"] == size]
    if timings:
        values |= {f"minutes_{t['notebook']}": f"{t['seconds'] / 60:.1f}" for t in timings}
        values["minutes_total"] = f"{sum(t['seconds'] for t in timings) / 60:.0f}"
    return values


def fill_readme(readme: Path, values: Mapping[str, str]) -> bool:
    """Replace what stands between `<!-- value:NAME -->` and `<!-- /value -->`; True when that changed it."""
    text = readme.read_text("utf-8")
    markers = MARKER.findall(text)
    if len(markers) != text.count("<!-- value:") or len(markers) != text.count("<!-- /value -->"):
        raise ValueError(f"{readme.name}: a value marker is not closed or not opened")
    if any("<!-- value:" in inside for _, inside in markers):
        raise ValueError(f"{readme.name}: a value marker stands inside another")
    if unknown := sorted({name for name, _ in markers} - set(values)):
        raise ValueError(f"{readme.name}: no value is known for {', '.join(unknown)}")
    filled = MARKER.sub(lambda m: f"<!-- value:{m[1]} -->{values[m[1]]}<!-- /value -->", text)
    if filled != text:
        atomic_write(readme, filled)
    return filled != text


def markdown(size: str) -> str:
    """The stored claims as a table of Markdown, or a line that says there are none."""
    path = reports(size) / "claims.json"
    if not path.exists():
        return "not run yet"
    head = "| where | claim | paper | here [95 % interval] | verdict |\n| --- | --- | --- | --- | --- |\n"
    lines = []
    for row, extra in zip(json.loads(path.read_text("utf-8")), report.read("claim_parts", size), strict=True):
        unit = extra["unit"]
        here = shown(row["value"], unit)
        if row["low"] is not None:
            here += f" [{shown(row['low'], unit).split()[0]}, {shown(row['high'], unit).split()[0]}]"
        link = f"[{row['verdict']}](notebooks/{row['notebook']}.ipynb)"
        link += f": {extra['reason']}" if row["verdict"] == VERDICTS[2] else ""
        cells = row["where"], row["claim"], shown(row["paper_value"], unit), here, link
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |\n")
    return "\n\n" + head + "".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """`python -m lib.desk.readme --size SIZE`: write the measured numbers into README.md."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--size", default="laptop")
    size = parser.parse_args(argv).size
    if reports(size) != ROOT / "reports":  # a smoke test's numbers mean nothing; a trial's are not the README's
        return 0
    try:
        fill_readme(ROOT / "README.md", readme_values(size) | {"claims": markdown(size)})
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
