"""Who labels what, and in which order: each image gets its number of labels, and every two raters share some images."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from lib.ground.domains import check
from lib.ground.seeds import rng_of

TRIES = 20  # random orders of the images in which enough overlap is looked for
APART = 5  # other questions between an image and its repeat, where the list is long enough


@dataclass(frozen=True)
class AssignmentSpec:
    """How a campaign is divided among its raters."""

    overlap: int = 0  # images that every two raters must share
    repeats: float = 0.1  # questions asked a second time, as a share of a rater's images
    checks: float = 0.05  # questions of known answer, as a share of a rater's images
    seed: int = 0

    def __post_init__(self):
        check(self, "at least 0", repeats="in [0, 1]", checks="in [0, 1]")


def assign(
    images: Sequence[str], raters: Sequence[str], labels: int | Sequence[int] = 1, known: Sequence[str] = (),
    spec: AssignmentSpec = AssignmentSpec(),
) -> pd.DataFrame:  # fmt: skip
    """Every rater's list of questions, in the order to ask them: columns rater, place (from 0), image, item.

    `images` are digests, or whatever else names a question; `labels` is how many raters each one gets, one number or one an
    image. Raters get about equally many. `item` is plain, repeat or check; checks are some of the images `known`.
    Raises ValueError if the numbers cannot be met.
    """
    images, raters, known = list(images), list(raters), list(known)
    wanted = np.array([labels] * len(images) if isinstance(labels, int) else labels)
    _refuse(images, raters, wanted, known, spec)
    for attempt in range(TRIES):
        given = _divided(wanted, len(raters), spec.overlap, rng_of(spec.seed, attempt))
        if (shortest := min(shared(given).values(), default=spec.overlap)) >= spec.overlap:
            break
    else:
        raise ValueError(f"found no way for every two of {len(raters)} raters to share {spec.overlap} images, at most "
                         f"{shortest}: give more labels an image, or ask for less overlap")  # fmt: skip
    lists = [
        _ordered([images[i] for i in np.flatnonzero(row)], known, spec, rng_of(spec.seed, TRIES + r)).assign(rater=raters[r])
        for r, row in enumerate(given)
    ]
    return pd.concat(lists, ignore_index=True)[["rater", "place", "image", "item"]]


def _refuse(images: list, raters: list, wanted: np.ndarray, known: list, spec: AssignmentSpec) -> None:
    if len(wanted) != len(images):
        raise ValueError(f"want one number of labels, or one an image, got {len(wanted)} for {len(images)} images")
    if not images or not raters:
        raise ValueError(f"want at least one image and one rater, got {len(images)} and {len(raters)}")
    for what, names in (("image", [*images, *known]), ("rater", raters)):
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{what} {twice!r} is listed twice: want each once")
    if wanted.min() < 1 or wanted.max() > len(raters):
        raise ValueError(f"an image gets from 1 to {len(raters)} labels, one a rater, got {wanted.min()} to {wanted.max()}")
    there, needed = int((wanted * (wanted - 1) // 2).sum()), spec.overlap * len(raters) * (len(raters) - 1) // 2
    if there < needed:
        raise ValueError(f"{needed:,} shared images are needed, {spec.overlap} for every two of {len(raters)} raters, and "
                         f"these labels make {there:,}: give more labels an image, or ask for less overlap")  # fmt: skip


def _divided(wanted: np.ndarray, raters: int, overlap: int, rng: np.random.Generator) -> np.ndarray:
    """Which rater labels which image, bool [rater, image]: pairs that lack shared images come first, then who has least."""
    given, load = np.zeros((raters, len(wanted)), bool), np.zeros(raters)
    lacking = np.full((raters, raters), overlap) * (1 - np.eye(raters, dtype=int))
    for i in np.argsort(-wanted + rng.random(len(wanted)) / 2):  # images of many labels make the most pairs
        chosen: list[int] = []
        while len(chosen) < wanted[i]:
            others = np.flatnonzero(~given[:, i])
            lack = np.clip(lacking[np.ix_(others, chosen or range(raters))], 0, None).sum(1) * (wanted[i] > 1)
            chosen.append(others[np.lexsort((rng.random(len(others)), load[others], -lack))[0]])
            given[chosen[-1], i] = True
        load[chosen] += 1
        lacking[np.ix_(chosen, chosen)] -= 1
    return given


def shared(given: np.ndarray) -> dict[tuple[int, int], int]:
    """How many images every two raters share, from who labels what, bool [rater, image]."""
    return {(a, b): int((given[a] & given[b]).sum()) for a, b in combinations(range(len(given)), 2)}


def _ordered(images: list, known: list, spec: AssignmentSpec, rng: np.random.Generator) -> pd.DataFrame:
    """One rater's questions in random order; a repeat comes later than its image, and not at once where there is room."""
    again = rng.permutation(len(images))[: round(spec.repeats * len(images))]
    wanted = round(spec.checks * len(images))
    if known and len(known) < wanted:
        raise ValueError(f"{len(images)} images ask for {wanted} checks, and {len(known)} images have known answers: give "
                         "more of them, or ask for fewer checks")  # fmt: skip
    checks = rng.permutation(len(known))[:wanted]
    first = [(images[i], "plain") for i in range(len(images))] + [(known[i], "check") for i in checks]
    asked = [first[i] for i in rng.permutation(len(first))]
    for i in again:
        soonest = min(asked.index((images[i], "plain")) + 1 + APART, len(asked))
        asked.insert(int(rng.integers(soonest, len(asked) + 1)), (images[i], "repeat"))
    return pd.DataFrame(asked, columns=["image", "item"]).assign(place=range(len(asked)))
