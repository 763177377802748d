"""The emoji world: the papers' vocabulary, drawn on the latent grid.

A scene is `count` copies of one Noto Color Emoji glyph, recoloured if it has a colour, on a procedurally drawn background,
64 x 64 pixels. Everything is aligned to a grid of 8 pixels, one cell of the autoencoder's latents, because a small diffusion
model learns to draw that crisply. The vocabulary is that of Lee et al. 2023, appendix B.
"""

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from lib.ground.paths import DATA

SIZE = 64  # pixels per side
CELL = 8  # pixels per latent cell
SEEN = ("dog", "cat", "lion", "orange", "vase", "cup", "apple", "chair", "bird", "cake", "bicycle", "tree", "donut",
        "box", "plate", "clock", "backpack", "car", "airplane", "horse")  # fmt: skip
UNSEEN = ("bear", "tiger", "rabbit", "rose", "wolf")  # never in the human data; CLIP, base and judges know them
OBJECTS = SEEN + UNSEEN
RGB = {
    "red": (220, 35, 35), "yellow": (250, 215, 40), "green": (45, 165, 65), "blue": (40, 90, 225), "black": (38, 38, 44),
    "pink": (250, 135, 190), "purple": (140, 60, 195), "white": (248, 248, 250), "brown": (135, 85, 45),
}  # fmt: skip
COLOURS = tuple(RGB)
BACKGROUNDS = ("forest", "city", "moon", "field", "sea", "table", "desert", "San Francisco")
STYLES = ("plain", "sketch", "night")
# The colour words that an uncoloured glyph satisfies: a natural apple is a red apple.
NATURAL = {
    "dog": {"white"}, "cat": {"yellow"}, "lion": {"brown", "yellow"}, "vase": {"brown"}, "cup": {"white"},
    "apple": {"red"}, "chair": {"brown"}, "bird": {"blue"}, "tree": {"green"}, "donut": {"pink", "brown"},
    "box": {"brown"}, "plate": {"white"}, "clock": {"red"}, "backpack": {"red"}, "car": {"red"}, "airplane": {"blue"},
    "bear": {"brown"}, "horse": {"brown"}, "rabbit": {"white"}, "rose": {"red"},
}  # fmt: skip
GLYPH_SIZES = {1: (32,), 2: (24,), 3: (24,), 4: (16,), 5: (16,), 6: (16,)}  # pixels, by the count drawn


@dataclass(frozen=True)
class Scene:
    """What an image shows: `count` 1-6, `colour` from COLOURS or None (natural), one object, one background, a style."""

    count: int
    colour: str | None
    object: str
    background: str
    style: str = "plain"

    def __post_init__(self):
        for name, value, known in (
            ("count", self.count, range(1, 7)), ("colour", self.colour, (None, *COLOURS)),
            ("object", self.object, OBJECTS), ("background", self.background, BACKGROUNDS),
            ("style", self.style, STYLES),
        ):  # fmt: skip
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}: expected one of {', '.join(map(str, known))}")


class Palette(NamedTuple):
    """Colours at the top and the bottom of the sky, then of the ground."""

    sky: tuple
    haze: tuple
    ground: tuple
    near: tuple


PALETTES = {
    "forest": Palette((165, 208, 190), (140, 192, 160), (86, 142, 74), (58, 106, 54)),
    "city": Palette((150, 190, 225), (222, 226, 232), (132, 132, 138), (104, 104, 112)),
    "moon": Palette((18, 20, 56), (44, 44, 84), (178, 178, 184), (146, 146, 154)),
    "field": Palette((120, 190, 248), (208, 234, 252), (156, 206, 92), (108, 172, 66)),
    "sea": Palette((140, 204, 246), (220, 240, 250), (48, 146, 200), (18, 78, 148)),
    "table": Palette((236, 224, 206), (220, 204, 182), (190, 130, 80), (152, 98, 58)),
    "desert": Palette((248, 196, 128), (254, 230, 182), (232, 182, 108), (208, 148, 86)),
    "San Francisco": Palette((190, 208, 226), (228, 230, 234), (96, 132, 166), (72, 102, 138)),
}


def _gradient(top: tuple, bottom: tuple, rows: int) -> np.ndarray:
    t = np.linspace(0, 1, rows)[:, None, None]
    return (np.array(top) * (1 - t) + np.array(bottom) * t) * np.ones((rows, SIZE, 1))


