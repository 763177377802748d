"""Executed notebooks as readers see them, without progress, dates, minutes and machine; and the gallery: what each notebook
asks, what came out, and figures that show it."""

import base64
import json
import re
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_output

from lib.desk import figures

WIDGET = "application/vnd.jupyter.widget-view+json"  # progress bars
PROGRESS = re.compile(r"\r[^\r\n]*|update \d+ of \d+, loss .*")  # as other processes print it
BARE_PATH = re.compile(r"(Posix|Windows)Path\('.*'\)")  # of a cell that ends by writing a file
TAKES = re.compile(r"\s*\*\*Takes\*\*.*")  # the minutes on a notebook's first screen
LEFT_OUT = "What this cell says depends on the machine: run it to see yours.\n"
# One to three figures a notebook, each with its caption.
FIGURES = {
    "00_start_here": {"one_prompt": "One prompt on its way through the study"},
    "01_images_to_judge": {
        "world_objects": "The 25 objects of the emoji world",
        "guidance_sweep": "What a guidance scale gives the untrained base, and what it costs",
    },
    "02_human_feedback": {
        "error_profile": "Images labelled good, by category, beside the paper's Table 2",
        "good_by_count": "Images labelled good, by the number of objects asked for",
    },
    "03_reward_learning": {
        "reward_accuracy": "The learned reward against CLIP score",
        "reward_extremes": "Images with the lowest and the highest reward",
    },
    "04_reward_ablations": {
        "reward_ablations": "One change at a time: what the reward loses",
        "prompt_classification_by_labels": "The auxiliary loss, by the number of labels and the form of its prompts",
    },
    "05_fine_tuning": {
        "before_after_count": "Base and full method from the same noise: counts",
        "before_after_colour": "Base and full method from the same noise: colours",
        "before_after_background": "Base and full method from the same noise: places",
    },
    "06_alignment_against_fidelity": {
        "frontier": "What each way of training gains in alignment, and what it costs in fidelity",
        "guidance_curves": "Alignment against distance, along the guidance scale",
        "gains": "The gains, taken apart: the knob's, the training's, the reward's",
    },
    "07_rejection_sampling": {
        "votes_two_thirds": "Votes of the simulated raters beside the paper's people",
        "best_of_n": "Choosing among samples instead of training",
    },
    "08_preference_score": {"choice_accuracy": "How often each score predicts a choice"},
    "09_preference_adaptation": {
        "user_study": "Simulated users compare the adapted model with its controls",
        "bench": "Both papers' methods on one bench",
    },
    "10_side_effects": {
        "frontier_by_choice": "Alignment, fidelity and diversity by setting and by weighting",
        "styles": "Styles that no label showed, before and after",
    },
    "11_bring_your_own": {
        "own_parts": "Raters, a loss and a weighting of your own, beside what they replace",
        "own_grid": "A prompt grid of your own",
    },
    "90_the_papers_own_scale": {"own_scale_hours": "What the papers' own scale costs, stage by stage"},
    "99_claims": {"claims": "The papers' claims, one by one"},
}


# ---- the gallery ---------------------------------------------------------------------------------------------


def entries(folder: Path, notebooks: Iterable[Path]) -> list[dict]:
    """A row per notebook, from the reports in a folder: stem, title, question, answer (None: not run), and its figures that
    were drawn, each with name, caption, alternative text and the id of the cell that draws it."""
    rows = []
    for path in notebooks:
        cells = nbformat.read(path, as_version=4).cells
        title, _, rest = cells[0].source.partition("\n")
        question = re.search(r"\*\*Question\.\*\* (.+)", rest)
        answer = folder / "results" / f"answer_{path.stem}.json"
        shown = [
            dict(name=name, caption=caption, alt=figures.alt(picture), cell=cell_of(name, cells))
            for name, caption in FIGURES.get(path.stem, {}).items()
            if (picture := folder / "figures" / f"{name}.png").is_file()
        ]
        rows.append(dict(
            stem=path.stem, title=title.lstrip("# "), question=question[1] if question else "", figures=shown,
            answer=json.loads(answer.read_text("utf-8"))["rows"]["text"] if answer.is_file() else None,
        ))  # fmt: skip
    return rows


def cell_of(figure: str, cells: list) -> str | None:
    """The id of the cell that saves a figure; None where none does."""
    return next((c.id for c in cells if c.cell_type == "code" and f'"{figure}", size)' in c.source), None)


def markdown(folder: Path, notebooks: Iterable[Path]) -> str:
    """The gallery for reports/README.md, beside which the folder and the executed notebooks lie."""
    lines = []
    for row in entries(folder, notebooks):
        lines.append(f"### [{row['title']}](notebooks/{row['stem']}.ipynb)")
        lines.append(f"**{row['question']}** {row['answer'] or 'Not run.'}")
        for figure in row["figures"]:
            alt = " ".join(figure["alt"].split()).replace("[", "(").replace("]", ")")
            lines.append(f"![{alt}]({folder.name}/figures/{figure['name']}.png)\n*{figure['caption']}.*")
    return "\n\n" + "\n\n".join(lines) + "\n\n"


# ---- executed notebooks --------------------------------------------------------------------------------------


def tidied(book: NotebookNode) -> NotebookNode:
    """An executed notebook with its own cells and what they say; no progress bars, no warnings, no injected parameters."""
    book.metadata = {k: v for k, v in book.metadata.items() if k == "kernelspec"}
    book.cells = [c for c in book.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    for cell in book.cells:
        cell.metadata = {"tags": tags} if (tags := cell.metadata.get("tags")) else {}
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [o for o in map(_tidied, cell.outputs) if o]
    return book


def _tidied(output: NotebookNode) -> NotebookNode | None:
    """An output without progress; None where nothing is left."""
    if output.get("name") == "stderr" or WIDGET in output.get("data", {}):
        return None
    if BARE_PATH.fullmatch(output.get("data", {}).get("text/plain", "")):
        return None
    if output.output_type == "stream":
        output.text = PROGRESS.sub("", output.text).lstrip("\n")
        return output if output.text else None
    if output.output_type == "execute_result":
        output.execution_count = None
    output.pop("transient", None)
    return output


def anywhere(book: NotebookNode) -> NotebookNode:
    """A tidied notebook without what another machine would change: minutes, and what cells tagged `machine` say. A run that
    changes no number then changes no byte."""
    for cell in (c for c in book.cells if c.cell_type == "code"):
        if "machine" in cell.metadata.get("tags", []):
            cell.outputs = [new_output("stream", name="stdout", text=LEFT_OUT)]
        for data in (o.data for o in cell.outputs if "data" in o):
            if "text/markdown" in data:
                data["text/markdown"] = TAKES.sub("", data["text/markdown"])
                data.pop("text/plain", None)  # the name of an object, with its address
    return book


def illustrated(book: NotebookNode, folder: Path) -> NotebookNode:
    """An executed notebook whose pictures are the figures that its cells saved, with their alternative texts."""
    for cell in (c for c in book.cells if c.cell_type == "code"):
        pictures = [o for o in cell.outputs if "image/png" in o.get("data", {})]
        files = [folder / "figures" / f"{name}.png" for name in saved_by(cell.source)]
        for output, path in zip(pictures, files, strict=False):
            output.data["image/png"] = base64.b64encode(path.read_bytes()).decode()
            output.data["text/plain"] = figures.alt(path)
            output.metadata = {"image/png": {"alt": figures.alt(path)}}
    return book


def saved_by(source: str) -> list[str]:
    """The names of the figures that a cell saves."""
    return re.findall(r'"(\w+)", size\)', source) if "figures.save(" in source else []
