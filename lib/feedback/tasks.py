"""What people are asked about images, and attention checks: renders, whose truth is known, mixed in with the rest.

A screen holds the questions about images of one prompt that a rater sees together: whether each of up to three images is
good; which of two sets of four shows the prompt better, then which looks better (Lee et al. 2023, section 3.1, appendix C);
or which of two to four images is best (Wu et al. 2023, section 3).
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np

from lib.feedback.choices import groups
from lib.feedback.votes import QUESTIONS as COMPARED
from lib.feedback.votes import SET
from lib.ground.domains import fits, wanted
from lib.ground.seeds import rng_of, seed_of
from lib.images.sampling import ImageSet, image_digest
from lib.world.prompts import parse
from lib.world.scenes import BACKGROUNDS, COLOURS, OBJECTS, Scene, render

TOGETHER = 3  # images on a screen that are labelled one by one
TWO = 0.25  # the share of prompts with two images among a few: a check that joins them makes a screen like the others
RIGHT, WRONG = "check, right", "check, wrong"  # streams of renders that show all, or nothing, of what their prompt says
SHARE = "in [0, 1]"


@dataclass(frozen=True)
class Question:
    """One question, whose answer is one row of the store (fields as in `lib.feedback.answers.Answer`)."""

    question: str
    prompt: str
    images: tuple[str, ...]
    item: str = "plain"
    shown: tuple[str, ...] = ()  # sides, or numbers of images, in the order of the screen; of one image, its place there

    @property
    def about(self) -> tuple[str, str, tuple[str, ...]]:
        """What is asked of what, however it is shown."""
        return self.question, self.prompt, self.images


@dataclass(frozen=True)
class Tasks:
    """Screens in no particular order, and the images on them: name (stream, prompt, number) and pixels by digest."""

    screens: list[tuple[Question, ...]]
    pictures: dict[str, tuple[tuple[str, str, int], np.ndarray]]


def few(shown: ImageSet, count: int, seed: int = 0) -> ImageSet:
    """`count` images to label, or as many as there are: two or three of a prompt, and about as many of each category of
    prompts, drawn at random. Fewer are part of more. Raises ValueError unless `count` is at least 1."""
    rng, rows, by_category = rng_of(seed_of("few to label", seed)), {}, {}
    for i, prompt in enumerate(shown.prompts):
        rows.setdefault(prompt, []).append(i)
    for prompt in rng.permutation(sorted(rows)).tolist():
        by_category.setdefault(parse(prompt).category, []).append(prompt)
    turns = [prompt for turn in zip_longest(*map(by_category.get, sorted(by_category))) for prompt in turn if prompt]
    drawn = [i for prompt in turns for i in rng.permutation(rows[prompt])[: TOGETHER - (rng.random() < TWO)].tolist()]
    if not fits(count, int, "at least 1"):
        raise ValueError(f"count = {count!r} is not {wanted(int, 'at least 1')}")
    return shown.part(drawn[:count])


def to_label(shown: ImageSet, checks: float = 0.05) -> Tasks:
    """Is each image good for its prompt? Up to three images of a prompt are on a screen; `checks` renders an image, a share
    in [0, 1], are mixed in, first where a screen has room, so that no smaller screen gives them away."""
    pictures, by_prompt = _pictures(shown), {}
    for prompt, digest in zip(shown.prompts, shown.digests, strict=True):
        by_prompt.setdefault(prompt, {})[digest] = Question("good", prompt, (digest,))
    asked = {prompt: list(found.values()) for prompt, found in by_prompt.items()}
    full = {prompt for prompt, questions in asked.items() if len(questions) % TOGETHER == 0}
    for prompt, number in _checked(list(asked), _number(checks, len(shown)), full):
        right = bool(rng_of(seed_of("truth of a check", prompt, number)).integers(2))
        (digest,) = _renders(prompt, right, [number], pictures)
        asked[prompt].append(Question("good", prompt, (digest,), "check"))
    screens = []
    for prompt, questions in asked.items():
        order = rng_of(seed_of("screens", prompt)).permutation(len(questions))
        parts = np.array_split(order, -(-len(questions) // TOGETHER))  # a prompt of four: two and two
        screens += [tuple(questions[i] for i in part) for part in parts]
    return Tasks(screens, pictures)


def to_compare(a: ImageSet, b: ImageSet, checks: float = 0.05) -> Tasks:
    """Which set of four shows the prompt better, and which looks better? A has right renders in `checks` more screens a
    screen, a share in [0, 1], and B degraded wrong ones. Raises ValueError unless each side has four images a prompt."""
    pictures, sides = _pictures(a) | _pictures(b), [_fours(x, name) for x, name in ((a, "A"), (b, "B"))]
    if set(sides[0]) != set(sides[1]):
        (odd, *_) = set(sides[0]) ^ set(sides[1])
        raise ValueError(f"two sides are compared on the same prompts, and only one has {odd!r}")
    screens = [_compared(prompt, (*four, *sides[1][prompt])) for prompt, four in sides[0].items()]
    for prompt, number in _checked(list(sides[0]), _number(checks, len(screens))):
        numbers = range(number * SET, (number + 1) * SET)
        four = _renders(prompt, True, numbers, pictures)
        screens.append(_compared(prompt, (*four, *_renders(prompt, False, numbers, pictures, 70)), "check"))
    return Tasks(screens, pictures)


def to_choose(shown: ImageSet, checks: float = 0.05) -> Tasks:
    """Which of a prompt's two to four images is best? `checks` more screens a screen, a share in [0, 1], have four renders,
    of which one is right. Raises ValueError for a prompt with one image, more than four, or one image twice."""
    pictures, screens = _pictures(shown), []
    for row in groups(shown.prompts):
        (prompt, *_), images = ([of[i] for i in row if i >= 0] for of in (shown.prompts, shown.digests))
        if len(images) < 2 or len(set(images)) < len(images):
            raise ValueError(f"the best of different images is chosen, and {prompt!r} has one image alone or twice")
        screens.append((Question("best", prompt, tuple(images)),))
    for prompt, number in _checked([s[0].prompt for s in screens], _number(checks, len(screens))):
        wrong = _renders(prompt, False, range(number * SET, (number + 1) * SET - 1), pictures)
        images = (*_renders(prompt, True, [number], pictures), *wrong)
        screens.append((Question("best", prompt, images, "check"),))
    return Tasks(screens, pictures)


def _pictures(shown: ImageSet) -> dict:
    names = zip([shown.stream] * len(shown), shown.prompts, shown.numbers, strict=True)
    return dict(zip(shown.digests, zip(names, shown.pixels, strict=True), strict=True))


def _fours(side: ImageSet, name: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for prompt, digest in zip(side.prompts, side.digests, strict=True):
        found.setdefault(prompt, []).append(digest)
    for prompt, images in found.items():
        if len(images) != SET:
            raise ValueError(f"side {name} has {len(images)} images of {prompt!r}: a set has {SET}")
    return {prompt: tuple(images) for prompt, images in found.items()}


def _compared(prompt: str, images: Sequence[str], item: str = "plain") -> tuple[Question, ...]:
    return tuple(Question(question, prompt, tuple(images), item) for question in COMPARED)


# ---- attention checks ----------------------------------------------------------------------------------------------


def truth(question: str, streams: Sequence[str]) -> str:
    """The answer to a check from the streams of its images, in the order of the question's `images`."""
    if question == "good":
        return "good" if streams[0] == RIGHT else "bad"
    return str(list(streams).index(RIGHT)) if question == "best" else "A" if streams[0] == RIGHT else "B"


