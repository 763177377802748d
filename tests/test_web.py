"""Pairs of the web corpus are the same for all who ask, and known by what words and draws them; captions can be read back,
and scenes drawn anew under them."""

import hashlib
import io
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chi2_contingency

from lib.ground import source
from lib.study.lee import LeeStudy
from lib.world import scenes, web
from lib.world.prompts import PLACES
from lib.world.web import CaptionNoise, Said, phrase, redraw, redrawn, said, web_pair

NOISE = CaptionNoise(0.6, (0.9, 0.8, 0.5, 0.6, 0.2, 0.1), 0.5, 0.7, 0.6, 0.4, 0.2)

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


@pytest.mark.parametrize("objects, digest", [
    (scenes.OBJECTS, "0f1dc8baedbf39b1"), (("apple", "rose", "wolf"), "40006426b2b55af6"),
])  # fmt: skip
def test_pairs_draw_what_they_drew_in_the_same_order(objects, digest, monkeypatch):
    """Models were trained on streams of pairs: the same numbers of a generator must go on to mean the same things."""
    for name, prior in (("COUNT", (0.32, 0.25, 0.15, 0.16, 0.07, 0.05)),
                        ("COLOUR", (0.17, 0.12, 0.12, 0.13, 0.12, 0.09, 0.07, 0.11, 0.07)),
                        ("BACKGROUND", (0.14, 0.18, 0.07, 0.16, 0.13, 0.14, 0.09, 0.09))):  # fmt: skip
        monkeypatch.setattr(web, f"{name}_PRIOR", np.array(prior))
    rng = np.random.default_rng(5)
    found = [web_pair(rng, NOISE, objects) for _ in range(600)], rng.random()
    assert hashlib.sha256(repr(found).encode()).hexdigest()[:16] == digest


# ---- captions read back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caption, told", [
    ("two blue dogs in the forest", Said("dog", 2, "blue", "forest")),
    ("one dog.", Said("dog", 1)),
    ("a dog", Said("dog")),
    ("An orange", Said("orange")),
    ("dogs", Said("dog", several=True)),
    ("several red colored apples on the table.", Said("apple", None, "red", "table", several=True)),
    ("an image of some wolves on the moon at night", Said("wolf", None, None, "moon", True, "night")),
    ("in San Francisco, a white rabbit at night.", Said("rabbit", None, "white", "San Francisco", False, "night")),
    ("a pencil sketch of six boxes in the sea", Said("box", 6, None, "sea", False, "sketch")),
])  # fmt: skip
def test_a_caption_says_what_a_reader_would_say_it_says(caption, told):
    assert said(caption) == told


def test_every_phrase_of_the_web_reads_back_as_what_it_was_worded_from():
    rng = np.random.default_rng(0)
    counts, words = (None, *range(1, 7)), (None, "red", "white")
    places, seen = ("", *PLACES.values()), set()
    for count, shown, word, object, place, style in product(
        counts, (1, 4), words, ("orange", "wolf", "dog"), places[:4] + places[-1:], scenes.STYLES
    ):
        caption = phrase(rng, count, shown, word, object, place, style)
        told = said(caption)
        background = next((b for b, p in PLACES.items() if p == place), None)
        assert (told.object, told.count, told.colour, told.background) == (object, count, word, background), caption
        assert told.style == style and not (told.several and (shown == 1 or count)), caption
        seen.add((count is None and shown == 4, told.several))
    assert seen == {(False, False), (True, False), (True, True)}  # four may be called a dog, one is never called dogs


@pytest.mark.parametrize("text", ["", "a pencil sketch of", "two unicorns", "dogs in the bath", "a dog, a cat"])
def test_a_text_that_the_web_does_not_write_is_refused(text):
    with pytest.raises(ValueError, match="cannot read|unknown"):
        said(text)


# ---- scenes drawn anew -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both():
    """Captions with their own scenes and with redrawn ones: what is said and shown of count, colour and place, twice."""
    rng, found, noise = np.random.default_rng(1), ([], []), replace(NOISE, colour_right=0.4)
    for _ in range(12_000):
        caption, own = web_pair(rng, noise, ("apple", "lion", "wolf"))
        told = said(caption)
        for scene, rows in zip((own, redraw(rng, caption, noise)), found, strict=True):
            assert (scene.object, scene.style) == (own.object, own.style)
            colour = told.object, told.colour, scene.colour
            rows.append({"count": (told.count, told.several, scene.count), "colour": colour,
                         "place": (told.background, scene.background)})  # fmt: skip
    return found


def alike(own: list, redrawn: list) -> float:
    """The chance of tables as far apart as these, were both drawn from one law; what is rarer than 10 counts together."""
    kinds, at = np.unique([repr(x) for x in own + redrawn], return_inverse=True)
    table = np.stack([np.bincount(part, minlength=len(kinds)) for part in (at[: len(own)], at[len(own) :])])
    rare = table.sum(0) < 10
    table = np.concatenate([table[:, ~rare], table[:, rare].sum(1, keepdims=True)], 1)
    return chi2_contingency(table[:, table.sum(0) > 0]).pvalue


@pytest.mark.parametrize("what", [("count",), ("colour",), ("place",), ("count", "place")])
def test_redrawn_scenes_stand_under_captions_as_often_as_the_corpuss_own(what, both):
    own, again = ([tuple(row[w] for w in what) for row in rows] for rows in both)
    assert alike(own, again) > 1e-4
    others = [tuple(x[:-1] + y[-1:] for x, y in zip(*rows, strict=True)) for rows in zip(again[1:], again[:-1], strict=True)]
    assert alike(own, others) < 1e-9  # the scenes of other captions are told apart


def test_redrawn_images_repeat_in_their_stream_and_keep_to_their_captions():
    captions = ["six wolves on the moon", "a dog", "a dog", "some red colored apples at night"]
    images = redrawn(captions, 1)
    assert images.shape == (4, 64, 64, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(redrawn(captions, 1), images)
    np.testing.assert_array_equal(redrawn(captions[:2], 1), images[:2])
    assert (redrawn(captions, 2) != images).any((1, 2, 3)).all() and (images[1] != images[2]).any()
