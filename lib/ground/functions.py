"""What a function written in a notebook does, as a digest: part of the key of a result that the function changes."""

import dis
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType, NoneType

from lib.ground.cache import digest_of
from lib.ground.source import SOURCES, own_fingerprint


def written_digest(function: Callable, above: tuple[Callable, ...] = ()) -> str:
    """Digest of a function's code, its defaults and what it takes from outside; comments and layout do not count.

    From outside, numbers and text count by value, functions written beside it like itself, those of the study with their
    whole module, those of libraries by name. Raises ValueError for anything else. `above` are the functions that use it.
    """
    if not isinstance(function, FunctionType):
        raise ValueError(f"expected a function written with def or lambda, got {function!r}")
    codes = list(_codes(function.__code__))
    loaded = {i.argval for c in codes for i in dis.get_instructions(c) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    outside = {name: function.__globals__[name] for name in loaded & set(function.__globals__)}
    outside |= zip(function.__code__.co_freevars, (cell.cell_contents for cell in function.__closure__ or ()), strict=True)
    outside |= {f"default {i}": value for i, value in enumerate(function.__defaults__ or ())}
    outside |= function.__kwdefaults__ or {}
    named = {name: _outside(name, value, (*above, function)) for name, value in outside.items()}
    return digest_of([[_of_code(c) for c in codes], named])


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function, and of the functions, lambdas and comprehensions in it."""
    yield code
    for inner in (c for c in code.co_consts if isinstance(c, CodeType)):
        yield from _codes(inner)


def _of_code(c: CodeType) -> list:
    constants = ["code" if isinstance(x, CodeType) else sorted(map(repr, x)) if isinstance(x, frozenset) else repr(x)
                 for x in c.co_consts]  # fmt: skip
    names = c.co_names, c.co_varnames, c.co_freevars, c.co_cellvars
    return [c.co_code.hex(), c.co_exceptiontable.hex(), c.co_flags, c.co_argcount, c.co_kwonlyargcount, names, constants]


def _outside(name: str, value, above: tuple[Callable, ...]) -> str:
    """What a value that the last function `above` takes from outside adds to its digest."""
    user = above[-1]
    home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    if isinstance(value, FunctionType) and home == user.__module__:
        return "above" if value in above else written_digest(value, above)
    if home in SOURCES and isinstance(value, (ModuleType, FunctionType, type)):
        return own_fingerprint(home)
    of_object = not isinstance(getattr(value, "__self__", None), (NoneType, ModuleType, type))  # a method of an object
    if hasattr(value, "__name__") and home != user.__module__ and not of_object:
        return f"{home}.{value.__name__}"
    if _is_plain(value):
        return repr(value)
    kind = type(value).__name__
    raise ValueError(f"{user.__name__} uses {name}, a {kind}: only numbers, text and functions can be in a key")


def _is_plain(value) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
