"""What made a result: the source of the study's code, by module or by function, and the libraries beneath it.

Sources are read once, when this module is imported; `lib.ground.memory` detects when what runs is not what was read.
"""

import ast
import functools
import hashlib
import json
import platform
import sys
import types
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lib.ground.paths import ROOT

PACKAGES = ("lib", "pretrain")
# These modules decide where results are stored, how they look and what is refused, but not what the results are.
NOT_CODE = {"lib.ground.cache", "lib.ground.checks", "lib.ground.domains", "lib.ground.functions", "lib.ground.memory",
            "lib.ground.paths", "lib.ground.source", "lib.desk.figures", "lib.desk.report", "lib.desk.run"}  # fmt: skip
TOGETHER = ("lib.study.common", "lib.study.lee", "lib.study.users", "lib.study.wu")  # a class and its subclasses
COMPUTING = ("torch", "torchvision", "numpy", "scipy", "pandas", "pyarrow", "statsmodels", "torchmetrics", "diffusers",
             "transformers", "tokenizers", "open_clip_torch", "timm", "peft", "accelerate", "safetensors",
             "pillow")  # fmt: skip
DRAWING = ("matplotlib", "seaborn")


# ---- the files -----------------------------------------------------------------------------------------------------


def read_sources(root: Path = ROOT) -> dict[str, str]:
    """Text of every module of the study, by dotted name."""
    files = [p for package in PACKAGES for p in sorted((root / package).rglob("*.py"))]
    return {".".join(p.relative_to(root).with_suffix("").parts): p.read_text("utf-8") for p in files}


SOURCES = read_sources()  # as of this process's start


@functools.cache
def own_fingerprint(module: str) -> str:
    """`source_fingerprint` as of this process's start, cached: a study runs hundreds of stages from the same few modules."""
    return source_fingerprint(module)


def source_fingerprint(module: str, sources: Mapping[str, str] = SOURCES) -> str:
    """Digest of the code of a module and of all study modules that it imports, directly or indirectly."""
    return _digest({name: code_digest(text_of(name, sources)) for name in closure(module, sources)})


@functools.cache
def own_closure(module: str) -> tuple[str, ...]:
    """`closure` as of this process's start."""
    return tuple(closure(module))


def closure(module: str, sources: Mapping[str, str] = SOURCES) -> list[str]:
    """A module and all study modules that it imports, directly or indirectly, except those in NOT_CODE; sorted."""
    seen, queue = set(), [module]
    while queue:
        name = queue.pop()
        if name in seen or name in NOT_CODE:
            continue
        seen.add(name)
        package = name if name.endswith("__init__") else name.rpartition(".")[0]
        queue += imported(ast.parse(text_of(name, sources)), package.removesuffix(".__init__"), sources)
    return sorted(seen)


def text_of(module: str, sources: Mapping[str, str] = SOURCES) -> str:
    """A module's text; for a module outside the study (a test), what its file says now."""
    return sources[module] if module in sources else Path(sys.modules[module].__file__).read_text("utf-8")


def imported(tree: ast.AST, package: str, sources: Mapping[str, str]) -> set[str]:
    """Names of the study modules that a syntax tree imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return {found for n in names for found in (n, f"{n}.__init__") if found in sources}


@functools.cache
def code_digest(text: str) -> str:
    """Digest of what Python code does: the same when only comments, docstrings or layout change."""
    return tree_digest(ast.parse(text))


def tree_digest(tree: ast.AST) -> str:
    """`code_digest` of a syntax tree; removes its docstrings in place."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(getattr(body[0].value, "value", None), str):
                node.body = body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _digest(obj) -> str:
    return hashlib.sha256(json.dumps(obj, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# ---- one function --------------------------------------------------------------------------------------------------


def plain_function(made_by: Callable) -> Callable:
    """The function inside partials, methods and caches."""
    while True:
        if isinstance(made_by, functools.partial):
            made_by = made_by.func
        elif hasattr(made_by, "__func__") or hasattr(made_by, "__wrapped__"):
            made_by = getattr(made_by, "__func__", None) or made_by.__wrapped__
        else:
            return made_by


def home_of(made_by: Callable) -> str:
    """Name of the module that defines a function; raises ValueError for a notebook, whose source is not on disk."""
    made_by = plain_function(made_by)
    if made_by.__module__ == "__main__":
        raise ValueError(f"{made_by.__qualname__} is defined in a notebook, which no cache key can describe: move it to lib")
    return made_by.__module__


def function_fingerprint(made_by: Callable) -> str:
    """Digest of the top-level function or method in which a function is written, and of all functions, methods and constants
    of the same module to which it refers, directly or indirectly."""
    made_by = plain_function(made_by)
    if not isinstance(made_by, types.FunctionType):  # not written in Python, or a callable object of a class that is
        return _digest(str(type(made_by)))
    return _function_fingerprint(home_of(made_by), made_by.__qualname__.split(".<locals>")[0].split(".")[-1])


@functools.cache
def _function_fingerprint(module: str, name: str) -> str:
    known = definitions("\n".join(text_of(m) for m in (TOGETHER if module in TOGETHER else (module,))))
    seen, queue = {}, [name]
    while queue:
        one = queue.pop()
        if one not in seen:
            seen[one] = sorted(tree_digest(node) for node in known[one])
            nodes = [n for tree in known[one] for n in ast.walk(tree)]
            named = {getattr(n, "id", None) for n in nodes} | {getattr(n, "attr", None) for n in nodes}
            queue += sorted(named & set(known))
    return _digest(seen)


def definitions(text: str) -> dict[str, list[ast.AST]]:
    """What a module defines, at its top level or in its classes, by name: functions, methods, and constants."""
    known: dict[str, list[ast.AST]] = {}

    def note(body) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                note(node.body)
            elif isinstance(node, ast.FunctionDef):
                known.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for target in getattr(node, "targets", None) or [node.target]:
                    for n in ast.walk(target):
                        if isinstance(n, ast.Name):
                            known.setdefault(n.id, []).append(node)

    note(ast.parse(text).body)
    return known


# ---- libraries -----------------------------------------------------------------------------------------------------


@functools.cache
def versions(names: tuple[str, ...] = COMPUTING) -> dict[str, str | None]:
    """Versions of Python and of libraries (None: not installed)."""
    found: dict[str, str | None] = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
