"""The reward learns good from bad, its auxiliary loss tells a prompt from others, and it repeats with its seed."""

from collections import Counter
from dataclasses import replace
from math import exp, log
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib.images import embedding
from lib.methods import ensemble, reward
from lib.methods.lessons import Lesson
from lib.methods.reward import RewardSpec, prompt_classification_loss
from lib.world.prompts import CATEGORIES, grid, parse

SPEC = RewardSpec(width=64, epochs=12, batch=64)
MEANINGS = np.random.default_rng(1).normal(size=(24, 16))


def items(count: int, seed: int):
    """Image and text embeddings; an item is good when the image shows what the text means (half of them do)."""
    rng = np.random.default_rng(seed)
    text = rng.integers(len(MEANINGS), size=count)
    good = rng.random(count) < 0.5
    shown = np.where(good, text, (text + rng.integers(1, len(MEANINGS), count)) % len(MEANINGS))
    return MEANINGS[shown] + 0.2 * rng.normal(size=(count, 16)), MEANINGS[text], good.astype(float)


@pytest.fixture(scope="module")
def data():
    image, text, labels = items(1200, 0)
    others = np.random.default_rng(2).integers(len(MEANINGS), size=(1200, SPEC.epochs * SPEC.perturbed))
    return dict(image=image, text=text, labels=labels, others=others, pool=MEANINGS)


def train(data, spec, auxiliary=prompt_classification_loss, **changed):
    image, text, labels, others, pool = {**data, **changed}.values()
    lessons = [Lesson(spec, np.arange(len(labels)), labels, others)]
    return ensemble.train(image, text, pool, lessons, auxiliary=auxiliary)[0]


def accuracy(network, spec) -> float:
    """The share of held-out good and bad pairs in which the good item has the higher reward."""
    image, text, labels = items(600, 9)
    r = reward.score(network, image, text, spec)
    return float((r[labels == 1][:, None] > r[labels == 0]).mean())


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# ---- prompt classification ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [2, 6])
def test_equal_rewards_cost_as_much_as_a_guess(prompts):
    for r in (0.0, 0.3, 1.0):
        assert prompt_classification_loss(torch.full((4, prompts), r)).tolist() == pytest.approx([log(prompts)] * 4)


def test_the_least_and_the_greatest_loss_follow_from_the_temperature():
    best = torch.tensor([[1.0, 0, 0, 0, 0, 0]])
    assert prompt_classification_loss(best).item() == pytest.approx(log(1 + 5 * exp(-0.5)))
    assert prompt_classification_loss(1 - best).item() == pytest.approx(log(1 + 5 * exp(0.5)))
    assert prompt_classification_loss(best, 0.5).item() == pytest.approx(log(1 + 5 * exp(-2)))


def test_the_loss_pulls_the_own_prompt_up_and_pushes_the_others_down():
    rewards = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    prompt_classification_loss(rewards).mean().backward()
    share = (rewards.detach() / 2).softmax(1)
    torch.testing.assert_close(rewards.grad[:, 0], (share[:, 0] - 1) / 2 / 3)  # d/dr of the mean over 3 pairs, T = 2
    torch.testing.assert_close(rewards.grad[:, 1:], share[:, 1:] / 2 / 3)


def test_prompts_are_classified_for_good_items_only(data):
    spec = replace(SPEC, epochs=1)
    first, good = train(data, spec), data["labels"] == 1
    moved = {which: data["others"].copy() for which in (True, False)}
    for which, others in moved.items():
        others[good == which] = (others[good == which] + 1) % len(MEANINGS)
    assert same(first, train(data, spec, others=moved[False]))
    assert not same(first, train(data, spec, others=moved[True]))


def test_each_good_image_is_scored_with_its_own_prompt_and_its_own_draws(data):
    spec, seen = replace(SPEC, epochs=2, batch=1200), []

    def noted(rewards, temperature):
        seen.append(rewards.detach().cpu().numpy()[0])
        return prompt_classification_loss(rewards, temperature)

    assert same(train(data, spec, noted), train(data, spec))
    assert [x.shape for x in seen] == [(data["labels"].sum(), 1 + spec.perturbed)] * 2
    torch.manual_seed(spec.seed)
    network, good = reward.Reward(16, spec.width), data["labels"] == 1  # the first weights
    texts = [data["text"][good], *(MEANINGS[data["others"][good, k]] for k in range(spec.perturbed))]
    expected = np.stack([reward.score(network, data["image"][good], t, spec) for t in texts], 1)
    np.testing.assert_allclose(*(x[x[:, 0].argsort()] for x in (seen[0], expected)), atol=1e-6)


