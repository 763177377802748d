"""Pairs of the web corpus are the same for all who ask, and known by what words and draws them."""

import io

import numpy as np
import pytest
from PIL import Image

from lib.ground import source
from lib.study.lee import LeeStudy
from lib.world import scenes, web


def test_captions_are_those_of_the_pairs_and_each_stream_has_its_own():
    captions, pixels = web.pairs(6, 2)
    assert captions == web.captions(6, 2) == LeeStudy("smoke").web_captions(6, 2)
    np.testing.assert_array_equal(pixels, LeeStudy("smoke").web_pairs(6, 2)[1])
    assert web.captions(6, 3) != captions and pixels.shape == (6, 64, 64, 3)


def altered(png: bytes) -> bytes:
    """A glyph with one pixel of another colour."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    image.putpixel((image.width // 2, image.height // 2), (1, 2, 3, 255))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("object", ["dog", "wolf", "apple"])
def test_a_changed_glyph_is_other_pairs(object, monkeypatch):
    before, glyphs = web.digest(6, 2), scenes.glyphs()
    assert set(glyphs) == set(scenes.OBJECTS)
    monkeypatch.setattr(scenes, "glyphs", lambda: glyphs | {object: altered(glyphs[object])})
    assert web.digest(6, 2) != before


@pytest.mark.parametrize("count, stream", [(7, 2), (6, 3)])
def test_other_numbers_are_other_pairs(count, stream):
    assert web.digest(count, stream) != web.digest(6, 2) == web.digest(6, 2)


@pytest.mark.parametrize("module", ["lib.world.scenes", "lib.world.prompts", "lib.world.web"])
def test_the_code_that_words_and_draws_is_part_of_what_they_are(module):
    edited = source.SOURCES | {module: source.SOURCES[module] + "\nx = 1"}
    assert source.source_fingerprint("lib.world.web", edited) != source.source_fingerprint("lib.world.web")
