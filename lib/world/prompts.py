"""Prompts: the paper's grammar, a parser for it, the grid of training prompts, and the evaluation and selection prompts.

Lee et al. 2023, section 3.1, appendix B (forms, counts). The prompts of Algorithm 2 are in `lib.world.perturbed`.
"""

import functools
import re
from dataclasses import dataclass

import numpy as np

from lib.ground.seeds import rng_of
from lib.world.scenes import BACKGROUNDS, COLOURS, NATURAL, OBJECTS, SEEN, UNSEEN, Scene

COUNT_WORDS = ("one", "two", "three", "four", "five", "six")
PLACES = {
    b: {"moon": "on the moon", "table": "on the table", "San Francisco": "in San Francisco"}.get(b, f"in the {b}")
    for b in BACKGROUNDS
}
CATEGORIES = ("count", "colour", "background", "combination")
PREFIX = "Weird image. "  # put before the prompts of non-preferred images (Wu et al. 2023, section 5)
OTHER_PREFIX = "Strange picture. "  # a control


def plural(noun: str) -> str:
    """box -> boxes, wolf -> wolves, dog -> dogs."""
    return {"box": "boxes", "wolf": "wolves"}.get(noun, noun + "s")


SINGULAR = {plural(o): o for o in OBJECTS} | {o: o for o in OBJECTS}


@dataclass(frozen=True)
class Attributes:
    """The attributes that a prompt names; None for those it does not (`A dog` names no count)."""

    object: str
    count: int | None = None
    colour: str | None = None
    background: str | None = None

    @property
    def category(self) -> str:
        """One of CATEGORIES; `combination` if two or more attributes are named."""
        named = [n for n in ("count", "colour", "background") if getattr(self, n) is not None]
        if not named:
            raise ValueError(f"the prompt about {self.object!r} names no count, colour or background: name at least one")
        return named[0] if len(named) == 1 else "combination"

    def colours_that_satisfy(self) -> set[str | None]:
        """Scene colours that make the prompt's colour word true: for a red apple also None (natural), all if unnamed."""
        if self.colour is None:
            return {None, *COLOURS}
        return {self.colour} | ({None} if self.colour in NATURAL.get(self.object, ()) else set())

    def matches(self, scene: Scene) -> bool:
        """Whether a scene shows everything that the prompt names."""
        return (
            self.object == scene.object
            and self.count in (None, scene.count)
            and scene.colour in self.colours_that_satisfy()
            and self.background in (None, scene.background)
        )


def write(a: Attributes) -> str:
    """The paper's form for these attributes: `Two blue dogs in the forest`, `A green colored dog`."""
    noun = a.object if a.count in (None, 1) else plural(a.object)
    colour = "" if a.colour is None else f"{a.colour} colored " if a.category == "colour" else f"{a.colour} "
    head = COUNT_WORDS[a.count - 1] if a.count else "an" if (colour + noun)[0] in "aeiou" else "a"
    text = f"{head} {colour}{noun}" + (f" {PLACES[a.background]}" if a.background else "")
    return text[0].upper() + text[1:]


_FORM = re.compile(
    r"(?:(?P<count>a|an|one|two|three|four|five|six) )?(?P<middle>.*?)(?: (?P<place>(?:in|on) .+))?", re.IGNORECASE
)


@functools.cache
def parse(prompt: str) -> Attributes:
    """Parse a prompt of the grammar into the attributes it names.

    Raises ValueError that names the unknown word and the known ones.
    """
    match = _FORM.fullmatch(prompt.strip().rstrip("."))
    words = match["middle"].lower().replace(" colored", "").split() if match else []
    if not words:
        raise ValueError(f"cannot read the prompt {prompt!r}: expected a form such as 'Two blue dogs in the forest'")
    if words[-1] not in SINGULAR:
        raise ValueError(f"unknown object {words[-1]!r} in prompt {prompt!r}: expected one of {', '.join(OBJECTS)}")
    if len(words) > 2 or (len(words) == 2 and words[0] not in COLOURS):
        raise ValueError(
            f"unknown colour or count {' '.join(words[:-1])!r} in prompt {prompt!r}: expected one of {', '.join(COLOURS)}, "
            "or a count from one to six"
        )
    place = match["place"]
    backgrounds = {p.lower(): b for b, p in PLACES.items()}
    if place is not None and place.lower() not in backgrounds:
        raise ValueError(f"unknown place {place!r} in prompt {prompt!r}: expected one of {', '.join(PLACES.values())}")
    head = (match["count"] or "a").lower()
    return Attributes(
        SINGULAR[words[-1]],
        COUNT_WORDS.index(head) + 1 if head in COUNT_WORDS else None,
        words[0] if len(words) == 2 else None,
        backgrounds[place.lower()] if place is not None else None,
    )