def test_each_epoch_takes_prompts_of_its_own(data):
    spec = replace(SPEC, epochs=2)
    moved = data["others"].copy()
    moved[:, 10:] = 0  # beyond the second epoch's five
    assert same(train(data, spec), train(data, spec, others=moved))
    moved[:, 5:10] = 0
    assert not same(train(data, spec), train(data, spec, others=moved))


def test_with_algorithm_1_as_printed_bad_items_tell_their_prompt_apart_too(data):
    spec, bad = replace(SPEC, epochs=1, auxiliary_on="all"), data["labels"] == 0
    moved = data["others"].copy()
    moved[bad] = (moved[bad] + 1) % len(MEANINGS)
    assert not same(train(data, spec), train(data, spec, others=moved))
    assert not same(train(data, spec), train(data, replace(spec, auxiliary_on="good")))
    with pytest.raises(ValueError, match="^RewardSpec: auxiliary_on = 'none' is not one of good or all$"):
        replace(spec, auxiliary_on="none")


def test_the_loss_is_the_squared_error_and_lambda_times_prompt_classification(data, monkeypatch):
    """Of the first update, by the first weights: all items, of which the good ones have the second loss."""
    seen = []
    monkeypatch.setattr(ensemble, "_refuse_infinite", lambda losses, lessons: seen.extend(losses[0].tolist()))
    weights = (0.0, 0.5, 2.0)
    for weight in weights:
        train(data, replace(SPEC, epochs=1, batch=1200, auxiliary_weight=weight))
    torch.manual_seed(SPEC.seed)
    network, labels = reward.Reward(16, SPEC.width), data["labels"]
    texts = [data["text"], *(MEANINGS[data["others"][:, k]] for k in range(SPEC.perturbed))]
    r = torch.from_numpy(np.stack([reward.score(network, data["image"], t, SPEC) for t in texts], 1))
    error = ((r[:, 0].numpy() - labels) ** 2).mean()
    classified = prompt_classification_loss(r[labels == 1]).mean().item()
    assert seen == pytest.approx([error + weight * classified for weight in weights], rel=1e-5)


def test_the_network_is_two_hidden_layers_on_both_embeddings_end_to_end():
    torch.manual_seed(0)
    network, image, text = reward.Reward(16, 32), torch.randn(7, 16), torch.randn(7, 5, 16)
    layers = (network.first, torch.nn.ReLU(), network.second, torch.nn.ReLU(), network.last, torch.nn.Sigmoid())
    ends = torch.cat([image[:, None].expand(7, 5, 16), text], -1)
    torch.testing.assert_close(network(image[:, None], text), torch.nn.Sequential(*layers)(ends)[..., 0])
    assert [(m.in_features, m.out_features) for m in layers[:5:2]] == [(32, 32), (32, 32), (32, 1)]


def test_with_the_product_the_network_also_sees_the_embeddings_times_each_other():
    torch.manual_seed(0)
    network, image, text = reward.Reward(16, 32, product=True), torch.randn(7, 16), torch.randn(7, 5, 16)
    layers = (network.first, torch.nn.ReLU(), network.second, torch.nn.ReLU(), network.last, torch.nn.Sigmoid())
    images = image[:, None].expand(7, 5, 16)
    ends = torch.cat([images, text, images * text], -1)
    torch.testing.assert_close(network(image[:, None], text), torch.nn.Sequential(*layers)(ends)[..., 0])


def test_the_product_carries_a_match_over_to_prompts_never_seen():
    rng, right = np.random.default_rng(3), {}
    image, text = rng.standard_normal((2, 1200, 16)).astype(np.float32)
    labels = ((image * text).sum(1) > 0).astype(float)
    for product in (False, True):
        spec = replace(SPEC, epochs=20, auxiliary_weight=0.0, product=product)
        lesson = Lesson(spec, np.arange(800), labels[:800], np.zeros((800, 0), int))
        (network,) = ensemble.train(image, text, text[:1], [lesson])
        right[product] = ((reward.score(network, image[800:], text[800:], spec) > 0.5) == labels[800:]).mean()
    assert right[True] > 0.8 > right[False]


# ---- learning -----------------------------------------------------------------------------------------------------


def test_a_rule_is_learnt_for_items_that_were_held_out(data):
    for spec in (SPEC, replace(SPEC, auxiliary_weight=0.0)):
        network = train(data, spec)
        image, text, _ = items(600, 9)
        r = reward.score(network, image, text, spec)
        assert r.shape == (600,) and 0 <= r.min() and r.max() <= 1
        assert accuracy(network, spec) > 0.9


def shuffled(data, spec) -> np.ndarray:
    return reward.taught(data["labels"], ["Six cats"] * 1200, np.zeros(1200), replace(spec, shuffle_labels=True))


