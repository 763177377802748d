"""The numbers, the figure and the table of claims in README.md, from the best size that we published."""

import re
from collections.abc import Mapping
from pathlib import Path

from lib.desk.claims import FOUND, shown
from lib.desk.report import TIMING, claims_of, interval, percent, points, quality_entries, read_list
from lib.ground.cache import atomic_write

FIGURE = ("frontier", "Alignment against fidelity of the base model, the paper's three arms and two controls")
MARKER = re.compile(r"<!-- value:(\w+) -->(.*?)<!-- /value -->", re.DOTALL)


def readme_values(folder: Path) -> dict[str, str]:
    """Text for each marker, of the reports in a folder that is called as their size.

    NAME, NAME_percent and NAME_points of a quality figure, minutes_NOTEBOOK and minutes_total, claims, size and figure.
    """
    values = {"size": f"`{folder.name}`", "claims": markdown(folder)}
    values["figure"] = f"\n![{FIGURE[1]}](reports/{folder.name}/figures/{FIGURE[0]}.png)\n"
    for entry in quality_entries(folder):
        numbers = entry["value"], entry["low"], entry["high"]
        values[entry["name"]] = interval(*numbers)
        values[f"{entry['name']}_percent"] = percent(*numbers)
        values[f"{entry['name']}_points"] = points(*numbers)
    if timings := read_list(folder / "timings.json", TIMING):
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


def markdown(folder: Path) -> str:
    """The claims stored in a folder of reports as a table of Markdown, or a line that says there are none."""
    if not (folder / "claims.json").exists():
        return "not run yet"
    head = "| where | claim | paper | here [95 % interval] | verdict |\n| --- | --- | --- | --- | --- |\n"
    lines = []
    for row in claims_of(folder):
        unit = row["unit"]
        here = shown(row["value"], unit)
        if row["low"] is not None:
            here += f" [{shown(row['low'], unit).split()[0]}, {shown(row['high'], unit).split()[0]}]"
        link = f"[{row['verdict']}](notebooks/{row['notebook']}.ipynb)"
        link += f": {row['reason']}" if row["verdict"] not in FOUND else ""
        cells = row["where"], row["claim"], shown(row["paper_value"], unit), here, link
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |\n")
    return "\n\n" + head + "".join(lines) + "\n"
