"""Executed notebooks as they are shown: their own cells, without what another run or machine would change."""

import re
from pathlib import Path

import nbformat

WIDGET = "application/vnd.jupyter.widget-view+json"  # progress bars
PROGRESS = re.compile(r"\r[^\r\n]*|update \d+ of \d+, loss .*")  # as other processes print it
TAKES = re.compile(r"\n*\*\*Takes\*\*.*")  # the minutes on a notebook's first screen
MACHINE = "machine"  # tag of cells whose output is about the machine


def shown(source: Path, executed: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs of its last run: no progress, warnings, minutes, dates, nor anything about the machine, so
    that a run that changes no number changes no byte. Raises ValueError where another version of it was run."""
    book, done = (nbformat.read(path, as_version=4) for path in (source, executed))
    ran = [c for c in done.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    if [c.source for c in ran] != [c.source for c in book.cells]:
        raise ValueError(f"{executed.name} is not a run of {source.name} as it is: run it again")
    for number, (cell, its) in enumerate(zip(book.cells, ran, strict=True)):
        if cell.cell_type == "code":
            machine = MACHINE in cell.metadata.get("tags", [])
            cell.outputs = [] if machine else [o for o in map(tidied, its.outputs) if o is not None]
            cell.execution_count = None
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = None
            if machine:
                text = "What this cell says depends on the machine: run it.\n"
                cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
    return book


def tidied(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """An output without progress, minutes and identifiers of its kernel; None where nothing is left."""
    if output.get("name") == "stderr" or WIDGET in output.get("data", {}):
        return None
    if output.output_type == "stream":
        output.text = PROGRESS.sub("", output.text).lstrip("\n")
        return output if output.text else None
    output.pop("transient", None)
    for kind in ("text/markdown", "text/plain"):
        if kind in output.get("data", {}):
            output.data[kind] = TAKES.sub("", output.data[kind])
    if "text/markdown" in output.get("data", {}):
        output.data.pop("text/plain", None)  # the name of an object, with its address
    return output