def test_nothing_is_learnt_from_shuffled_labels_alone(data):
    specs = [replace(SPEC, auxiliary_weight=0.0, seed=s) for s in range(4)]
    assert 0.4 < np.mean([accuracy(train(data, s, labels=shuffled(data, s)), s) for s in specs]) < 0.6


def test_prompt_classification_learns_even_from_shuffled_labels(data):
    """Its good items are half mismatched, yet a matching prompt is still the likelier own prompt."""
    assert accuracy(train(data, SPEC, labels=shuffled(data, SPEC)), SPEC) > 0.6


def test_the_seed_alone_decides_the_weights(data):
    spec = replace(SPEC, epochs=1)
    first = train(data, spec)
    torch.manual_seed(77)
    assert same(first, train(data, spec))
    assert not same(first, train(data, replace(spec, seed=1)))


def test_unit_length_takes_the_length_of_embeddings_out(data):
    spec = replace(SPEC, epochs=1)
    long = {k: data[k] * 3 for k in ("image", "text", "pool")}
    network, scaled = train(data, spec), train(data, spec, **long)
    a, b = (reward.score(n, data["image"], data["text"], spec) for n in (network, scaled))
    np.testing.assert_allclose(a, b, atol=1e-4)
    c = reward.score(network, long["image"], data["text"], replace(spec, normalise=False))
    assert abs(a - c).max() > 0.01


def test_what_cannot_be_learnt_from_is_refused_in_one_line(data):
    for labels, said in ((data["labels"] * 0, "got 0 good of 1200"), (data["labels"] * 0 + 1, "got 1200 good of 1200")):
        with pytest.raises(ValueError, match=f"^need both good and bad labels, {said}$"):
            train(data, SPEC, labels=labels)
    broken = data["image"].copy()
    broken[5] = np.nan
    with pytest.raises(ValueError, match="^16 of 19,200 values of embeddings are NaN or infinite, the first at .5, 0.: "):
        train(data, SPEC, image=broken)


def test_an_infinite_loss_is_refused(data):
    with pytest.raises(ValueError, match="^the reward's loss is inf in epoch 0"):
        train(data, SPEC, lambda rewards, t: rewards[..., 0] * float("inf"))
    train(data, replace(SPEC, auxiliary_weight=0.0, epochs=1))


# ---- labels -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def said():
    """Labels of 60 prompts x 10 images by two raters in turn; one image in ten is skipped, six prompts are held out."""
    prompts = grid(counts=(20, 10, 10, 20))
    texts = [p for p in prompts for _ in range(10)]
    labels = np.random.default_rng(4).integers(2, size=600).astype(float)
    labels[3::10], labels[:60] = 0.5, np.nan
    return labels, texts, np.arange(600) % 2


def used(said, **changed) -> np.ndarray:
    return reward.taught(*said, RewardSpec(**changed))


def counts(said, labels) -> dict[str, int]:
    return dict(Counter(t for t, y in zip(said[1], labels, strict=True) if not np.isnan(y)))


def test_all_labels_but_the_held_out_and_the_skipped_are_learnt_from(said):
    labels, plain = said[0], used(said)
    np.testing.assert_array_equal(plain, np.where(labels == 0.5, np.nan, labels))
    np.testing.assert_array_equal(used(said, skips="half"), labels)
    assert said[0][3] != said[0][3] and said[0][63] == 0.5  # the caller's labels stay as they were


def test_half_of_the_labels_are_half_of_every_prompts(said):
    half, plain = used(said, labels=0.5), used(said)
    assert set(counts(said, half)) == set(counts(said, plain)) and set(counts(said, half).values()) <= {4, 5}
    kept = ~np.isnan(half)
    np.testing.assert_array_equal(half[kept], plain[kept])
    least = used(said, labels=0.01)
    assert set(counts(said, least).values()) == {1} and len(counts(said, least)) == 54


def test_half_of_the_prompts_keep_all_of_their_labels(said):
    half, plain = used(said, prompts=0.5), used(said)
    assert all(n == 9 for n in counts(said, half).values())
    found = [sum(parse(p).category == c for p in counts(said, half)) for c in CATEGORIES]
    np.testing.assert_allclose(found, (7, 5, 5, 10), atol=1)  # of 14, 10, 10, 20
    assert abs(np.isfinite(half).sum() - np.isfinite(used(said, labels=0.5)).sum()) < 0.1 * np.isfinite(plain).sum()


