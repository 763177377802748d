"""Rounds of draw, score, tune are in all one round: as many images, updates and warm-up. Nothing is drawn or trained."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib.ground.cache import Artifact
from lib.images import models, sampling
from lib.methods import finetune, reward
from lib.study.lee import FULL_METHOD, LeeStudy

SPEC = finetune.FinetuneSpec(updates=7, warmup=6, beta=0.7, seed=2, drawn_at=1.5, keep=(3,))
OWN = {"labelled": (["Six cats"] * 5 + ["Two dogs"] * 4, [0, 1, 2, 3, 4, 0, 1, 2, 3]),
       "unlabelled": (["Six cats"] * 3 + ["Two dogs"] * 1, [0, 1, 2, 0])}  # fmt: skip


def artifact(name: str, stage: str = "images") -> Artifact:
    return Artifact(stage, name, Path("none") / name, f"digest of {name}", 0.0)


def score(place: int, k: int) -> float:
    """The reward of the k-th image of a set: one that no other image has."""
    return 0.2 * place + 0.01 * (k + 1)


@pytest.fixture
def made(monkeypatch, pipe):
    """A study whose images and trainings are only noted, in `drawn` and `trained`."""
    sets, drawn, trained = {}, [], []

    def note(name, texts, numbers):
        sets[name] = sampling.ImageSet(np.zeros((len(texts), 1)), name, list(texts), list(numbers), ["d"] * len(texts))
        return artifact(name)

    def sampled(load, generator, texts, numbers, stream, spec):
        assert stream not in sets, "two sets of one stream"
        drawn.append(SimpleNamespace(load=load, generator=generator, stream=stream, spec=spec))
        return note(stream, texts, numbers)

    def tuned(load, model, web, spec, inputs):
        trained.append(SimpleNamespace(load=load, model=model(pipe), spec=spec, inputs=inputs))
        return artifact(f"unet {len(trained)}", "unet")

    def scores(name):
        return np.array([score(list(sets).index(name), k) for k in range(len(sets[name]))])

    study = LeeStudy("smoke")
    own = [note(name, *columns) for name, columns in OWN.items()]
    patches = {
        "own_images": lambda drawn_at, unlabelled=True: {1.5: own}[drawn_at], "generator": lambda path=None: path,
        "run_reward": lambda run, labels=1.0: [(f"reward of run {run}", reward.RewardSpec())],
        "scores": lambda images, rewards: {"reward of run 2": scores(images.key)[None]}[rewards[0][0]],
        "latents": lambda images: torch.from_numpy(scores(images.key))[:, None, None, None].expand(-1, 1, 1, 1),
    }  # fmt: skip
    for name, function in patches.items():
        monkeypatch.setattr(study, name, function)
    monkeypatch.setattr(models, "verify", lambda name: f"digest of {name}")
    monkeypatch.setattr(sampling, "sampled", sampled)
    monkeypatch.setattr(sampling, "load_images", lambda images: sets[images.key])
    monkeypatch.setattr(finetune, "tuned", tuned)
    return SimpleNamespace(study=study, sets=sets, drawn=drawn, trained=trained)


@pytest.mark.parametrize("count, updates", [(2, [4, 3]), (3, [3, 2, 2])])
def test_rounds_share_images_updates_and_warm_up_and_each_goes_on_from_the_last(made, count, updates):
    unet = made.study.rounds(count, SPEC)
    assert unet == (artifact(f"unet {count}", "unet"), updates[-1])
    assert [t.spec.updates for t in made.trained] == updates and sum(updates) == SPEC.updates
    for k, t in enumerate(made.trained):
        assert t.spec == replace(SPEC, updates=updates[k], warmup=6 // count, keep=(), seed=t.spec.seed)
        if not k:
            assert t.load is None and "unet" not in t.inputs
            continue
        before = artifact(f"unet {k}", "unet")
        assert t.load == before.path / f"unet-{updates[k - 1]}.safetensors"
        assert (t.inputs["unet"], t.inputs["updates"]) == (before, str(updates[k - 1]))
        for d in made.drawn[2 * k - 2 : 2 * k]:
            assert d.load == t.load and d.generator["unet"] == before and d.spec.guidance_scale == SPEC.drawn_at
    assert len({t.spec.seed for t in made.trained}) == count and len(made.drawn) == 2 * (count - 1)


@pytest.mark.parametrize("count", [2, 3])
def test_each_prompt_and_number_is_drawn_in_one_round_and_weighted_by_its_own_reward(made, count):
    made.study.rounds(count, SPEC)
    of = {}  # an image by its reward, which is also its latent
    for place, (name, shown) in enumerate(made.sets.items()):
        for k, image in enumerate(zip([name.split(",")[0]] * len(shown), shown.prompts, shown.numbers, strict=True)):
            of[round(score(place, k), 4)] = image
    learnt = []
    for t in made.trained:
        rewards = t.model.latents.flatten()
        torch.testing.assert_close(t.model.weight, rewards.float())
        learnt.append([of[round(x, 4)] for x in rewards.tolist()])
    own = [(name, p, i) for name, columns in OWN.items() for p, i in zip(*columns, strict=True)]
    assert sorted(sum(learnt, [])) == sorted(own)
    assert max(map(len, learnt)) - min(map(len, learnt)) <= len(OWN)
    assert len(made.sets) == len(OWN) * count and "labelled, round 2 of" in "".join(made.sets)


def test_one_round_is_the_full_method(made):
    made.study.rounds(1, SPEC)
    made.study.finetuned(FULL_METHOD, SPEC)
    once, full = made.trained
    assert once.inputs == full.inputs and replace(once.spec, keep=SPEC.keep) == full.spec and not made.drawn
    assert torch.equal(once.model.weight, full.model.weight) and torch.equal(once.model.latents, full.model.latents)


@pytest.mark.parametrize("count", [0, 8])
def test_no_round_and_more_rounds_than_updates_are_refused(made, count):
    with pytest.raises(ValueError, match=f"^the number of rounds must be between 1 and 7, .*, got {count}$"):
        made.study.rounds(count, SPEC)