def _number(share: float, of: int) -> int:
    if not fits(share, float, SHARE):
        raise ValueError(f"checks = {share!r} is not {wanted(float, SHARE)}")
    return round(share * of)


def _checked(prompts: list[str], count: int, last: Set[str] = frozenset()) -> list[tuple[str, int]]:
    """Prompts for `count` checks, drawn without replacement for as long as there are others, and the number of each;
    those in `last` come last."""
    order = [prompts[i] for i in rng_of(seed_of("checked prompts", count)).permutation(len(prompts))]
    order.sort(key=last.__contains__)
    return [(order[i % len(order)], i // len(order)) for i in range(count)]


def _renders(prompt: str, right: bool, numbers: Iterable[int], pictures: dict, noise: float = 0) -> list[str]:
    """Digests of renders that are added to `pictures`; `noise` is the standard deviation of what is added to each value."""
    digests = []
    for number in numbers:
        rng = rng_of(seed_of("render of a check", prompt, number, int(right)))
        pixels = render(_scene(prompt, right, rng), rng)
        pixels = (pixels + noise * rng.normal(size=pixels.shape)).clip(0, 255).astype(np.uint8)
        digests.append(image_digest(pixels))
        pictures[digests[-1]] = ((RIGHT if right else WRONG, prompt, number), pixels)
    return digests


def _scene(prompt: str, right: bool, rng: np.random.Generator) -> Scene:
    """A scene that shows what the prompt says; or, if not `right`, another object, and other values of all that is named."""
    try:
        named = parse(prompt)
    except ValueError as error:
        raise ValueError(f"checks are renders, of prompts of the emoji world alone: give checks=0 ({error})") from None
    if right:
        place = named.background or BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
        return Scene(named.count or 1, named.colour, named.object, place)
    while True:
        colour, object, place = (of[rng.integers(len(of))] for of in (COLOURS, OBJECTS, BACKGROUNDS))
        scene = Scene(int(rng.integers(1, 7)), colour, object, place)
        if all(getattr(scene, name) != getattr(named, name) for name in ("count", "colour", "object", "background")):
            return scene


def placed(screen: tuple[Question, ...], rng: np.random.Generator, item: str | None = None) -> tuple[Question, ...]:
    """A screen as one rater sees it: images, or sides, in random places; both questions about two sides see the same.
    `item` is put in place of each question's own."""
    if screen[0].question == "good":
        shuffled = [screen[i] for i in rng.permutation(len(screen))]
        return tuple(replace(q, shown=(str(place),), item=item or q.item) for place, q in enumerate(shuffled))
    places = "AB" if screen[0].question in COMPARED else map(str, range(len(screen[0].images)))
    shown = tuple(rng.permutation(list(places)).tolist())
    return tuple(replace(q, shown=shown, item=item or q.item) for q in screen)
