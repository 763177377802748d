"""Numbers, figures and claims in README.md and the pages of reports/, from the best size that we published."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lib.desk import gallery
from lib.desk.claims import FOUND, counted, shown
from lib.desk.report import TIMING, claims_of, interval, percent, points, quality_entries, read_list
from lib.ground.cache import atomic_write
from lib.ground.paths import DATA

# The claims that README.md shows.
MATTER = ("Reward beats CLIP, unseen", "Prompt classification helps", "Alignment votes, won less lost",
          "Fine-tuned above rejection", "Adapted model preferred")  # fmt: skip
EARLIER = DATA / "confirmatory.json"  # the first two confirmatory runs
# What is compared between the confirmatory runs: quality figures, differences of the good share by judge-b.
AT, WITHIN, WITHOUT = ("at the study's guidance scale", "each at its best scale within the budget of distance",
                       "each at its best scale, without a budget (one training run)")  # fmt: skip
COMPARED = {
    "finetuned_minus_constant_judge_b": "full method minus constant reward, at the scale at which the full method is used",
    "finetuned_minus_constant_study_scale_judge_b": f"full method minus constant reward, {AT}",
    "random_minus_constant_judge_b": "shuffled rewards minus constant reward, as in the first row",
    "finetuned_minus_base_judge_b": f"full method minus base, {AT}",
    "finetuned_best_minus_base_best_judge_b": f"full method minus base, {WITHIN}",
    "finetuned_top_minus_base_top_judge_b": f"full method minus base, {WITHOUT}",
    "direction_minus_base_judge_b": f"reward direction minus base, {AT}",
    "direction_best_minus_base_best_judge_b": f"reward direction minus base, {WITHIN}",
    "direction_top_minus_base_top_judge_b": f"reward direction minus base, {WITHOUT}",
}
MARKER = re.compile(r"<!-- value:(\w+) -->(.*?)<!-- /value -->", re.DOTALL)


def readme_values(folder: Path, notebooks: Iterable[Path] = ()) -> dict[str, str]:
    """Text for each marker, of the reports in a folder that is called as their size.

    NAME, NAME_percent and NAME_points of a quality figure, NAME_points_run_1 and _2 of an earlier run; minutes_NOTEBOOK,
    minutes_total and size; figure_NAME; claims, claims_counted and claims_that_matter; confirmatory; the gallery and the
    answers of `notebooks`.
    """
    values = {"size": f"`{folder.name}`", "claims": markdown(folder)}
    values["claims_that_matter"] = by_name(folder, MATTER)
    ran = (folder / "claims.json").exists()
    values["claims_counted"] = counted(row["verdict"] for row in claims_of(folder)) if ran else "not run yet"
    values |= {"gallery": gallery.markdown(folder, notebooks), "answers": answers(folder, notebooks)}
    earlier = json.loads(EARLIER.read_text("utf-8"))
    values["confirmatory"] = confirmatory(quality_entries(folder), earlier)
    values |= {f"{r['name']}_points_run_{r['run']}": points(r["value"], r["low"], r["high"]) for r in earlier}
    for name, caption in (one for each in gallery.FIGURES.values() for one in each.items()):
        values[f"figure_{name}"] = f"\n![{caption}](reports/{folder.name}/figures/{name}.png)\n"
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
        raise ValueError(f"{readme.name}: a value marker lacks its opening or its closing part")
    if any("<!-- value:" in inside for _, inside in markers):
        raise ValueError(f"{readme.name}: a value marker is inside another one: close each before the next")
    if unknown := sorted({name for name, _ in markers} - set(values)):
        raise ValueError(f"{readme.name}: there is no value for the markers {', '.join(unknown)}")
    filled = MARKER.sub(lambda m: f"<!-- value:{m[1]} -->{values[m[1]]}<!-- /value -->", text)
    if filled != text:
        atomic_write(readme, filled)
    return filled != text


def answers(folder: Path, notebooks: Iterable[Path]) -> str:
    """A table of Markdown: each notebook as we ran it, with the first sentence of its answer."""
    lines = ["| notebook, with its results | answer |", "| --- | --- |"]
    for e in gallery.entries(folder, notebooks):
        first = re.split(r"[.;] ", e["answer"] or "Not run")[0].rstrip(".")
        lines.append(f"| [{e['title']}](reports/notebooks/{e['stem']}.ipynb) | {first}. |")
    return "\n\n" + "\n".join(lines) + "\n\n"


def by_name(folder: Path, names: Iterable[str]) -> str:
    """A table of Markdown of the claims of these names, with verdicts; a line where there are none."""
    if not (folder / "claims.json").exists():
        return "not run yet"
    lines = ["| claim | paper | here [95 % interval] | verdict |", "| --- | --- | --- | --- |"]
    for row in (r for r in claims_of(folder) if r["name"] in names):
        lines.append(f"| {row['name']} | {shown(row['paper_value'], row['unit'])} | {here(row)} | {row['verdict']} |")
    return "\n\n" + "\n".join(lines) + "\n\n"


def confirmatory(entries: Iterable[Mapping], earlier: Iterable[Mapping]) -> str:
    """A table of Markdown of COMPARED in each confirmatory run: those before, as rows with their `run`, and the last one."""
    runs: dict[int, dict[str, str]] = {}
    for row in earlier:
        runs.setdefault(row["run"], {})[row["name"]] = points(row["value"], row["low"], row["high"])
    last = max(runs, default=0) + 1
    runs[last] = {e["name"]: points(e["value"], e["low"], e["high"]) for e in entries}
    lines = [f"| | {' | '.join(f'run {run}' for run in runs)} |", "| --- |" + " --- |" * len(runs)]
    for name, told in COMPARED.items():
        found = [run.get(name, "not measured").replace(" points", "") for run in runs.values()]
        lines.append(f"| {told} | {' | '.join(found)} |")
    return "\n\n" + "\n".join(lines) + "\n\n"


def here(row: Mapping) -> str:
    """This study's value of a claim, with its interval if it has one."""
    ends = [shown(row[k], row["unit"]).split()[0] for k in ("low", "high") if row[k] is not None]
    return shown(row["value"], row["unit"]) + (f" [{', '.join(ends)}]" if ends else "")


def markdown(folder: Path) -> str:
    """The claims stored in a folder of reports as a table of Markdown, or a line where there are none."""
    if not (folder / "claims.json").exists():
        return "not run yet"
    head = "| where | claim | paper | here [95 % interval] | verdict |\n| --- | --- | --- | --- | --- |\n"
    lines = []
    for row in claims_of(folder):
        link = f"[{row['verdict']}](notebooks/{row['notebook']}.ipynb)"
        link += f": {row['reason']}" if row["verdict"] not in FOUND else ""
        cells = row["where"], row["claim"], shown(row["paper_value"], row["unit"]), here(row), link
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |\n")
    return "\n\n" + head + "".join(lines) + "\n"
