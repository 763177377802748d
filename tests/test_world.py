"""A scene is drawn as it is described, alike whenever it is drawn, and nothing unknown can be drawn."""

import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import label as connected

from lib.world.scenes import (
    BACKGROUNDS,
    CELL,
    COLOURS,
    GLYPH_SIZES,
    NATURAL,
    OBJECTS,
    RGB,
    SEEN,
    SIZE,
    STYLES,
    UNSEEN,
    Scene,
    background,
    positions,
    render,
    sprite,
)
from pretrain.spoiled import BAD_KINDS, render_bad  # fmt: skip

DOG = Scene(3, "blue", "dog", "forest")


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def changed(scene: Scene, seed: int, pixels: int | None = None) -> np.ndarray:
    """Where the picture differs from its own background, drawn from the same seed: bool [64, 64]."""
    empty = background(scene.background, rng_of(seed)).clip(0, 255).astype(np.uint8)
    return (render(scene, rng_of(seed), pixels) != empty).any(2)


def test_the_vocabulary_is_the_papers_and_unseen_objects_are_not_seen():
    assert (len(SEEN), len(UNSEEN), len(COLOURS), len(BACKGROUNDS)) == (20, 5, 9, 8)
    assert len(set(OBJECTS)) == 25 and not set(SEEN) & set(UNSEEN)


@pytest.mark.parametrize("object", OBJECTS)
def test_a_picture_of_any_object_can_be_drawn_at_every_count(object):
    for count in range(1, 7):
        image = render(Scene(count, None, object, "field"), rng_of(count))
        assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8


def test_a_picture_depends_on_its_scene_and_its_generator_alone():
    first = render(DOG, rng_of(7))
    for other in OBJECTS:
        render(replace(DOG, object=other), rng_of(1))
    assert np.array_equal(first, render(DOG, rng_of(7)))
    assert not np.array_equal(first, render(DOG, rng_of(8)))


@pytest.mark.parametrize("change", [dict(count=4), dict(colour="red"), dict(colour=None), dict(object="cat"),
                                    dict(background="sea"), dict(style="night"), dict(style="sketch")])  # fmt: skip
def test_every_attribute_of_a_scene_shows(change):
    assert not np.array_equal(render(DOG, rng_of(7)), render(replace(DOG, **change), rng_of(7)))


def test_drawing_never_alters_the_glyphs_and_backgrounds_that_are_kept():
    def digest():
        kept = [sprite("dog", "blue", 24), background("forest", rng_of(0))]
        return hashlib.sha256(b"".join(a.tobytes() for a in kept)).hexdigest()

    before = digest()
    for seed in range(10):
        render(DOG, rng_of(seed))
        for kind in BAD_KINDS:
            render_bad(kind, DOG, rng_of(seed))
    assert digest() == before


@pytest.mark.parametrize("count, pixels", [(n, p) for n, sizes in GLYPH_SIZES.items() for p in (*sizes, 16)])
def test_glyphs_never_overlap_and_sit_on_the_grid(count, pixels):
    for seed in range(50):
        placed = positions(count, pixels, rng_of(seed))
        covered = np.zeros((SIZE, SIZE), int)
        for x, y in placed:
            covered[y : y + pixels, x : x + pixels] += 1
        assert len(placed) == count and covered.max() == 1 and covered.sum() == count * pixels**2
        assert all(0 <= v <= SIZE - pixels and v % (16 if pixels == 16 else CELL) == 0 for at in placed for v in at)


@pytest.mark.parametrize("object", OBJECTS)
def test_as_many_cells_are_drawn_on_as_the_scene_counts(object):
    for count in range(1, 7):
        cells = changed(Scene(count, None, object, "moon"), count, pixels=16).reshape(4, 16, 4, 16).mean((1, 3))
        assert (cells > 0.1).sum() == count and ((cells > 0.1) | (cells == 0)).all()


@pytest.mark.parametrize("object", ["orange", "cake"])  # glyphs in one piece, of no colour of these backgrounds
def test_a_picture_of_n_compact_things_has_n_connected_parts(object):
    for count in range(1, 7):
        for seed in range(8):
            drawn = changed(Scene(count, None, object, ("field", "moon")[seed % 2]), seed)
            assert connected(drawn, np.ones((3, 3)))[1] == count


