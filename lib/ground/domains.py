"""Domains: what a value may be, in words that are also checked: `in (0, 0.5]`, `at least 2`, `one of good or all`.

They are written in the specs and in the comments on notebooks' parameters. For a list or tuple the domain applies to each
item, and `no value twice` and `not all 0` to the whole; it has an item unless it `may be empty`. Numbers are always finite.
"""

import functools
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from numbers import Integral, Real
from types import NoneType
from typing import get_args, get_origin

_NUMBER = r"-?(?:inf|\d+(?:\.\d+)?(?:e-?\d+)?)"
OF_THE_WHOLE = ("no value twice", "not all 0", "may be empty")
_CLAUSE = re.compile(
    rf"\b(?:in [\[(]{_NUMBER}, {_NUMBER}[\])]|at (?:least|most) {_NUMBER}|one of [^;]+|{'|'.join(OF_THE_WHOLE)})"
)
ONE, MANY = (
    {int: "a whole number", float: "a number", str: "a string", bool: "True or False"},
    {int: "whole numbers", float: "numbers", str: "strings", bool: "booleans"},
)


@functools.cache
def clauses(text: str) -> tuple[str, ...]:
    """The parts of a text that say what a value may be, in order; a choice ends at a semicolon."""
    return tuple(_CLAUSE.findall(text))


def fits(value, kind, domain: str = "") -> bool:
    """Whether a value is of a type (`int`, `list[float]`, `tuple[int, int]`, `int | None`, …) and in the domain.

    A whole number also counts as a number; True and False do not.
    """
    options = get_args(kind)
    if NoneType in options:
        return value is None or fits(value, options[0], domain)
    if get_origin(kind) in (list, tuple):
        return isinstance(value, get_origin(kind)) and _all_fit(value, options, domain)
    return _is_a(value, kind) and all(_holds(value, clause) for clause in clauses(domain))


def _is_a(value, kind: type) -> bool:
    if kind in (int, float):
        number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return number and abs(value) <= sys.float_info.max  # false for NaN, too
    return isinstance(value, kind)


def _all_fit(values: Sequence, kinds: tuple, domain: str) -> bool:
    if len(kinds) == 1 or Ellipsis in kinds:
        kinds = kinds[:1] * len(values)
        if not values:
            return "may be empty" in clauses(domain)
    if len(values) != len(kinds) or not all(fits(v, k, domain) for v, k in zip(values, kinds, strict=True)):
        return False
    said = clauses(domain)
    return not ("no value twice" in said and len(set(values)) < len(values) or "not all 0" in said and not any(values))


def _holds(value, clause: str) -> bool:
    """Whether a value of the right type satisfies one clause."""
    if clause in OF_THE_WHOLE:
        return True
    if clause.startswith("one of "):
        return value in re.split(", | or ", clause.removeprefix("one of ").strip())
    if clause.startswith("in "):
        low, high = map(float, clause[4:-1].split(", "))
        return low <= value <= high and not (value == low and clause[3] == "(" or value == high and clause[-1] == ")")
    bound = float(clause.split()[-1])
    return value >= bound if "least" in clause else value <= bound


def wanted(kind, domain: str = "") -> str:
    """The type and the domain in words: `a list of one or more numbers, each in (0, 1), no value twice`."""
    options, said = get_args(kind), [clause.strip() for clause in clauses(domain)]
    if NoneType in options:
        return f"{wanted(options[0], domain)}, or None"
    if get_origin(kind) in (list, tuple):
        fixed = get_origin(kind) is tuple and Ellipsis not in options
        number = f"{len(options)} " if fixed else "" if "may be empty" in said else "one or more "
        parts = [c if c in OF_THE_WHOLE else f"each {c}" for c in said if c != "may be empty"]
        return ", ".join([f"a {get_origin(kind).__name__} of {number}{MANY.get(options[0], 'values')}", *parts])
    if said and said[0].startswith("one of "):
        return said[0]
    bounds = [f"of {clause}" if clause.startswith("at ") else clause for clause in said]
    return " ".join([ONE.get(kind) or f"a {kind.__name__}", *bounds])


def check(spec, every: str = "", **domains: str) -> None:
    """Refuse a dataclass with a field that is not of its annotated type or not in its domain (by default, in `every`).

    Raises ValueError that names the field, its value and what it accepts.
    """
    for field in fields(spec):
        value, domain = getattr(spec, field.name), domains.get(field.name, every)
        if not fits(value, field.type, domain):
            raise ValueError(f"{type(spec).__name__}: {field.name} = {value!r} is not {wanted(field.type, domain)}")
