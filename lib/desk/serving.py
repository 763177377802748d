"""What a notebook does with what a setup cannot serve: the cell says so in one line, and the notebook goes on.

With a setup other than `mini`, a cell is left where something raises `NotServed`, or where a name is used that such a cell
would have bound. All names that the cell binds are then unbound, so that no later cell mistakes an old value for its own.
Every other error stops the notebook.
"""

import ast
import os
import symtable
import types
from collections.abc import Mapping

from IPython import get_ipython

from lib.ground.setups import NotServed, setup_named

# Functions and classes of these modules know mini's models and world only: a cell that names one is not served.
MINI = {
    "lib.images.models": "the shipped models are mini's",
    "lib.feedback.judges": "judges know the emoji world only",
    "lib.world.scenes": "only the emoji world is rendered",
    "lib.world.web": "the web corpus is the emoji world's",
    "lib.feedback.people": "the answers kept here are of mini's images",
    "pretrain.judges": "judges know the emoji world only",
    "pretrain.reading": "the reader saw mini's images",
}
CHANGING = ("append", "extend", "update")  # methods of lists, dictionaries and sets
CALL, LAST = "_not_served", "_last_expression"


class Serving(ast.NodeTransformer):
    """Makes a cell leave at what is not served; `names` are the notebook's globals."""

    def __init__(self, setup: str, names: dict):
        self.setup, self.names, self.unbound = setup, names, {}
        names[CALL] = self.leaves

    def visit_Module(self, cell: ast.Module) -> ast.Module:
        """The cell inside a `try`; its last expression is still displayed."""
        if not cell.body:
            return cell
        own = [self.mini(n) for n in ast.walk(cell)]
        first = f"{CALL}(None, {next((why for why in own if why), '')!r}, {bound(cell)!r})"
        *before, last = cell.body
        shown = isinstance(last, ast.Expr)
        if shown:
            last = ast.copy_location(ast.Assign([ast.Name(LAST, ast.Store())], last.value), last)
        text = f"{LAST} = None\ntry:\n    {first}\nexcept (LookupError, NameError) as _error:\n"
        text += f"    if not {CALL}(_error, '', {bound(cell)!r}):\n        raise\n{LAST if shown else ''}"
        whole = ast.parse(text)
        for node in ast.walk(whole):
            if hasattr(node, "lineno"):
                node.lineno = node.end_lineno = 1
        whole.body[1].body += [*before, last]
        return ast.fix_missing_locations(whole)

    def mini(self, node: ast.AST) -> str:
        """Why a cell that contains this node is not served; empty if it is."""
        found = None
        if isinstance(node, ast.Name):
            found = self.names.get(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found = vars(self.names.get(node.value.id)).get(node.attr) if _module(self.names.get(node.value.id)) else None
        return MINI.get(getattr(found, "__module__", None) or "", "") if callable(found) else ""

    def leaves(self, error: Exception | None, why: str, names: list[str]) -> bool:
        """Called at a cell's start (without an error) and at an error: whether the cell is left, having said so."""
        if error is None and why:
            raise NotServed(why)
        if isinstance(error, NotServed):
            why = str(error)
        elif isinstance(error, NameError):
            why = self.unbound.get(error.name, "")
        if error is not None and why:
            print(f"not served by the setup {self.setup}: {why}")
            for name in (n for n in names if not _module(self.names.get(n))):
                self.names.pop(name, None)
                self.unbound[name] = why
        return bool(why)


def bound(cell: ast.AST) -> list[str]:
    """Global names that a cell's code binds, or whose value it changes by a subscript or a method such as `append`."""
    whole = symtable.symtable(ast.unparse(cell), "<cell>", "exec")
    names = {s.get_name() for s in whole.get_symbols() if s.is_assigned() and not s.is_imported()}
    for n in ast.walk(cell):
        if isinstance(n, ast.Subscript | ast.Attribute) and isinstance(n.value, ast.Name):
            if isinstance(n.ctx, ast.Store) or getattr(n, "attr", "") in CHANGING:
                names.add(n.value.id)
    return sorted(names)


def begin(values: Mapping) -> None:
    """Serve the rest of a notebook as the setup in its `globals()`, `values`, can; under `mini` nothing changes."""
    if values.get("setup", "mini") == "mini":
        return
    found = setup_named(values["setup"])
    os.environ["STUDY_SETUP"] = found.identity
    from lib.scale import launch

    launch.STAY = True
    if (shell := get_ipython()) is not None:
        shell.ast_transformers = [t for t in shell.ast_transformers if not isinstance(t, Serving)]
        shell.ast_transformers.append(Serving(found.name, values))


def _module(value) -> bool:
    return isinstance(value, types.ModuleType)
