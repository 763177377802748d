"""Scenes with faults typical of a generator: spoiled ones, from which judges and autoencoder learn what is not a clean
scene, and flawed ones, in which everything can still be told."""

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


def render_flawed(scene: Scene, rng: np.random.Generator, pixels: int) -> np.ndarray:
    """A scene with small faults, of which a viewer can still tell everything: uint8 RGB [64, 64, 3].

    Glyphs are off the grid, so that they touch or are cut by the edge; some are faint, lack a strip, are tinged with another
    colour, or have a trace of another object.
    """
    canvas = background(scene.background, rng)
    clean = sprite(scene.object, scene.colour, pixels)
    colour = rng.choice((None, *(c for c in COLOURS if c != scene.colour)))
    tinged = sprite(scene.object, colour, pixels)
    other = sprite(rng.choice([o for o in OBJECTS if o != scene.object]), scene.colour, pixels)
    tinge = rng.uniform(0, 0.35) * (rng.random() < 0.5)
    for x, y in positions(scene.count, pixels, rng):
        glyph = (1 - tinge) * clean + tinge * tinged
        if rng.random() < 0.3:
            trace = rng.uniform(0, 0.25)
            glyph = (1 - trace) * glyph + trace * other
        if rng.random() < 0.4:
            lost, rows = int(rng.integers(1, pixels // 4 + 1)), rng.random() < 0.5
            strip = slice(None, lost) if rng.random() < 0.5 else slice(-lost, None)
            glyph[(strip, slice(None)) if rows else (slice(None), strip)] = 0
        faint = rng.uniform(0.6, 1) if rng.random() < 0.4 else 1
        dx, dy = rng.integers(-pixels // 8, pixels // 8 + 1, 2)
        paste_within(canvas, glyph * faint, x + int(dx), y + int(dy))
    return finished(canvas, "plain")


def paste_within(canvas: np.ndarray, glyph: np.ndarray, x: int, y: int) -> None:
    """`paste` what lies on the canvas of a glyph whose corner may lie beyond its edge."""
    side, (height, width) = len(glyph), canvas.shape[:2]
    rows, columns = slice(max(0, -y), min(side, height - y)), slice(max(0, -x), min(side, width - x))
    spot = canvas[y + rows.start : y + rows.stop, x + columns.start : x + columns.stop]
    spot *= 1 - glyph[rows, columns, 3:] / 255
    spot += glyph[rows, columns, :3]
