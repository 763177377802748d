"""What a notebook does with what a setup cannot serve: the cell says so in one line, and the notebook goes on.

With a setup other than `mini`, a cell is left at the statement that raises `NotServed`, or that uses a name which statements
left out would have bound. All names that the rest of the cell binds are then unbound, so that no later cell mistakes an old
value for a new one, and its results say why they are not there. Every other error stops the notebook.
"""

import ast
import os
import symtable
import sys
import types
from collections.abc import Mapping

from IPython import get_ipython

from lib.desk import report
from lib.ground.setups import NotServed, setup_named

# Functions and classes of these modules know mini's models and world only: a statement that names one is not served.
MINI = {
    "lib.images.models": "the shipped models are mini's",
    "lib.feedback.judges": "judges know the emoji world only",
    "lib.feedback.people": "the answers kept here are of mini's images",
    "lib.world.scenes": "only the emoji world is rendered",
    "lib.world.web": "the web corpus is the emoji world's",
    "pretrain.judges": "judges know the emoji world only",
    "pretrain.reading": "the reader saw mini's images",
}
CHANGING = ("append", "extend", "update")  # methods of lists, dictionaries and sets
CALL, LAST = "_not_served", "_last_expression"


class Serving(ast.NodeTransformer):
    """Makes cells leave out what is not served; `names` are the notebook's globals."""

    def __init__(self, setup: str, names: dict):
        self.setup, self.names, self.unbound, self.cell = setup, names, {}, []
        names[CALL] = self

    def visit_Module(self, cell: ast.Module) -> ast.Module:
        """The cell inside a `try`; its last expression is still displayed."""
        if not cell.body:
            return cell
        self.cell, body = list(cell.body), []
        for statement in cell.body:
            if why := next(filter(None, map(self.mini, ast.walk(statement))), ""):
                body.append(_at(statement, f"{CALL}.leave({why!r})"))
            body.append(statement)
        if shown := isinstance(last := body[-1], ast.Expr):
            body[-1] = ast.copy_location(ast.Assign([ast.Name(LAST, ast.Store())], last.value), last)
        text = f"{LAST} = None\ntry:\n    pass\nexcept (LookupError, NameError) as _error:\n"
        text += f"    if not {CALL}.left(_error):\n        raise\n{LAST if shown else ''}"
        whole = ast.parse(text)
        for node in (n for n in ast.walk(whole) if hasattr(n, "lineno")):
            node.lineno = node.end_lineno = 1
        whole.body[1].body = body
        return ast.fix_missing_locations(whole)

    def mini(self, node: ast.AST) -> str:
        """Why a statement that contains this node is not served; empty if it is."""
        found = None
        if isinstance(node, ast.Name):
            found = self.names.get(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            of = self.names.get(node.value.id)
            found = getattr(of, node.attr, None) if isinstance(of, types.ModuleType) else None
        code = isinstance(found, type | types.FunctionType) or hasattr(found, "__wrapped__")
        return MINI.get(found.__module__, "") if code else ""

    def leave(self, why: str) -> None:
        """Called by a cell before a statement that names what only `mini` has."""
        raise NotServed(why)

    def left(self, error: Exception) -> bool:
        """Called by a cell at an error: whether it only says that something is not served. If so, a line says it."""
        why = str(error) if isinstance(error, NotServed) else self.unbound.get(getattr(error, "name", None))
        if not why:
            return False
        print(f"not served by the setup {self.setup}: {why}")
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")  # half a figure would be shown
        rest = ast.Module([s for s in self.cell if s.end_lineno >= error.__traceback__.tb_lineno], [])
        for name in bound(rest):
            if not isinstance(self.names.get(name), types.ModuleType):
                self.names.pop(name, None)
                self.unbound[name] = why
        for name, notebook in written(rest):
            report.write(name, {report.NOT_SERVED: why}, self.names["size"], notebook)
        return True


def bound(code: ast.Module) -> list[str]:
    """Global names that statements bind, or whose value they change by a subscript or a method such as `append`."""
    whole = symtable.symtable(ast.unparse(code), "<cell>", "exec")
    names = {s.get_name() for s in whole.get_symbols() if s.is_assigned() and not s.is_imported()}
    for n in ast.walk(code):
        if isinstance(n, ast.Subscript | ast.Attribute) and isinstance(n.value, ast.Name):
            if isinstance(n.ctx, ast.Store) or getattr(n, "attr", "") in CHANGING:
                names.add(n.value.id)
    return sorted(names)


def written(code: ast.Module) -> list[tuple[str, str]]:
    """The results that statements would write by `report.write`, with the notebook's name."""
    calls = [n.args for n in ast.walk(code) if isinstance(n, ast.Call) and ast.unparse(n.func) == "report.write"]
    return [(of[0].value, of[3].value) for of in calls if isinstance(of[0], ast.Constant)]


def begin(values: Mapping) -> None:
    """Serve the rest of a notebook as the setup in its `globals()`, `values`, can; under `mini` nothing changes."""
    if values.get("setup", "mini") == "mini":
        return
    found = setup_named(values["setup"])
    os.environ |= {"STUDY_SETUP": found.identity, "STUDY_STAY": "1"}
    if (shell := get_ipython()) is not None:
        shell.ast_transformers = [t for t in shell.ast_transformers if not isinstance(t, Serving)]
        shell.ast_transformers.append(Serving(found.name, values))


def _at(statement: ast.stmt, text: str) -> ast.stmt:
    """A statement from its text, with another's place in the cell."""
    (made,) = ast.parse(text).body
    for node in (n for n in ast.walk(made) if hasattr(n, "lineno")):
        ast.copy_location(node, statement)
    return made
