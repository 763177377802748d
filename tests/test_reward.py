"""The reward learns good from bad, its auxiliary loss tells a prompt from others, and it repeats with its seed."""

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
import torch

from lib import reward
from lib.prompts import parse
from lib.reward import RewardSpec, prompt_classification_loss, train_reward

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


def train(data, spec, **changed):
    return train_reward(**{**data, **changed}, spec=spec)


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
        assert prompt_classification_loss(torch.full((4, prompts), r)).item() == pytest.approx(log(prompts))


def test_the_least_and_the_greatest_loss_follow_from_the_temperature():
    best = torch.tensor([[1.0, 0, 0, 0, 0, 0]])
    assert prompt_classification_loss(best).item() == pytest.approx(log(1 + 5 * exp(-0.5)))
    assert prompt_classification_loss(1 - best).item() == pytest.approx(log(1 + 5 * exp(0.5)))
    assert prompt_classification_loss(best, 0.5).item() == pytest.approx(log(1 + 5 * exp(-2)))


def test_the_loss_pulls_the_own_prompt_up_and_pushes_the_others_down():
    rewards = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    prompt_classification_loss(rewards).backward()
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


def test_each_good_image_is_scored_with_its_own_prompt_and_its_own_draws(data, monkeypatch):
    spec, seen = replace(SPEC, epochs=2, batch=1200), []
    monkeypatch.setattr(
        reward, "prompt_classification_loss",
        lambda rewards, t: seen.append(rewards.detach().numpy()) or prompt_classification_loss(rewards, t),
    )  # fmt: skip
    train(data, spec)
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


# ---- learning -----------------------------------------------------------------------------------------------------


def test_a_rule_is_learnt_for_items_that_were_held_out(data):
    for spec in (SPEC, replace(SPEC, auxiliary_weight=0.0)):
        network = train(data, spec)
        image, text, _ = items(600, 9)
        r = reward.score(network, image, text, spec)
        assert r.shape == (600,) and 0 <= r.min() and r.max() <= 1
        assert accuracy(network, spec) > 0.9


def test_nothing_is_learnt_from_shuffled_labels_alone(data):
    specs = [replace(SPEC, shuffle_labels=True, auxiliary_weight=0.0, seed=s) for s in range(4)]
    assert 0.4 < np.mean([accuracy(train(data, s), s) for s in specs]) < 0.6


def test_prompt_classification_learns_even_from_shuffled_labels(data):
    """Its good items are half mismatched, yet a matching prompt is still the likelier own prompt."""
    spec = replace(SPEC, shuffle_labels=True)
    assert accuracy(train(data, spec), spec) > 0.6


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
    with pytest.raises(ValueError, match="^the reward's loss is nan in epoch 0: lower the learning rate$"):
        train(data, SPEC, image=broken)


def test_an_infinite_loss_is_refused(data, monkeypatch):
    monkeypatch.setattr(reward, "prompt_classification_loss", lambda *a: torch.tensor(float("inf")))
    with pytest.raises(ValueError, match="^the reward's loss is inf in epoch 0"):
        train(data, SPEC)
    train(data, replace(SPEC, auxiliary_weight=0.0, epochs=1))


# ---- prompts and scores -------------------------------------------------------------------------------------------


def test_a_perturbed_prompt_never_means_the_same():
    prompts = ["Two blue dogs in the forest", "Two blue dogs in the forest.", "A red colored apple", "One cat"]
    drawn = reward.draw_perturbed(prompts, 400, seed=0)
    pool = reward.all_perturbed()
    assert drawn.shape == (4, 400) and len(set(pool)) == len(pool) == 20 * 6 * 9 * 8
    meanings = [[parse(pool[i]) for i in row] for row in drawn]
    assert not any(parse(p) in row for p, row in zip(prompts, meanings, strict=True))
    assert {m.count for m in meanings[0]} == {1, 2, 3, 4, 5, 6} and len(set(map(tuple, drawn.tolist()))) == 4
    np.testing.assert_array_equal(drawn, reward.draw_perturbed(prompts, 400, seed=0))
    assert (drawn != reward.draw_perturbed(prompts, 400, seed=1)).mean() > 0.9


def test_every_draw_of_the_own_prompt_is_thrown_away(monkeypatch):
    monkeypatch.setattr("lib.prompts.SEEN", ("dog",))
    monkeypatch.setattr("lib.prompts.COLOURS", ("blue",))
    monkeypatch.setattr("lib.prompts.BACKGROUNDS", ("forest",))
    pool = reward.all_perturbed()
    drawn = reward.draw_perturbed(["Two blue dogs in the forest"], 300, seed=0)
    assert {parse(pool[i]).count for i in drawn[0]} == {1, 3, 4, 5, 6}


def test_the_clip_score_is_the_cosine():
    image, text = np.array([[3.0, 0], [1, 1], [0, -2]]), np.array([[5.0, 0], [2, 0], [0, 7]])
    np.testing.assert_allclose(reward.clip_score(image, text), [1, 0.5**0.5, -1])
