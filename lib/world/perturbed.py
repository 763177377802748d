"""Perturbed prompts, among which a reward must recognise an image's own: Algorithm 2 of Lee et al. 2023, and a form in which
the wording does not give the answer away.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from lib.ground.seeds import rng_of
from lib.world.prompts import COUNT_WORDS, Attributes, parse, write
from lib.world.scenes import BACKGROUNDS, COLOURS, SEEN

# printed: always names count, colour and place and ends with a full stop, which no prompt of the grid does.
# own: names what the image's own prompt names, without a full stop, so that only the meaning differs.
FORMS = ("printed", "own")
KINDS = (range(1, len(COUNT_WORDS) + 1), COLOURS, BACKGROUNDS)


def _values(form: str) -> tuple[tuple, ...]:
    """The objects, counts, colours and places that a prompt of this form can name; None: not named."""
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r} of perturbed prompts: expected one of {', '.join(FORMS)}")
    return SEEN, *((*kind,) if form == "printed" else (None, *kind) for kind in KINDS)


@lru_cache(2)
def all_perturbed(form: str = "printed") -> tuple[str, ...]:
    """Every prompt of this form: seen objects x counts x colours x places, in the order that `draw_perturbed` indexes."""
    stop = "." if form == "printed" else ""
    objects, counts, colours, places = _values(form)
    return tuple(
        write(Attributes(o, n, c, b)) + stop for o in objects for n in counts for c in colours for b in places
    )  # fmt: skip


def draw_perturbed(prompts: Sequence[str], count: int, seed: int, form: str = "printed") -> np.ndarray:
    """Indices into `all_perturbed(form)`, [prompt, count], of prompts that differ in meaning from each prompt; Algorithm 2.

    Object, count, colour and place are drawn uniformly and independently, again if the draw has the prompt's own meaning.
    """
    values = _values(form)
    known = {p: [v.index(x) if x in v else -1 for v, x in zip(values, _named(p), strict=True)] for p in set(prompts)}
    own = np.array([known[p] for p in prompts]).reshape(-1, 1, 4).repeat(count, 1)  # -1: the form cannot name it
    first = [0 if form == "printed" else 1] * 3  # index of the first value that names something
    low, high = [0, *first], [len(v) for v in values]
    rng = rng_of(seed)
    drawn = rng.integers(low, high, own.shape)
    while True:
        if form == "own":
            drawn[..., 1:][own[..., 1:] == 0] = 0
        again = (drawn == own).all(-1)
        if not again.any():
            return np.ravel_multi_index(tuple(np.moveaxis(drawn, -1, 0)), high)
        drawn[again] = rng.integers(low, high, (again.sum(), 4))


def _named(prompt: str) -> tuple:
    a = parse(prompt)
    return a.object, a.count, a.colour, a.background