@pytest.mark.parametrize("what", ["labels", "prompts"])
def test_a_smaller_share_lies_in_a_larger_one_and_other_seeds_draw_others(said, what):
    shares = [np.isfinite(used(said, **{what: q})) for q in (0.25, 0.5, 0.75, 1.0)]
    assert all((a <= b).all() and a.sum() < b.sum() for a, b in zip(shares, shares[1:], strict=False))
    assert (shares[1] != np.isfinite(used(said, **{what: 0.5, "seed": 1}))).any()
    np.testing.assert_array_equal(shares[1], np.isfinite(used(said, **{what: 0.5})))


def test_one_labeller_is_the_first_one(said):
    one = used(said, labellers=1)
    assert np.isnan(one[1::2]).all() and np.isfinite(one[::2]).sum() == np.isfinite(used(said)[::2]).sum()


def test_flipped_labels_are_about_their_share_and_skips_stay_in_the_middle(said):
    plain, turned = used(said, skips="half"), used(said, flipped=0.2, skips="half")
    clear = np.isfinite(plain) & (plain != 0.5)
    assert 0.15 < (plain != turned)[clear].mean() < 0.25
    assert set(turned[clear]) == {0.0, 1.0} and (turned[plain == 0.5] == 0.5).all()


def test_shuffling_moves_labels_between_images_and_loses_none(said):
    plain, mixed = used(said), used(said, shuffle_labels=True)
    np.testing.assert_array_equal(np.isnan(plain), np.isnan(mixed))
    kept = ~np.isnan(plain)
    assert sorted(plain[kept]) == sorted(mixed[kept]) and 0.4 < (plain == mixed)[kept].mean() < 0.6


@pytest.mark.parametrize("wrong", [dict(labels=0), dict(labels=2), dict(prompts=0.0), dict(flipped=1.0), dict(skips="keep")])
def test_shares_and_choices_that_mean_nothing_are_refused(wrong):
    ((field, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"^RewardSpec: {field} = {value!r} is not (a number in|one of drop or half)"):
        RewardSpec(**wrong)


# ---- stages -------------------------------------------------------------------------------------------------------


@pytest.fixture
def stages(said, empty_cache, monkeypatch, patched):
    """A function of a changed spec that trains nothing: what the stage asked `train` for, None from the cache."""
    asked = []

    def recorded(image, text, pool, lessons, auxiliary):
        asked.append(SimpleNamespace(**vars(lessons[0]), pool=pool))
        return [reward.Reward(image.shape[1], lesson.spec.width) for lesson in lessons]

    monkeypatch.setattr(ensemble, "train", recorded)
    monkeypatch.setattr(ensemble, "perturbed_embeddings", lambda form, load, digest: (form, digest))

    def ask(**changed):
        spec, image = RewardSpec(width=4, epochs=6, **changed), np.arange(600)[:, None] + 1.0
        ensemble.trained([spec], image, image, said[1], said[0], said[2], None, {"clip": "c", "labels": "l"})
        return asked.pop() if asked else None

    return ask


def test_fewer_labels_are_passed_over_more_often_so_that_all_variants_are_updated_as_often(stages):
    passes = {q: stages(labels=q) for q in (1.0, 0.5, 0.25)}
    work = [a.spec.epochs * len(a.labels) for a in passes.values()]
    assert passes[1.0].spec.epochs == 6 and 11 <= passes[0.5].spec.epochs <= 13 and np.ptp(work) < 0.05 * work[0]
    assert all(a.others.shape == (len(a.labels), a.spec.epochs * 5) for a in passes.values())
    assert [stages(**c).spec.epochs for c in (dict(labellers=1), dict(flipped=0.3), dict(shuffle_labels=True))] == [11, 6, 6]


def test_a_reward_is_taught_with_the_images_of_its_labels_and_prompts_of_its_form(stages, said):
    plain, half = stages(), stages(labels=0.5)
    np.testing.assert_array_equal(plain.items, np.flatnonzero(np.isfinite(used(said))))
    np.testing.assert_array_equal(half.labels, used(said, labels=0.5)[half.items])
    assert (plain.pool, stages(perturbed_form="own").pool) == (("printed", "c"), ("own", "c"))
    assert stages(auxiliary_weight=0.0).others.shape == (len(plain.labels), 0)


def test_a_variant_is_trained_once_and_never_taken_for_another(stages):
    assert stages() is not None and stages() is None
    for changed in (dict(labels=0.5), dict(skips="half"), dict(perturbed_form="own"), dict(seed=1), dict(perturbed=1)):
        assert stages(**changed) is not None and stages(**changed) is None
    assert stages() is None


# ---- scores -------------------------------------------------------------------------------------------------------


def test_the_clip_score_is_the_cosine():
    image, text = np.array([[3.0, 0], [1, 1], [0, -2]]), np.array([[5.0, 0], [2, 0], [0, 7]])
    np.testing.assert_allclose(embedding.clip_score(image, text), [1, 0.5**0.5, -1])
