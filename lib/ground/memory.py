"""Whether the code in memory is the code in the files: a key describes the files, but a result comes from what runs.

After a function is replaced or a constant set in a cell, a file is edited while a kernel runs, or `%autoreload` acts, a
result would be kept under the key of different code. Replacements in other libraries go unnoticed.
"""

import builtins
import functools
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path

from lib.ground.paths import ROOT
from lib.ground.source import SOURCES, code_digest

# Values set by the machine or the user; a key contains their current values.
LIVE = {("lib.ground.precision", "DEVICE"), ("lib.ground.precision", "FAST_BFLOAT16"), ("lib.ground.seeds", "STUDY")}
# Attributes that a class has besides those in its source, some of them only after one of its objects was pickled.
OF_CLASSES = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__",
              "__static_attributes__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__slotnames__",
              "_abc_impl"}  # fmt: skip


class ChangedCode(RuntimeError):
    """The study's code in memory is not the code in its files, so no result of it can be kept."""



def refuse_changes(modules: Iterable[str]) -> None:
    """Raise `ChangedCode` when the code of one of the study's modules is not what its file said when this process started:
    the file was edited since, or a function, class or constant was replaced in memory (by a cell, or by %autoreload).

    Replacements in other libraries go unnoticed.
    """
    for name in sorted(SOURCES.keys() & set(modules)):
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        file = path.relative_to(ROOT).as_posix()
        if not _says_the_same(path, SOURCES[name]):
            raise ChangedCode(f"{file} changed since this kernel started: restart the kernel and run again")
        if _replaced(name):
            _as_written.cache_clear()  # its imports may come from modules that were changed then and are not any more
            if what := _replaced(name):
                raise ChangedCode(
                    f"{name}.{what} is not what {file} says, so its results cannot be kept: write the change into the file, "
                    "restart the kernel and run again"
                )


def _replaced(name: str) -> str | None:
    return replaced(sys.modules[name], _as_written(name)) if name in sys.modules else None


def _says_the_same(path: Path, text: str) -> bool:
    try:
        now = path.read_text("utf-8")
        return now == text or code_digest(now) == code_digest(text)
    except (OSError, ValueError, SyntaxError):
        return False


@functools.cache
def _as_written(name: str) -> types.ModuleType:
    """The module, rebuilt from its text as of this process's start."""
    here, fresh = sys.modules[name], types.ModuleType(name)
    fresh.__dict__.update(__file__=here.__file__, __package__=here.__package__, __spec__=here.__spec__)
    exec(compile(SOURCES[name], here.__file__, "exec", dont_inherit=True), fresh.__dict__)
    return fresh


def replaced(module: types.ModuleType, written: types.ModuleType) -> str | None:
    """The first name whose value in a module differs from that in the module as written; None if there is none."""
    now, then, seen = vars(module), vars(written), set()
    for name, value in then.items():
        if not _ours(name) or (module.__name__, name) in LIVE:
            continue
        if name not in now or (different := _differs(now[name], value, seen)) is not None:
            return name + (different if name in now else "")
    return next((name for name in now if name not in then and hasattr(builtins, name) and _ours(name)), None)


def _ours(name: str) -> bool:
    return not (name.startswith("__") and name.endswith("__"))


def _differs(a, b, seen: set) -> str | None:
    """None when `a`, in memory, is equivalent to `b`, as written; else where they first differ, such as `.forward`."""
    if a is b or (id(a), id(b)) in seen:
        return None
    if not isinstance(a, Mapping | list | tuple):  # these may exist for one comparison only, and their ids be reused
        seen.add((id(a), id(b)))
    if isinstance(a, type) != isinstance(b, type) or _kind(a) != _kind(b):
        return ""
    if isinstance(a, types.ModuleType):
        return ""
    if isinstance(a, types.GenericAlias):  # such as tuple[Question, ...]
        return _differs((a.__origin__, a.__args__), (b.__origin__, b.__args__), seen)
    if isinstance(a, types.CodeType):
        return None if _steps(a) == _steps(b) else ""
    if isinstance(a, types.FunctionType):
        parts = ((f.__code__, f.__defaults__, f.__kwdefaults__, _enclosed(f)) for f in (a, b))
        return None if all(_differs(x, y, seen) is None for x, y in zip(*parts, strict=True)) else ""
    if isinstance(a, type):
        return _parts(*({k: v for k, v in vars(c).items() if k not in OF_CLASSES} for c in (a, b)), seen)
    if isinstance(a, Mapping):
        return _parts(a, b, seen)
    if isinstance(a, list | tuple):
        return _parts(dict(enumerate(a)), dict(enumerate(b)), seen)
    for under in ("__wrapped__", "__func__", "fget", "func"):  # caches, methods, properties, partials
        if hasattr(a, under) and hasattr(b, under):
            more = [getattr(x, "args", None) for x in (a, b)], [getattr(x, "keywords", None) for x in (a, b)]
            pairs = ((getattr(a, under), getattr(b, under)), *more)
            return None if all(_differs(x, y, seen) is None for x, y in pairs) else ""
    if hasattr(a, "tobytes"):  # arrays
        return None if (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes()) else ""
    if type(a) is type(b) and type(a).__eq__ is not object.__eq__:
        return None if a == b else ""
    return _parts(vars(a), vars(b), seen) if hasattr(a, "__dict__") else None


def _steps(code: types.CodeType) -> tuple:
    """What a code object does, regardless of where in its file it is."""
    constants = tuple(_steps(c) if isinstance(c, types.CodeType) else (type(c), repr(c)) for c in code.co_consts)
    takes = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    return code.co_code, constants, takes, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars


def _enclosed(function: types.FunctionType) -> list:
    """The values in a function's closure, without names that have no value yet."""
    empty = types.CellType()
    return [c.cell_contents for c in function.__closure__ or () if c != empty]


def _kind(x) -> tuple[str, str]:
    """Module and name of a class, or of an object's class: a class that was rebuilt is still the same kind."""
    of = x if isinstance(x, type) else type(x)
    return of.__module__, of.__qualname__


def _parts(a: Mapping, b: Mapping, seen: set) -> str | None:
    """The first key at which two mappings differ, as `.key`; None if they do not."""
    for key in (*b, *(k for k in a if k not in b)):
        if key not in a or key not in b or _differs(a[key], b[key], seen) is not None:
            return f".{key}"
    return None