@pytest.mark.parametrize("pixels", [16, 24, 32])
def test_glyphs_leave_a_free_pixel_between_neighbours(pixels):
    for object in OBJECTS:
        glyph = sprite(object, None, pixels)
        assert glyph.shape == (pixels, pixels, 4) and 0 <= glyph.min() and glyph.max() <= 255
        assert glyph[-1].sum() == 0 and glyph[:, -1].sum() == 0
        assert (glyph[..., :3] <= glyph[..., 3:] + 1e-9).all()  # premultiplied


def mean_colour(object: str, colour: str | None) -> np.ndarray:
    glyph = sprite(object, colour, 32)
    return glyph[..., :3].sum((0, 1)) / glyph[..., 3].sum() * 255


@pytest.mark.parametrize("colour", COLOURS)
def test_a_named_colour_is_the_nearest_one_to_the_glyph(colour):
    means = [mean_colour(o, colour) for o in OBJECTS]
    nearest = [min(RGB, key=lambda c: np.linalg.norm(mean - RGB[c])) for mean in means]
    assert nearest.count(colour) >= 22  # of 25: car windows, box flaps and the like are much in shadow


@pytest.mark.parametrize("object", OBJECTS)
def test_no_two_colours_of_an_object_look_alike(object):
    means = [mean_colour(object, c) for c in COLOURS]
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(means, 2)]
    assert min(apart) > 60  # measured: 67, a red and a brown car


def test_natural_colours_belong_to_known_objects_and_are_known():
    assert set(NATURAL) <= set(OBJECTS) and set().union(*NATURAL.values()) <= set(COLOURS)
    assert NATURAL["apple"] == {"red"} and "tiger" not in NATURAL


def test_backgrounds_differ_more_between_places_than_within_one():
    views = {b: np.stack([background(b, rng_of(s)) for s in range(12)]) for b in BACKGROUNDS}
    means = {b: v.mean(0) for b, v in views.items()}
    for b, seen in views.items():
        for view in seen:
            assert min(means, key=lambda c: np.abs(view - means[c]).mean()) == b


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_every_spoiled_kind_differs_from_the_clean_scene_and_repeats(kind):
    a, b = (render_bad(kind, DOG, rng_of(3)) for _ in range(2))
    assert a.shape == (SIZE, SIZE, 3) and a.dtype == np.uint8 and np.array_equal(a, b)
    assert not np.array_equal(a, render(DOG, rng_of(3), 16)) and not np.array_equal(a, render(DOG, rng_of(3)))


def test_none_shows_nothing_and_more_than_six_shows_seven_to_ten():
    scene = Scene(2, None, "orange", "field")
    for seed in range(20):
        empty = background("field", rng_of(seed)).clip(0, 255).astype(np.uint8)
        assert np.array_equal(render_bad("none", scene, rng_of(seed)), empty)
        more = (render_bad("more than six", scene, rng_of(seed)) != empty).any(2)
        assert 7 <= connected(more, np.ones((3, 3)))[1] <= 10


@pytest.mark.parametrize(
    "change, said",
    [(dict(count=0), "unknown count 0: expected one of 1, 2, 3, 4, 5, 6"), (dict(count=7), "unknown count 7"),
     (dict(colour="orange"), "unknown colour 'orange': expected one of None, red, yellow, green"),
     (dict(object="unicorn"), "unknown object 'unicorn': expected one of dog, cat, lion"),
     (dict(background="kitchen"), "unknown background 'kitchen': expected one of forest, city, moon"),
     (dict(style="cubist"), f"unknown style 'cubist': expected one of {', '.join(STYLES)}")],
)  # fmt: skip
def test_what_is_not_in_the_world_is_refused_in_one_line_that_names_what_is(change, said):
    with pytest.raises(ValueError, match=said) as refusal:
        replace(DOG, **change)
    assert "\n" not in str(refusal.value)


def test_an_unknown_way_to_spoil_a_scene_is_refused():
    with pytest.raises(ValueError, match="unknown kind 'torn': expected one of cut, blended"):
        render_bad("torn", DOG, rng_of(0))
