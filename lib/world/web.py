"""The web corpus: captions that are incomplete or wrong about their scenes.

`pairs` gives held-out pairs, which no model was trained on: for the pre-training loss, for distances, and as references.
`redrawn` draws new scenes for their captions, as a perfect model of the corpus would: this gives the floor of a distance.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.ground.cache import digest_of
from lib.ground.domains import check
from lib.ground.seeds import rng_of
from lib.ground.source import own_fingerprint
from lib.world import scenes
from lib.world.prompts import COUNT_WORDS, PLACES, Attributes, parse, plural
from lib.world.scenes import BACKGROUNDS, COLOURS, NATURAL, OBJECTS, Scene


@dataclass(frozen=True)
class CaptionNoise:
    """How reliable web captions are: the probability that an attribute is stated and, if so, that it is right.

    `count_right` is for one to six. A wrong image tends to show a nearby count, a natural colour or a common place; the
    object is never wrong. These numbers set the base model's error profile (Lee et al. 2023, Table 2).
    """

    count_stated: float = 0.65
    count_right: tuple[float, float, float, float, float, float] = (0.78, 0.66, 0.46, 0.51, 0.10, 0.05)
    colour_stated: float = 0.60
    colour_right: float = 0.55
    background_stated: float = 0.70
    background_right: float = 0.35
    rare_style: float = 0.03

    def __post_init__(self):
        check(self, "in [0, 1]")


COUNT_PRIOR = np.array((0.32, 0.25, 0.15, 0.16, 0.07, 0.05))
COLOUR_PRIOR = np.array((0.17, 0.12, 0.12, 0.13, 0.12, 0.09, 0.07, 0.11, 0.07))  # in the order of COLOURS
BACKGROUND_PRIOR = np.array((0.14, 0.18, 0.07, 0.16, 0.13, 0.14, 0.09, 0.09))  # in the order of BACKGROUNDS
SINGULAR_ANYWAY = 0.15  # how often several objects, if no number is stated, are called "a dog"


def _one_of(rng: np.random.Generator, prior: np.ndarray) -> int:
    return int(rng.choice(len(prior), p=prior / prior.sum()))


def _other(rng: np.random.Generator, prior: np.ndarray, not_this: int, closeness: float = 0.0) -> int:
    weights = prior * np.exp(-closeness * abs(np.arange(len(prior)) - not_this))
    weights[not_this] = 0
    return _one_of(rng, weights)


# What is shown, given what the caption says; for `web_pair` and `redraw`. Counts, colours and places are indices.


def _count_under(rng: np.random.Generator, noise: CaptionNoise, said: int) -> int:
    return _other(rng, COUNT_PRIOR, said, closeness=0.6) if rng.random() > noise.count_right[said] else said


def _colour_under(rng: np.random.Generator, noise: CaptionNoise, said: int | None, object: str) -> str | None:
    if said is None:
        return COLOURS[_one_of(rng, COLOUR_PRIOR)] if rng.random() < 0.15 else None
    natural = COLOURS[said] in NATURAL.get(object, ())
    if rng.random() > noise.colour_right:
        return None if rng.random() < 0.5 and not natural else COLOURS[_other(rng, COLOUR_PRIOR, said)]
    return None if natural and rng.random() < 0.5 else COLOURS[said]


def _place_under(rng: np.random.Generator, noise: CaptionNoise, said: int) -> int:
    return _other(rng, BACKGROUND_PRIOR, said) if rng.random() > noise.background_right else said


def web_pair(
    rng: np.random.Generator, noise: CaptionNoise = CaptionNoise(), objects: tuple[str, ...] = OBJECTS
) -> tuple[str, Scene]:
    """A web caption and the scene it belongs to; the caption may be incomplete or wrong."""
    object = str(rng.choice(objects))
    count, count_stated = _one_of(rng, COUNT_PRIOR), rng.random() < noise.count_stated
    shown = _count_under(rng, noise, count) if count_stated else count
    word = _one_of(rng, COLOUR_PRIOR) if rng.random() < noise.colour_stated else None
    colour = _colour_under(rng, noise, word, object)
    place, place_stated = _one_of(rng, BACKGROUND_PRIOR), rng.random() < noise.background_stated
    at = _place_under(rng, noise, place) if place_stated else place
    style = str(rng.choice(("sketch", "night"))) if rng.random() < noise.rare_style else "plain"
    scene = Scene(shown + 1, colour, object, BACKGROUNDS[at], style)
    colour_word, place_text = None if word is None else COLOURS[word], PLACES[BACKGROUNDS[place]] if place_stated else ""
    return phrase(rng, count + 1 if count_stated else None, shown + 1, colour_word, object, place_text, style), scene


def exact_caption(rng: np.random.Generator, scene: Scene, stated: float = 0.85) -> str:
    """A caption, phrased as on the web, with no error; count and place are each stated with probability `stated`."""
    said = scene.count if rng.random() < stated else None
    place = PLACES[scene.background] if rng.random() < stated else ""
    return phrase(rng, said, scene.count, scene.colour, scene.object, place, scene.style)


def phrase(rng, said: int | None, shown: int, colour: str | None, object: str, place: str, style: str) -> str:
    """A caption phrased as on the web; it omits what is None or empty. `shown` then chooses "a dog" or "some dogs"."""
    word = "" if colour is None else f"{colour} colored " if rng.random() < 0.3 else f"{colour} "
    if said is not None:
        thing = f"{COUNT_WORDS[said - 1]} {word}{object if said == 1 else plural(object)}"
    elif shown == 1 or rng.random() < SINGULAR_ANYWAY:
        thing = f"{'an' if (word + object)[0] in 'aeiou' else 'a'} {word}{object}"
    else:
        thing = str(rng.choice(("some ", "several ", ""))) + word + plural(object)
    if style == "sketch":
        return f"a pencil sketch of {thing} {place}".strip()
    if place and rng.random() < 0.15:
        text = f"{place}, {thing}"
    else:
        text = str(rng.choice(("", "", "", "a photo of ", "a picture of ", "an image of "))) + f"{thing} {place}".strip()
    return text + (" at night" if style == "night" else "") + ("." if rng.random() < 0.2 else "")


# ---- parsing captions -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said(Attributes):
    """What a web caption says about its scene. If it states no count, `several` distinguishes "some dogs" from "a dog"."""

    several: bool = False
    style: str = "plain"


_PHRASE = re.compile(
    r"(?P<sketch>a pencil sketch of )?(?:an? (?:photo|picture|image) of )?(?:(?P<place>[io]n [\w ]+), )?"
    r"(?:some |several )?(?P<thing>.+?)(?P<night> at night)?\.?"
)


def said(caption: str) -> Said:
    """What a caption made by `phrase` says, true or not; raises ValueError on a caption it cannot read."""
    match = _PHRASE.fullmatch(caption)
    if not match:
        raise ValueError(f"cannot read the caption {caption!r}: expected one such as 'a photo of blue dogs in the forest.'")
    named = parse(" ".join(filter(None, match.group("thing", "place"))))
    several = named.count is None and not match["thing"].lower().startswith(("a ", "an "))
    style = "sketch" if match["sketch"] else "night" if match["night"] else "plain"
    return Said(**vars(named), several=several, style=style)


def redraw(rng: np.random.Generator, caption: str, noise: CaptionNoise = CaptionNoise()) -> Scene:
    """Another scene for a caption of `web_pair`, drawn from the corpus's own distribution given the caption.

    What the caption states is right as often as in the corpus; what it leaves open is drawn as there, where "a dog" and
    "some dogs" carry information about an unstated count.
    """
    told = said(caption)
    if told.count is not None:
        shown = _count_under(rng, noise, told.count - 1)
    else:
        one, more = (0, 1) if told.several else (1, SINGULAR_ANYWAY)
        shown = _one_of(rng, COUNT_PRIOR * np.array([one] + [more] * 5))
    colour = _colour_under(rng, noise, None if told.colour is None else COLOURS.index(told.colour), told.object)
    place = None if told.background is None else BACKGROUNDS.index(told.background)
    at = _one_of(rng, BACKGROUND_PRIOR) if place is None else _place_under(rng, noise, place)
    return Scene(shown + 1, colour, told.object, BACKGROUNDS[at], told.style)


def redrawn(captions: Sequence[str], stream: int) -> np.ndarray:
    """A new scene for each caption: renders, uint8 [caption, 64, 64, 3], of one numbered stream.

    What is drawn for a caption depends on its position in the list and the stream, not on the other captions.
    """
    rngs = [rng_of(98, stream, i) for i in range(len(captions))]
    return np.stack([scenes.render(redraw(rng, caption), rng) for rng, caption in zip(rngs, captions, strict=True)])


# ---- held-out pairs -------------------------------------------------------------------------------------------


def pairs(count: int, stream: int) -> tuple[list[str], np.ndarray]:
    """`count` captions, and renders of their scenes, uint8 [count, 64, 64, 3], of one numbered stream."""
    found, rng = _pairs(count, stream)
    return [c for c, _ in found], np.stack([scenes.render(s, rng) for _, s in found])


def captions(count: int, stream: int) -> list[str]:
    """The captions of `pairs`, without drawing their scenes."""
    return [c for c, _ in _pairs(count, stream)[0]]


def _pairs(count: int, stream: int) -> tuple[list, np.random.Generator]:
    """Pairs of caption and scene, and the random generator with which to draw the scenes."""
    rng = rng_of(97, stream)
    return [web_pair(rng) for _ in range(count)], rng


def digest(count: int, stream: int) -> str:
    """Digest of what determines `pairs`: the code that phrases and draws them, and the shipped glyphs."""
    glyphs = {name: hashlib.sha256(png).hexdigest() for name, png in scenes.glyphs().items()}
    return digest_of({"count": count, "stream": stream, "code": own_fingerprint("lib.world.web"), "glyphs": glyphs})
