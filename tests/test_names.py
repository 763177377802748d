"""The same people say the same of the same images when a last digit moves: they go by an image's name, not by its pixels."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lib.feedback import choices, judges, panel, taste, votes
from lib.ground.seeds import name_of, seed_of
from lib.images import metrics, models, sampling
from lib.methods import adaptation
from lib.world import prompts, web

EACH = 8
TEXTS = [p for p in prompts.evaluation_prompts()[::5] for _ in range(EACH)]
NUMBERS = [i % EACH for i in range(len(TEXTS))]
FOURS = np.arange(len(TEXTS)).reshape(-1, 2, votes.SET)  # [prompt, side, image]
VOTERS = [f"voter-{i:02d}" for i in range(adaptation.USERS)]


@pytest.fixture(scope="module")
def images() -> sampling.ImageSet:
    """192 of the base's images, eight of each of 24 prompts."""
    seeds = [seed_of("names", p, n) for p, n in zip(TEXTS, NUMBERS, strict=True)]
    pixels = sampling.sample(models.load_generator(), TEXTS, seeds)
    return sampling.ImageSet(pixels, "names", TEXTS, NUMBERS, [sampling.image_digest(x) for x in pixels])


@pytest.fixture(scope="module")
def moved(images) -> sampling.ImageSet:
    """The same with every pixel moved by -1, 0 or 1 at random, so that no digest is as it was."""
    by = np.random.default_rng(0).integers(-1, 2, images.pixels.shape, np.int8)
    pixels = (images.pixels + by).clip(0, 255).astype(np.uint8)
    return replace(images, pixels=pixels, digests=[sampling.image_digest(x) for x in pixels])


@pytest.fixture(scope="module")
def references() -> np.ndarray:
    return metrics.features(models.load_vote_features(), web.pairs(300, 4)[1])


def told(shown: sampling.ImageSet, names: list[str], references: np.ndarray, band: dict) -> dict[str, np.ndarray]:
    """All that is simulated about images, by kind, when they have these `names`; `band` is filled when empty, else kept."""
    named = SimpleNamespace(names=names, prompts=shown.prompts, digests=shown.digests)
    seen = judges.look(models.load_judge("a"), shown.pixels)
    realism = votes.realism(metrics.features(models.load_vote_features(), shown.pixels), references)
    realism = realism / votes.spread_within(realism, shown.prompts)
    labels = panel.rate(seen, names, shown.prompts, (*panel.LABELLERS, *panel.EVALUATORS))
    found = {"labels by two": labels[:2], "labels of nine": labels[2:]}
    sides = votes.sides(seen, realism, names, shown.prompts, FOURS.transpose(1, 0, 2))
    for question in votes.QUESTIONS:
        band.setdefault(question, votes.tie_band(*sides, question))
        found[question] = votes.answers(*sides, question, band[question])
    values = taste.traits(seen, shown.prompts, realism, shown.pixels)
    values, spec = values / taste.trait_units(values, shown.prompts), taste.TasteSpec()
    rows = FOURS.reshape(-1, votes.SET)
    users = [[taste.user(12 * g + u) for u in range(12)] for g in range(len(rows))]
    for kind, how in (("choices", {}), ("guesses", {"position": False})):
        found[kind] = choices.choose(values, rows, named, users, spec, **how).chosen.to_numpy()
    first, second = (FOURS[:, k].ravel() for k in (0, 1))
    pairs = [(name_of("one model", names[i]), name_of("another", names[j])) for i, j in zip(first, second, strict=True)]
    found["user study"] = adaptation.votes(values[first], values[second], pairs, VOTERS, spec)
    return found


def test_at_least_99_of_100_labels_votes_and_choices_stay_when_every_pixel_moves_by_a_last_digit(images, moved, references):
    assert not set(images.digests) & set(moved.digests) and images.names == moved.names
    band: dict[str, float] = {}
    before, after = (told(shown, shown.names, references, band) for shown in (images, moved))
    kept = {kind: before[kind] == after[kind] for kind in before}
    assert {k: x.size for k, x in kept.items()} == {
        "labels by two": 384, "labels of nine": 1728, "alignment": 216, "fidelity": 216, "choices": 576, "guesses": 576,
        "user study": 1920}  # fmt: skip
    assert np.concatenate([x.ravel() for x in kept.values()]).mean() >= 0.99
    for kind, x in kept.items():
        assert x.mean() >= 0.97, kind  # few of a kind are looked at here


def test_going_by_pixels_would_draw_the_people_anew(images, moved, references):
    band: dict[str, float] = {}
    before, after = (told(shown, shown.digests, references, band) for shown in (images, moved))
    for kind in before:
        assert (before[kind] == after[kind]).mean() < 0.93, kind