def checked(prompt: str) -> Attributes:
    """The attributes named by a prompt that is in the study's form, regardless of capitals.

    Raises ValueError on any other prompt, and on one that names only an object, with a corrected prompt.
    """
    if not isinstance(prompt, str):
        raise ValueError(f"the prompt {prompt!r} is not a string: write it in quotes, such as 'Two blue dogs in the forest'")
    named = parse(" ".join(prompt.split()))
    if named == Attributes(named.object):
        right = write(Attributes(named.object, background="forest"))
        raise ValueError(f"the prompt {prompt!r} names no count, colour or place: write, for instance, {right!r}")
    if write(named).lower() != prompt.lower():
        raise ValueError(f"the prompt {prompt!r} is not in the study's form: write {write(named)!r}")
    return named


def _sample(rng: np.random.Generator, pool: list[Attributes], count: int) -> list[Attributes]:
    return [pool[i] for i in sorted(rng.permutation(len(pool))[:count])]


def grid(objects: tuple[str, ...] = SEEN, counts: tuple[int, int, int, int] = (108, 58, 80, 2528)) -> list[str]:
    """The training prompts by category, the same on every call.

    `counts` are numbers of count, colour, background and combination prompts; the default gives the paper's 2,774 [derived].
    Half of the combinations name colour and background; a sixth each name count and colour, count and background, and all
    three (the paper does not state the mix). A smaller grid is a subset of a larger one in each category, not its beginning.
    """
    rng = rng_of(20230223)
    numbers = range(1, 7)
    pools = [
        [Attributes(o, count=n) for o in objects for n in numbers],
        [Attributes(o, colour=c) for o in objects for c in COLOURS],
        [Attributes(o, background=b) for o in objects for b in BACKGROUNDS],
        [Attributes(o, colour=c, background=b) for o in objects for c in COLOURS for b in BACKGROUNDS],
        [Attributes(o, n, c) for o in objects for n in numbers for c in COLOURS],
        [Attributes(o, n, background=b) for o in objects for n in numbers for b in BACKGROUNDS],
        [Attributes(o, n, c, b) for o in objects for n in numbers for c in COLOURS for b in BACKGROUNDS],
    ]
    sixth = counts[3] // 6
    wanted = (*counts[:3], counts[3] - 3 * sixth, sixth, sixth, sixth)
    return [write(a) for pool, n in zip(pools, wanted, strict=True) for a in _sample(rng, pool, n)]


EVALUATION_SEEN = ("dog", "donut", "cake", "vase", "apple")


def evaluation_prompts() -> list[str]:
    """The paper's 120 evaluation prompts: 5 seen and 5 unseen objects x (4 colours + 4 places + 4 counts); section 4.1."""
    out = []
    for objects in (EVALUATION_SEEN, UNSEEN):
        out += [Attributes(o, colour=c) for o in objects for c in ("red", "green", "pink", "blue")]
        out += [Attributes(o, background=b) for o in objects for b in ("moon", "sea", "city", "forest")]
        out += [Attributes(o, count=n) for o in objects for n in (2, 3, 4, 5)]
    return [write(a) for a in out]


def selection_prompts() -> list[str]:
    """40 prompts on which learning rate, beta and updates are chosen; their seen objects are in no evaluation prompt."""
    objects = ("cat", "lion", "car", "chair")
    out = [Attributes(o, count=n) for o in objects for n in (2, 3, 4, 5)]
    out += [Attributes(o, colour=c) for o in objects for c in ("red", "green", "purple")]
    out += [Attributes(o, background=b) for o in objects for b in ("moon", "sea", "desert")]
    return [write(a) for a in out]


def unseen_prompts(counts: tuple[int, int, int, int] = (30, 20, 15, 15)) -> list[str]:
    """Prompts about unseen objects, on which rewards are tested."""
    return grid(UNSEEN, counts)
