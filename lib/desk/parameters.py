"""A notebook's parameters: each line of its first code cell gives a name, a default, and a comment with the domain.

The runner and the notebook's opening cell check them before anything is computed.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from lib.desk import serving
from lib.ground.domains import clauses, fits, wanted
from lib.ground.paths import ROOT
from lib.ground.setups import setup_named
from lib.world.prompts import checked

PROMPT = "in the study's form"  # the domain of a prompt, checked by `prompts.checked`
SETUP = "the name or file of a setup"  # the domain of a setup, checked by `setups.setup_named`
PATH = "if a path is given"  # the domain of the default, or of a file or folder that is there
_EACH = re.compile(r"\beach (?:in [\[(]|at (?:least|most) |one of )")


def parameters(source: str) -> dict[str, tuple[object, str]]:
    """Default and comment of each parameter of a cell; `...` stands for a default that is not a literal."""
    lines, found = source.splitlines(), {}
    for statement in ast.parse(source, "the parameters cell").body:
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or statement.value is None:
            continue
        try:
            default = ast.literal_eval(statement.value)
        except ValueError:
            default = ...
        comment = lines[statement.end_lineno - 1].encode()[statement.end_col_offset :].decode().strip(" #")
        targets = getattr(statement, "targets", None) or [statement.target]
        found |= {target.id: (default, comment) for target in targets if isinstance(target, ast.Name)}
    return found


def kind_of(default, comment: str):
    """The type of a parameter: a list if the comment says `each`, of numbers if it bounds them, of texts if it lists them;
    anything the comment leaves open follows the default."""
    said, many = clauses(comment), isinstance(default, (list, tuple))
    each = bool(_EACH.search(comment)) or many and not said
    items = [] if default is ... or many != each else list(default) if many else [default]
    kinds = {type(i) for i in items}
    if any(d in comment for d in (PROMPT, PATH, SETUP)) or any(c.startswith("one of ") for c in said):
        item = str
    elif kinds and kinds <= {int, float} or any(c.startswith(("in ", "at ")) for c in said):
        item = int if kinds == {int} or "whole number" in comment else float
    else:
        item = kinds.pop() if len(kinds) == 1 else object
    if not each:
        return item
    return list[item] if said or isinstance(default, list) else tuple[item, ...]


def check_values(source: str, values: Mapping) -> None:
    """Refuse values (or, if none is given, defaults) of a cell's parameters that are outside the domain in their comments.

    Raises ValueError that names the parameter, its value, what it accepts, and the default as an example.
    """
    for name, (default, comment) in parameters(source).items():
        value, kind = values.get(name, default), kind_of(default, comment)
        if value is ...:
            continue
        if PROMPT in comment:
            checked(value)
        elif SETUP in comment:
            named(name, value)
        elif PATH in comment:
            if value != default and not (isinstance(value, str) and Path(value).exists()):
                raise ValueError(f"{name} = {value!r} is neither {default!r} nor the path of a file or folder that exists")
        elif not fits(value, kind, comment):
            example = f", such as {default!r}" if fits(default, kind, comment) else ""
            raise ValueError(f"{name} = {value!r} is not {wanted(kind, comment)}{example}")


def named(name: str, value) -> None:
    """Refuse a setup that is not there or not sound."""
    try:
        setup_named(value)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} = {value!r} is no setup: {error}") from None


def check(notebook: str, values: Mapping) -> None:
    """The same for one of the study's notebooks, by name: `values` are its `globals()`. What its setup cannot serve, the
    notebook leaves out from here on (`lib.desk.serving`)."""
    check_values(parameters_cell(cells(ROOT / "notebooks" / f"{notebook}.ipynb")) or "", values)
    serving.begin(values)


def cells(notebook: Path) -> list[dict]:
    """The cells of a notebook file; raises ValueError on any other file."""
    try:
        return json.loads(notebook.read_text("utf-8"))["cells"]
    except (ValueError, KeyError):
        raise ValueError(f"{notebook} is not a notebook") from None


def parameters_cell(cells: list[dict]) -> str | None:
    """The source of the cell tagged `parameters`; None if there is none."""
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    return "".join(tagged[0]["source"]) if tagged else None


def keys_twice(source: str) -> Iterator[str]:
    """Constant keys (f-strings count as constant) that a dict literal contains twice: Python silently keeps the last.

    Code that is not plain Python, such as a cell with a magic, yields none.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys = [k for k in map(_constant, node.keys) if k is not None]
            yield from dict.fromkeys(k if isinstance(k, str) else repr(k) for k in keys if keys.count(k) > 1)


def _constant(key: ast.expr | None):
    """The value of a literal key, or an f-string as written; None for anything else and for a `**` part."""
    try:
        value = ast.literal_eval(key) if key is not None else None
        return repr(value) if isinstance(value, str) else value
    except ValueError:
        return ast.unparse(key) if isinstance(key, ast.JoinedStr) else None
