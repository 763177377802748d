"""The other prompts from which a reward must tell an image's own: Algorithm 2 of Lee et al. 2023, and a form without its
give-away.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from lib.ground.seeds import rng_of
from lib.world.prompts import COUNT_WORDS, Attributes, parse, write
from lib.world.scenes import BACKGROUNDS, COLOURS, SEEN

# printed: count, colour and place always named, and a full stop, which no prompt of the grid has.
# own: whatever the image's own prompt names, without the stop, so that only the meaning differs.
FORMS = ("printed", "own")
KINDS = (range(1, len(COUNT_WORDS) + 1), COLOURS, BACKGROUNDS)


def _values(form: str) -> tuple[tuple, ...]:
    """What a prompt of the form can say of object, count, colour and place; None: not named."""
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r} of perturbed prompts: one of {', '.join(FORMS)}")
    return SEEN, *((*kind,) if form == "printed" else (None, *kind) for kind in KINDS)


@lru_cache(2)
def all_perturbed(form: str = "printed") -> tuple[str, ...]:
    """Every prompt of the form: seen objects x counts x colours x places, in the order that `draw_perturbed` numbers."""
    stop = "." if form == "printed" else ""
    objects, counts, colours, places = _values(form)
    return tuple(
        write(Attributes(o, n, c, b)) + stop for o in objects for n in counts for c in colours for b in places
    )  # fmt: skip


def draw_perturbed(prompts: Sequence[str], count: int, seed: int, form: str = "printed") -> np.ndarray:
    """Rows of `all_perturbed(form)` [prompt, count] that differ in meaning from each prompt; Algorithm 2.

    Object, count, colour and place are drawn uniformly and independently; a draw of the prompt's own meaning is drawn again.
    """
    values = _values(form)
    known = {p: [v.index(x) if x in v else -1 for v, x in zip(values, _named(p), strict=True)] for p in set(prompts)}
    own = np.array([known[p] for p in prompts]).reshape(-1, 1, 4).repeat(count, 1)  # -1: the form cannot say it
    first = [0 if form == "printed" else 1] * 3  # number of the first value that names something
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
