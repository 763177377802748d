"""Rewards that are trained together are those that each would be alone, and each has a place of its own in the cache."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lib.ground.precision import DEVICE
from lib.methods import ensemble, reward
from lib.methods.lessons import Lesson, lesson_of
from lib.methods.reward import RewardSpec

RNG = np.random.default_rng(0)
IMAGE, TEXT, POOL = (RNG.normal(size=(n, 128)).astype(np.float32) for n in (500, 500, 90))
SPEC = RewardSpec(epochs=3, batch=128)


def lesson(spec: RewardSpec, count: int) -> Lesson:
    """So many of the images, a third of them good."""
    rng = np.random.default_rng(count)
    items, others = rng.permutation(500)[:count], rng.integers(90, size=(count, spec.epochs * spec.perturbed))
    return Lesson(spec, items, (rng.random(count) < 0.3).astype(float), others)


def r_of(network, spec: RewardSpec) -> np.ndarray:
    return reward.score(network, IMAGE, TEXT, spec)


def together(lessons, dtype=torch.float64) -> list[np.ndarray]:
    networks = ensemble.train(IMAGE, TEXT, POOL, lessons, dtype)
    return [r_of(network, one.spec) for network, one in zip(networks, lessons, strict=True)]


VARIANTS = {
    "as it is": lesson(SPEC, 400),
    "fewer labels, longer, another seed": lesson(replace(SPEC, epochs=5, seed=1), 210),
    "other weights, rate and decay": lesson(
        replace(SPEC, auxiliary_weight=2.0, temperature=0.5, learning_rate=1e-3, weight_decay=0.3), 333
    ),
}


@pytest.mark.parametrize("dtype, least", [(torch.float64, 1e-6), (torch.float32, 1e-4)], ids=str)
def test_rewards_trained_together_are_those_trained_one_by_one(dtype, least):
    """In float32 after few updates: later a unit that hardly ever fires may differ by a whole step of AdamW."""
    lessons = list(VARIANTS.values())
    if dtype == torch.float32:
        lessons = [replace(x, spec=replace(x.spec, epochs=1), others=x.others[:, :5]) for x in lessons]
    alone = [together([one], dtype)[0] for one in lessons]
    assert min(np.abs(a - b).max() for i, a in enumerate(alone) for b in alone[:i]) > 0.01
    np.testing.assert_allclose(together(lessons, dtype), alone, atol=least, rtol=0)


def plainly_trained(one: Lesson) -> torch.nn.Module:
    """The two losses by PyTorch's own functions, an item and a layer at a time."""
    spec, count = one.spec, len(one.items)
    torch.manual_seed(spec.seed)
    network = reward.Reward(128, spec.width, spec.product).double()
    optimiser = torch.optim.AdamW(network.parameters(), spec.learning_rate, weight_decay=spec.weight_decay, foreach=False)
    order, steps = torch.Generator().manual_seed(spec.seed), spec.epochs * -(-count // spec.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    x, z, bank = (reward.scaled(a, spec).double() for a in (IMAGE, TEXT, POOL))
    for epoch in range(spec.epochs):
        for part in torch.randperm(count, generator=order).split(spec.batch):
            items, y = one.items[part.numpy()], torch.from_numpy(one.labels)[part]
            loss, losses = F.mse_loss(network(x[items], z[items]), y), []
            for i, row in zip(items, part.tolist(), strict=True):
                if one.labels[row] == 1 or spec.auxiliary_on == "all":
                    texts = torch.cat([z[i][None], bank[one.others[row, epoch * spec.perturbed :][: spec.perturbed]]])
                    losses.append(F.cross_entropy(network(x[i].expand_as(texts), texts) / spec.temperature, torch.tensor(0)))
            optimiser.zero_grad()
            (loss + spec.auxiliary_weight * torch.stack(losses).mean()).backward()
            optimiser.step()
            schedule.step()
    return network.float().to(DEVICE)


@pytest.mark.parametrize(
    "changed",
    [dict(), dict(auxiliary_weight=3.0), dict(product=True, auxiliary_on="all"), dict(normalise=False, seed=2)], ids=str,
)  # fmt: skip
def test_a_reward_is_that_of_a_plain_loop_over_items(changed):
    spec = replace(SPEC, width=16, epochs=2, batch=64, temperature=0.5, weight_decay=0.1, learning_rate=1e-2, **changed)
    one = lesson(spec, 150)
    np.testing.assert_allclose(together([one])[0], r_of(plainly_trained(one), spec), atol=1e-6)


def test_on_a_processor_the_precision_of_a_reward_is_float32_whatever_is_fast(monkeypatch):
    small, found = lesson(replace(SPEC, width=16), 200), []
    for fast in (False, True):
        monkeypatch.setattr("lib.ground.precision.FAST_BFLOAT16", fast)
        found.append(r_of(ensemble.train(IMAGE, TEXT, POOL, [small])[0], SPEC))
    np.testing.assert_array_equal(*found)


def test_rewards_of_several_shapes_are_not_trained_together():
    with pytest.raises(ValueError, match="^rewards of different shapes cannot be trained together$"):
        ensemble.train(IMAGE, TEXT, POOL, [lesson(SPEC, 100), lesson(replace(SPEC, width=8), 100)])


def test_an_infinite_loss_of_one_of_them_is_refused_with_its_epoch():
    wild = lesson(replace(SPEC, width=8, batch=50, learning_rate=1e36, normalise=False), 100)
    calm = lesson(replace(wild.spec, learning_rate=1e-3), 100)
    with pytest.raises(ValueError, match="^the reward's loss is nan in epoch 1: lower the learning rate$"):
        ensemble.train(IMAGE, TEXT, POOL, [calm, wild], torch.float32)


# ---- stages -------------------------------------------------------------------------------------------------------

TEXTS = ["Two dogs", "A red colored cat", "Three birds in the forest", "A dog on the moon"] * 125
LABELS = (RNG.random(500) < 0.5).astype(float)
SEEDS = [RewardSpec(width=8, epochs=2, seed=s) for s in range(3)]
OTHERS = [RewardSpec(width=8, epochs=2, auxiliary_weight=2.0), RewardSpec(width=8, epochs=2, auxiliary_weight=0.0)]


@pytest.fixture
def asked(empty_cache, monkeypatch, patched):
    """The specs of each training, three of which fit together, and a function that asks for rewards of several specs."""
    groups, real = [], ensemble.train

    def noted(image, text, pool, lessons, **how):
        groups.append([one.spec for one in lessons])
        return real(image, text, pool, lessons, **how)

    monkeypatch.setattr(ensemble, "train", noted)
    monkeypatch.setattr(ensemble, "TOGETHER", 3)
    monkeypatch.setattr(ensemble, "perturbed_embeddings", lambda form, load, digest: np.tile(POOL, (200, 1)))

    def ask(specs):
        return ensemble.trained(specs, IMAGE, TEXT, TEXTS, LABELS, np.zeros(500), None, {"clip": "c", "labels": "l"})

    return groups, ask


def test_rewards_of_one_shape_are_trained_together_and_each_is_kept_as_its_own(asked):
    groups, ask = asked
    specs = [SEEDS[0], OTHERS[1], *SEEDS[1:], OTHERS[0], SEEDS[0]]
    found = [r_of(network, spec) for network, spec in zip(ask(specs), specs, strict=True)]
    assert groups == [SEEDS, [OTHERS[0]], [OTHERS[1]]]
    alone = {s: ensemble.train(IMAGE, TEXT, np.tile(POOL, (200, 1)), [lesson_of(s, TEXTS, LABELS, np.zeros(500))])[0]
             for s in specs}  # fmt: skip
    np.testing.assert_allclose(found, [r_of(alone[s], s) for s in specs], atol=1e-4)
    assert min(np.abs(a - b).max() for i, a in enumerate(found[:5]) for b in found[:i]) > 1e-3
    groups.clear()
    np.testing.assert_array_equal([r_of(n, s) for n, s in zip(ask(specs[::-1]), specs[::-1], strict=True)], found[::-1])
    assert groups == []


def test_killed_between_two_of_them_the_rest_is_what_it_would_have_been(asked, empty_cache):
    groups, ask = asked
    whole = [r_of(n, s) for n, s in zip(ask(SEEDS), SEEDS, strict=True)]
    for entry in sorted((empty_cache / "reward").iterdir())[1:]:
        shutil.rmtree(entry)
    np.testing.assert_array_equal([r_of(n, s) for n, s in zip(ask(SEEDS), SEEDS, strict=True)], whole)
    assert groups == [SEEDS, SEEDS]