@lru_cache(None)
def _backdrop(name: str, horizon: int, shift: int) -> np.ndarray:
    """A background, float RGB [64, 64, 3] in 0-255; `horizon` 32 or 40 px; `shift` 0 or 1 moves its details by 8 px."""
    p = PALETTES[name]
    sky_and_ground = np.concatenate([_gradient(p.sky, p.haze, horizon), _gradient(p.ground, p.near, SIZE - horizon)])
    zoom = 4  # drawn large, then downsampled, for smooth edges
    image = Image.fromarray(sky_and_ground.astype(np.uint8)).resize((SIZE * zoom,) * 2, Image.BICUBIC)
    draw = ImageDraw.Draw(image)

    def box(kind, x0, y0, x1, y1, fill):
        getattr(draw, kind)([zoom * v for v in (x0, y0, x1, y1)], fill=fill)

    def polygon(points, fill):
        draw.polygon([(zoom * x, zoom * y) for x, y in points], fill=fill)

    h, dx = horizon, 8 * shift
    if name == "forest":
        for i in range(-1, 6):
            x = 16 * i + dx
            polygon([(x - 8, h), (x + 8, h), (x, h - 28)], (52, 112, 70))
            polygon([(x, h), (x + 16, h), (x + 8, h - 20)], (38, 92, 54))
    elif name == "city":
        for i in range(-1, 5):
            for j, (top, fill) in enumerate(((16, (112, 118, 134)), (24, (92, 98, 116)))):
                x = 16 * i + 8 * j + dx
                box("rectangle", x, h - top, x + 7, h, fill)
                for y in range(h - top + 3, h - 4, 8):
                    box("rectangle", x + 2, y, x + 4, y + 2, (226, 214, 150))
    elif name == "moon":
        x = 12 if shift else 44
        box("ellipse", x - 6, 3, x + 7, 16, (66, 128, 216))
        box("ellipse", x - 3, 6, x + 3, 12, (104, 184, 112))
        for i in range(-1, 5):
            box("ellipse", 16 * i + dx + 2, h + 10, 16 * i + dx + 12, h + 14, (128, 128, 136))
    elif name == "sea":
        for y in range(h + 4, SIZE, 8):
            for i in range(-1, 5):
                x = 16 * i + 8 * ((y // 8 + shift) % 2)
                box("rectangle", x + 1, y, x + 6, y + 1, (126, 196, 228))
    elif name == "table":
        for y in range(h + 7, SIZE, 8):
            box("rectangle", 0, y, SIZE, y + 0.7, (136, 84, 48))
        box("rectangle", 0, h, SIZE, h + 1.5, (206, 148, 96))
    elif name == "desert":
        box("ellipse", 6 + 40 * shift, 4, 18 + 40 * shift, 16, (255, 246, 196))
        x = 48 - 40 * shift
        for x0, y0, x1, y1 in ((2, -16, 5, 1), (5, -8, 8, -6), (7, -13, 8.5, -6)):
            box("rectangle", x + x0, h + y0, x + x1, h + y1, (78, 140, 82))
    elif name == "San Francisco":
        red, a, b = (198, 70, 48), 12 + dx, 44 + dx
        for x in (a, b):
            box("rectangle", x - 1.5, h - 24, x + 1.5, h + 3, red)
        box("rectangle", 0, h - 3, SIZE, h - 1, red)
        for x0, y0, x1, y1 in ((a, 23, a + 16, 6), (a + 16, 6, b, 23), (a - 24, 4, a, 23), (b, 23, b + 24, 4)):
            draw.line([zoom * x0, zoom * (h - y0), zoom * x1, zoom * (h - y1)], fill=red, width=zoom)
    elif name == "field":
        for y in range(h + 3, SIZE, 8):
            for i in range(-1, 5):
                x = 16 * i + 8 * ((y // 8 + shift) % 2)
                polygon([(x + 2, y + 3), (x + 3, y), (x + 4, y + 3)], (92, 152, 58))
    return np.asarray(image.resize((SIZE, SIZE), Image.BOX), float)


def _tint(rgb: np.ndarray, alpha: np.ndarray, colour: str) -> np.ndarray:
    """Recolour by luminance: shadows darken the named colour, lights lighten it."""
    luminance = rgb @ (0.299, 0.587, 0.114) / 255
    low, high = np.quantile(luminance[alpha > 128], (0.05, 0.95))
    light = np.clip((luminance - low) / (high - low + 1e-6), 0, 1)[..., None]
    target = np.array(RGB[colour], float)
    if colour == "white":
        return target * (0.70 + 0.30 * light)
    if colour == "black":
        return target * (0.55 + 0.95 * light)
    shade = 0.58 + 0.54 * light
    return np.where(shade < 1, target * shade, target + (255 - target) * (shade - 1) * 2)


@lru_cache(1)
def glyphs() -> dict[str, bytes]:
    """The shipped PNG file of each object; read once, so that cache keys describe exactly the glyphs that are drawn."""
    return {object: (DATA / "sprites" / f"{object}.png").read_bytes() for object in OBJECTS}


@lru_cache(None)
def sprite(object: str, colour: str | None, pixels: int) -> np.ndarray:
    """A glyph with long side `pixels` - 1 in a transparent square: float RGBA [pixels, pixels, 4], premultiplied, 0-255."""
    image = Image.open(BytesIO(glyphs()[object])).convert("RGBA")
    if colour is not None:
        raw = np.asarray(image, float)
        rgb = _tint(raw[..., :3], raw[..., 3], colour)
        image = Image.fromarray(np.dstack([rgb, raw[..., 3]]).clip(0, 255).astype(np.uint8), "RGBA")
    scale = (pixels - 1) / max(image.size)
    small = image.resize([max(1, round(side * scale)) for side in image.size], Image.LANCZOS)
    cell = Image.new("RGBA", (pixels, pixels))
    cell.paste(small, ((pixels - small.width) // 2, (pixels - small.height) // 2))
    out = np.asarray(cell, float).copy()
    out[..., :3] *= out[..., 3:] / 255
    return out


def background(name: str, rng: np.random.Generator) -> np.ndarray:
    """A background with a random horizon, position of details and small colour shift: float RGB [64, 64, 3]."""
    return _backdrop(name, int(rng.choice((32, 40))), int(rng.integers(2))) + rng.normal(0, 4, 3)


def positions(count: int, pixels: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Corners (x, y) of `count` glyphs that do not overlap: multiples of 16 px for 16-px glyphs, otherwise of 8 px."""
    if count > (SIZE // pixels) ** 2:
        raise ValueError(f"{count} glyphs of {pixels} px do not fit into {SIZE} px: at most {(SIZE // pixels) ** 2} do")
    step = 16 if pixels == 16 else CELL
    grid = [(x, y) for x in range(0, SIZE - pixels + 1, step) for y in range(0, SIZE - pixels + 1, step)]
    while True:
        placed: list[tuple[int, int]] = []
        for _ in range(count):
            free = [g for g in grid if all(max(abs(g[0] - x), abs(g[1] - y)) >= pixels for x, y in placed)]
            if not free:
                break
            placed.append(free[rng.integers(len(free))])
        if len(placed) == count:
            return placed


def paste(canvas: np.ndarray, glyph: np.ndarray, x: int, y: int) -> None:
    """Put a premultiplied glyph on the canvas, in place."""
    side = len(glyph)
    spot = canvas[y : y + side, x : x + side]
    spot *= 1 - glyph[..., 3:] / 255
    spot += glyph[..., :3]


def finished(canvas: np.ndarray, style: str) -> np.ndarray:
    if style == "sketch":  # pencil on warm paper
        grey = canvas @ (0.299, 0.587, 0.114) / 255
        canvas = (70 + 178 * grey[..., None] ** 0.8) * np.array((1.0, 0.98, 0.93))
    elif style == "night":
        canvas = canvas * np.array((0.36, 0.44, 0.72)) + np.array((4, 6, 26))
    return canvas.clip(0, 255).astype(np.uint8)


def render(scene: Scene, rng: np.random.Generator, pixels: int | None = None) -> np.ndarray:
    """Draw a scene: uint8 RGB [64, 64, 3]. `pixels` overrides the glyph size (judges must not infer counts from sizes)."""
    canvas = background(scene.background, rng)
    pixels = pixels or int(rng.choice(GLYPH_SIZES[scene.count]))
    glyph = sprite(scene.object, scene.colour, pixels)
    for x, y in positions(scene.count, pixels, rng):
        paste(canvas, glyph, x, y)
    return finished(canvas, scene.style)
