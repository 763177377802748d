"""Spoiled scenes, with faults typical of a generator, from which judges and autoencoder learn what is not a clean scene."""

import numpy as np

from lib.world.scenes import COLOURS, OBJECTS, Scene, background, finished, paste, positions, sprite

BAD_KINDS = ("cut", "blended", "erased", "two kinds", "none", "more than six")


def render_bad(kind: str, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A scene with a generator's typical faults: glyphs cut, blended or half erased, two kinds at once, none, more than six.

    uint8 RGB [64, 64, 3]. The last two kinds of fault keep the scene's object and colour.
    """
    if kind not in BAD_KINDS:
        raise ValueError(f"unknown kind {kind!r}: expected one of {', '.join(BAD_KINDS)}")
    canvas = background(scene.background, rng)
    count = {"none": 0, "more than six": int(rng.integers(7, 11)), "two kinds": max(2, scene.count)}.get(kind, scene.count)
    pixels = 16 if count > 3 else int(rng.choice((16, 24) if count > 1 else (16, 24, 32)))
    glyph = sprite(scene.object, scene.colour, pixels)
    colour = scene.colour if rng.random() < 0.5 else rng.choice((None, *COLOURS))
    other = sprite(rng.choice([o for o in OBJECTS if o != scene.object]), colour, pixels)
    half = pixels // 2
    spoiled = set(rng.permutation(count)[: int(rng.integers(1, count + 1))]) if count else set()
    for i, (x, y) in enumerate(positions(count, pixels, rng)):
        shown = glyph
        if kind == "cut" and i in spoiled:  # one half of this glyph, one of another
            shown = glyph.copy()
            rows = slice(half, None) if rng.random() < 0.5 else slice(None, half)
            shown[(rows, slice(None)) if rng.random() < 0.5 else (slice(None), rows)] = 0
            shown = np.where(shown[..., 3:] == 0, other, shown) if rng.random() < 0.6 else shown
        elif kind == "blended" and i in spoiled:
            t = rng.uniform(0.35, 0.65)
            shown = t * glyph + (1 - t) * other
        elif kind == "erased" and i in spoiled:
            n = pixels // (4 if pixels < 32 else 8)
            means = glyph.reshape(n, pixels // n, n, pixels // n, 4).mean((1, 3))
            shown = means.repeat(pixels // n, 0).repeat(pixels // n, 1)
            shown = (shown + np.roll(shown, 2, 0) + np.roll(shown, 2, 1)) / 3 * rng.uniform(0.4, 0.9)
        elif kind == "two kinds" and i == count - 1:
            shown = other
        paste(canvas, shown, x, y)
    return finished(canvas, "plain")
