"""The grammar says what the paper's does, in its numbers, and the web speaks of its images as loosely as it should."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lib.world.prompts import (
    CATEGORIES,
    COUNT_WORDS,
    PLACES,
    SINGULAR,
    Attributes,
    checked,
    evaluation_prompts,
    grid,
    parse,
    plural,
    selection_prompts,
    unseen_prompts,
    write,
)
from lib.world.scenes import BACKGROUNDS, COLOURS, OBJECTS, SEEN, UNSEEN, Scene
from lib.world.web import COUNT_PRIOR, CaptionNoise, exact_caption, web_pair  # fmt: skip

GRID = grid()
IMAGES_A_PROMPT = {"count": 60, "colour": 60, "background": 30, "combination": 6}


def test_the_grid_has_the_papers_prompts_by_category():
    assert len(GRID) == len(set(GRID)) == 2774
    assert Counter(parse(p).category for p in GRID) == dict(zip(CATEGORIES, (108, 58, 80, 2528), strict=True))


def test_the_grid_makes_the_papers_number_of_images():
    assert sum(IMAGES_A_PROMPT[parse(p).category] for p in GRID) == 27_528


def test_every_prompt_of_the_grid_is_read_back_to_what_wrote_it():
    assert [write(parse(p)) for p in GRID] == GRID


def test_everything_that_can_be_said_is_read_back_to_what_was_meant():
    for object in OBJECTS:
        for count in (None, *range(1, 7)):
            for colour in (None, *COLOURS):
                for place in (None, *BACKGROUNDS):
                    meant = Attributes(object, count, colour, place)
                    if (count, colour, place) != (None, None, None):
                        assert parse(write(meant)) == parse(write(meant).lower() + ".") == meant


def test_combinations_are_of_all_kinds_in_the_stated_mix():
    kinds = Counter(
        (a.count is not None, a.colour is not None, a.background is not None)
        for a in map(parse, GRID) if a.category == "combination"
    )  # fmt: skip
    sixth = 2528 // 6
    three = {(True, True, False): sixth, (True, False, True): sixth, (True, True, True): sixth}
    assert kinds == three | {(False, True, True): 2528 - 3 * sixth}


def test_a_smaller_grid_is_part_of_the_larger_and_the_same_every_time():
    assert set(grid(SEEN, (8, 6, 6, 12))) <= set(grid(SEEN, (108, 58, 80, 354))) <= set(GRID)
    assert grid() == GRID


def test_the_forms_are_those_of_the_paper():
    assert write(Attributes("dog", count=2)) == "Two dogs"
    assert write(Attributes("wolf", count=1)) == "One wolf"
    assert write(Attributes("dog", colour="green")) == "A green colored dog"
    assert write(Attributes("apple", background="moon")) == "An apple on the moon"
    assert write(Attributes("dog", 2, "blue", "forest")) == "Two blue dogs in the forest"
    assert write(Attributes("vase", None, "red", "San Francisco")) == "A red vase in San Francisco"
    assert [plural(o) for o in ("box", "wolf", "rose")] == ["boxes", "wolves", "roses"]


def test_an_article_names_no_count_but_one_does():
    assert parse("A dog on the moon").count is None and parse("An apple on the moon").count is None
    assert parse("One dog on the moon").count == 1


def test_the_evaluation_is_120_prompts_twenty_a_cell():
    prompts = evaluation_prompts()
    cells = Counter((parse(p).category, parse(p).object in UNSEEN) for p in prompts)
    assert len(set(prompts)) == 120
    assert cells == {(c, unseen): 20 for c in ("count", "colour", "background") for unseen in (False, True)}


def test_settings_are_chosen_on_prompts_and_objects_that_the_evaluation_never_names():
    chosen, evaluated = selection_prompts(), evaluation_prompts()
    assert len(set(chosen)) == 40
    assert not {parse(p).object for p in chosen} & {parse(p).object for p in evaluated}
    assert {parse(p).object for p in chosen} <= set(SEEN)


def test_unseen_objects_are_in_no_training_prompt():
    assert {parse(p).object for p in GRID} == set(SEEN)


def test_rewards_are_tested_on_at_least_sixty_prompts_about_unseen_objects_only():
    prompts = unseen_prompts()
    assert len(set(prompts)) >= 60 and {parse(p).object for p in prompts} == set(UNSEEN)
    assert {parse(p).category for p in prompts} == set(CATEGORIES)


def test_a_natural_apple_is_a_red_apple_and_a_natural_dog_is_not_a_red_dog():
    assert parse("A red colored apple").matches(Scene(1, None, "apple", "sea"))
    assert parse("A red colored apple").matches(Scene(1, "red", "apple", "sea"))
    assert not parse("A green colored apple").matches(Scene(1, None, "apple", "sea"))
    assert not parse("A red colored dog").matches(Scene(1, None, "dog", "sea"))


@pytest.mark.parametrize("change", [dict(count=3), dict(colour="red"), dict(object="cat"), dict(background="sea")])
def test_a_scene_matches_when_all_that_is_named_is_right(change):
    scene, prompt = Scene(2, "blue", "dog", "forest"), parse("Two blue dogs in the forest")
    assert prompt.matches(scene) and not prompt.matches(replace(scene, **change))
    assert Attributes("dog").matches(scene)


@pytest.mark.parametrize(
    "prompt, said",
    [("Two unicorns in the forest", "unknown object 'unicorns' in prompt .*: expected one of dog, cat, lion"),
     ("A turquoise colored dog", "unknown colour or count 'turquoise' in prompt .*: expected one of red, yellow, green"),
     ("A dog in the kitchen", "unknown place 'in the kitchen' in prompt .*: expected one of in the forest, in the city"),
     ("A dog on the sea", "unknown place 'on the sea'"), ("Seven dogs", "'seven'"), ("", "expected a form such as"),
     ("   ", "expected a form such as"), ("Two", "unknown object")],
)  # fmt: skip
def test_unknown_words_are_refused_in_one_line_that_names_the_known_ones(prompt, said):
    with pytest.raises(ValueError, match=said) as refusal:
        parse(prompt)
    assert "\n" not in str(refusal.value)


def test_a_prompt_that_names_nothing_has_no_category():
    with pytest.raises(ValueError, match="names no count, colour or background: name"):
        _ = Attributes("dog").category


@pytest.mark.parametrize(
    "prompt, said",
    [("A red dog", "^the prompt 'A red dog' is not in the study's form: write 'A red colored dog'$"),
     ("Two dog", "write 'Two dogs'$"), ("one dogs", "write 'One dog'$"), ("An dog in the sea", "write 'A dog in the sea'$"),
     ("A apple on the moon", "write 'An apple on the moon'$"), ("dog in the forest", "write 'A dog in the forest'$"),
     ("Two blue dogs in the Forest.", "write 'Two blue dogs in the forest'$"), ("Two  blue dogs", "write 'Two blue dogs'$"),
     (" Two dogs", "write 'Two dogs'$"), ("Two blue colored dogs", "write 'Two blue dogs'$"),
     ("a dog", "^the prompt 'a dog' names no count, colour or place: write, for instance, 'A dog in the forest'$"),
     ("An dog", "names no count"), ("An orange", "names no count"), ("Seven dogs", "unknown colour or count 'seven'"),
     ("Two blue dogs in the kitchen", "unknown place"), ("Two blue unicorns", "unknown object"),
     ("", "cannot read"),
     (42, "^the prompt 42 is not a string: write it in quotes, such as"), (None, "is not a str"), (["A"], "not a string")],
)  # fmt: skip
def test_a_prompt_in_another_form_is_refused_with_the_form_that_is_right(prompt, said):
    with pytest.raises(ValueError, match=said) as refusal:
        checked(prompt)
    assert "\n" not in str(refusal.value)


def test_a_prompt_in_the_studys_form_is_taken_whatever_its_capitals():
    for prompt in (*GRID[::7], *evaluation_prompts(), *selection_prompts()):
        assert checked(prompt) == checked(prompt.lower()) == parse(prompt)


# ---- the web corpus ---------------------------------------------------------------------------------------------


def read(caption: str) -> Attributes:
    """What a web caption says, found by its words alone."""
    words = re.findall(r"[a-z]+", caption.lower())
    (noun,) = [SINGULAR[w] for w in words if w in SINGULAR]
    count = [COUNT_WORDS.index(w) + 1 for w in words if w in COUNT_WORDS]
    colour = [w for w in words if w in COLOURS]
    place = [b for b, text in PLACES.items() if text.lower() in caption.lower()]
    return Attributes(noun, *((said or [None])[0] for said in (count, colour, place)))


@pytest.fixture(scope="module")
def web():
    rng = np.random.default_rng(0)
    pairs = [web_pair(rng) for _ in range(12_000)]
    return [(read(caption), scene, caption) for caption, scene in pairs]


def test_a_caption_never_names_a_wrong_object(web):
    assert all(said.object == scene.object for said, scene, _ in web)
    assert {scene.object for _, scene, _ in web} == set(OBJECTS)  # CLIP, base and judges know the unseen ones


def test_captions_state_attributes_as_often_as_the_noise_says(web):
    noise = CaptionNoise()
    for name, stated in (("count", noise.count_stated), ("colour", noise.colour_stated),
                         ("background", noise.background_stated)):  # fmt: skip
        assert np.mean([getattr(said, name) is not None for said, _, _ in web]) == pytest.approx(stated, abs=0.02)


def test_what_captions_state_is_right_as_often_as_the_noise_says(web):
    noise = CaptionNoise()
    for n, right in enumerate(noise.count_right, start=1):
        hits = [scene.count == said.count for said, scene, _ in web if said.count == n]
        assert np.mean(hits) == pytest.approx(right, abs=4 * 0.5 / len(hits) ** 0.5)
    colours = [scene.colour in said.colours_that_satisfy() for said, scene, _ in web if said.colour]
    places = [scene.background == said.background for said, scene, _ in web if said.background]
    assert np.mean(colours) == pytest.approx(noise.colour_right, abs=0.02)
    assert np.mean(places) == pytest.approx(noise.background_right, abs=0.02)


def test_a_wrong_count_is_a_near_one(web):
    gaps = Counter(abs(scene.count - said.count) for said, scene, _ in web if said.count and scene.count != said.count)
    assert gaps[1] > gaps[2] > gaps[3] > gaps[4]
    shown = Counter(scene.count for said, scene, _ in web if said.count == 6)
    beyond_prior = [shown[n] / COUNT_PRIOR[n - 1] for n in range(1, 6)]
    assert beyond_prior == sorted(beyond_prior) and shown[5] > shown[1]  # although one is the commonest count of the web


def test_captions_without_noise_are_always_right():
    rng = np.random.default_rng(0)
    exact = CaptionNoise(1.0, (1.0,) * 6, 1.0, 1.0, 1.0, 1.0, 0.0)
    for _ in range(500):
        caption, scene = web_pair(rng, exact)
        assert read(caption).matches(scene) and None not in vars(read(caption)).values() and scene.style == "plain"


def test_rare_styles_are_rare_and_always_named(web):
    for _, scene, caption in web:
        assert (scene.style == "sketch") == ("sketch" in caption) and (scene.style == "night") == ("at night" in caption)
    assert np.mean([scene.style != "plain" for _, scene, _ in web]) == pytest.approx(0.03, abs=0.01)


def test_the_web_repeats_with_its_generator_and_keeps_to_the_objects_asked_for():
    a, b = ([web_pair(np.random.default_rng(s)) for s in range(20)] for _ in range(2))
    assert a == b and len(set(a)) == 20
    assert {web_pair(np.random.default_rng(s), objects=SEEN)[1].object for s in range(200)} <= set(SEEN)


def test_exact_captions_say_nothing_wrong_and_as_much_as_is_asked():
    rng, words = np.random.default_rng(8), list(COUNT_WORDS)
    for stated in (0.0, 0.5, 1.0):
        for _ in range(300):
            _, scene = web_pair(rng)
            caption = exact_caption(rng, scene, stated).lower().replace(",", "").rstrip(".")
            counts = [words.index(w) + 1 for w in caption.split() if w in words]
            places = [b for b, p in PLACES.items() if p.lower() in caption]
            assert counts in ([], [scene.count]) and places in ([], [scene.background])
            assert stated == 0.5 or (len(counts), len(places)) == (stated, stated)
            assert [c for c in COLOURS if c in caption.split()] == [c for c in (scene.colour,) if c]
            assert ("night" in caption, "sketch" in caption) == (scene.style == "night", scene.style == "sketch")
