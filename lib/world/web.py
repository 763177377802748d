"""The web corpus: captions that say little, or what is wrong, of the scenes under them.

`pairs` are those that no model was trained on: for the pre-training loss, for distances, and as references.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from lib.ground.cache import digest_of
from lib.ground.domains import check
from lib.ground.seeds import rng_of
from lib.ground.source import own_fingerprint
from lib.world import scenes
from lib.world.prompts import COUNT_WORDS, PLACES, plural
from lib.world.scenes import BACKGROUNDS, COLOURS, NATURAL, OBJECTS, Scene


@dataclass(frozen=True)
class CaptionNoise:
    """How web captions speak of their images: the chance that an attribute is stated, and then that it is right.

    `count_right` is for one to six; a wrong image shows a near count, a natural colour or a common place. An object is
    never wrong. These numbers set the base model's error profile (Lee et al. 2023, Table 2).
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


def _other(rng: np.random.Generator, prior: np.ndarray, not_this: int, closeness: float = 0.0) -> int:
    weights = prior * np.exp(-closeness * abs(np.arange(len(prior)) - not_this))
    weights[not_this] = 0
    return int(rng.choice(len(prior), p=weights / weights.sum()))


def web_pair(
    rng: np.random.Generator, noise: CaptionNoise = CaptionNoise(), objects: tuple[str, ...] = OBJECTS
) -> tuple[str, Scene]:
    """A caption and the scene that it stands under on our web; the caption may leave things out or be wrong."""
    object = str(rng.choice(objects))
    said = shown = int(rng.choice(6, p=COUNT_PRIOR / COUNT_PRIOR.sum()))
    count_stated = rng.random() < noise.count_stated
    if count_stated and rng.random() > noise.count_right[said]:
        shown = _other(rng, COUNT_PRIOR, said, closeness=0.6)
    colour_word = colour = None
    if rng.random() < noise.colour_stated:
        index = int(rng.choice(9, p=COLOUR_PRIOR / COLOUR_PRIOR.sum()))
        colour_word = colour = COLOURS[index]
        natural = colour in NATURAL.get(object, ())
        if rng.random() > noise.colour_right:
            colour = None if rng.random() < 0.5 and not natural else COLOURS[_other(rng, COLOUR_PRIOR, index)]
        elif natural and rng.random() < 0.5:
            colour = None
    elif rng.random() < 0.15:
        colour = str(rng.choice(COLOURS, p=COLOUR_PRIOR / COLOUR_PRIOR.sum()))
    place = at = int(rng.choice(8, p=BACKGROUND_PRIOR / BACKGROUND_PRIOR.sum()))
    place_stated = rng.random() < noise.background_stated
    if place_stated and rng.random() > noise.background_right:
        at = _other(rng, BACKGROUND_PRIOR, place)
    style = str(rng.choice(("sketch", "night"))) if rng.random() < noise.rare_style else "plain"
    scene = Scene(shown + 1, colour, object, BACKGROUNDS[at], style)
    place_text = PLACES[BACKGROUNDS[place]] if place_stated else ""
    return phrase(rng, said + 1 if count_stated else None, shown + 1, colour_word, object, place_text, style), scene


def exact_caption(rng: np.random.Generator, scene: Scene, stated: float = 0.85) -> str:
    """A caption in the web's phrasings that is right in what it says of a scene; each attribute is said so often."""
    said = scene.count if rng.random() < stated else None
    place = PLACES[scene.background] if rng.random() < stated else ""
    return phrase(rng, said, scene.count, scene.colour, scene.object, place, scene.style)


def phrase(rng, said: int | None, shown: int, colour: str | None, object: str, place: str, style: str) -> str:
    """A caption in one of the web's phrasings; what is None, or an empty place, is not said, but for one or some `shown`."""
    word = "" if colour is None else f"{colour} colored " if rng.random() < 0.3 else f"{colour} "
    if said is not None:
        thing = f"{COUNT_WORDS[said - 1]} {word}{object if said == 1 else plural(object)}"
    elif shown == 1 or rng.random() < 0.15:
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


# ---- held-out pairs -------------------------------------------------------------------------------------------


def pairs(count: int, stream: int) -> tuple[list[str], np.ndarray]:
    """`count` captions and renders uint8 [count, 64, 64, 3] of a stream; streams are numbered."""
    found, rng = _pairs(count, stream)
    return [c for c, _ in found], np.stack([scenes.render(s, rng) for _, s in found])


def captions(count: int, stream: int) -> list[str]:
    """The captions of `pairs`, without drawing their scenes."""
    return [c for c, _ in _pairs(count, stream)[0]]


def _pairs(count: int, stream: int) -> tuple[list, np.random.Generator]:
    """Pairs of caption and scene, and the generator that goes on to draw the scenes."""
    rng = rng_of(97, stream)
    return [web_pair(rng) for _ in range(count)], rng


def digest(count: int, stream: int) -> str:
    """Digest of what decides `pairs`: the code that words and draws them, and the shipped glyphs."""
    glyphs = {name: hashlib.sha256(png).hexdigest() for name, png in scenes.glyphs().items()}
    return digest_of({"count": count, "stream": stream, "code": own_fingerprint("lib.world.web"), "glyphs": glyphs})
