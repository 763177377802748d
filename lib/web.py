"""Pairs of the web corpus that no model was trained on: for the pre-training loss, for distances, and as references."""

import hashlib

import numpy as np

from lib import prompts, world
from lib.cache import digest_of
from lib.seeds import rng_of
from lib.source import own_fingerprint


def pairs(count: int, stream: int) -> tuple[list[str], np.ndarray]:
    """`count` captions and renders uint8 [count, 64, 64, 3] of a stream; streams are numbered."""
    found, rng = _pairs(count, stream)
    return [c for c, _ in found], np.stack([world.render(s, rng) for _, s in found])


def captions(count: int, stream: int) -> list[str]:
    """The captions of `pairs`, without drawing their scenes."""
    return [c for c, _ in _pairs(count, stream)[0]]


def _pairs(count: int, stream: int) -> tuple[list, np.random.Generator]:
    """Pairs of caption and scene, and the generator that goes on to draw the scenes."""
    rng = rng_of(97, stream)
    return [prompts.web_pair(rng) for _ in range(count)], rng


def digest(count: int, stream: int) -> str:
    """Digest of what decides `pairs`: the code that words and draws them, and the shipped glyphs."""
    glyphs = {name: hashlib.sha256(png).hexdigest() for name, png in world.glyphs().items()}
    return digest_of({"count": count, "stream": stream, "code": own_fingerprint("lib.web"), "glyphs": glyphs})
