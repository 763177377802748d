"""Fine-tuning minimises the loss that is written down, on the same draws for every arm, and goes on after a kill."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file

from lib.ground import cache, checkpoint
from lib.images import sampling
from lib.methods import denoising, finetune
from lib.methods.denoising import Pairs, denoising_loss
from lib.methods.finetune import FinetuneSpec

SPEC = FinetuneSpec(updates=2, batch=(4, 3), beta=0.5, warmup=1, schedule="constant", caption_dropout=0.0)
DRAWS = torch.Generator().manual_seed(3)


def random_pairs(count: int, weight=None) -> Pairs:
    """Random latents under two random texts."""
    weight = torch.rand(count, generator=DRAWS) if weight is None else torch.full((count,), float(weight))
    latents = torch.randn((count, 16, 8, 8), generator=DRAWS)
    return Pairs(latents, torch.randn((2, 16, 128), generator=DRAWS), torch.arange(count) % 2, weight)


MODEL, WEB = random_pairs(9), random_pairs(7, weight=1)


def weights(pipe) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in pipe.unet.named_parameters()}


@pytest.fixture
def tune(make_pipe, tmp_path):
    """A function that tunes a new tiny pipeline and gives it back."""

    def run(spec=SPEC, model=MODEL, web=WEB):
        pipe = make_pipe()
        finetune.finetune(pipe, model, web, spec, tmp_path, tell=lambda line: None)
        return pipe

    return run


def weighted(pairs: Pairs, weight) -> Pairs:
    return replace(pairs, weight=torch.as_tensor(weight, dtype=torch.float32).expand(len(pairs.text)))


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_a_perfect_prediction_costs_nothing_and_a_shifted_one_its_square(pipe, kind):
    x, noise = torch.randn((2, 5, 16, 8, 8), generator=DRAWS)
    t = torch.tensor([0, 250, 500, 750, 999])
    reference = DDPMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    perfect = noise if kind == "epsilon" else reference.get_velocity(x, noise, t)
    shift = torch.tensor([0.0, 1, 2, 3, 4])

    def unet(noisy, steps, encoder_hidden_states, return_dict):
        torch.testing.assert_close(noisy, reference.add_noise(x, noise, t))
        assert torch.equal(steps, t) and encoder_hidden_states == "states"
        return (perfect + shift[:, None, None, None],)

    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type=kind)
    losses = denoising_loss(SimpleNamespace(unet=unet, scheduler=scheduler), x, "states", t, noise)
    torch.testing.assert_close(losses, shift**2, atol=1e-5, rtol=1e-5)


def test_the_gradient_is_that_of_the_loss_that_is_written_down(make_pipe, tune, monkeypatch):
    """E_model[r l] + beta E_pre[l], recomputed item by item at the first weights."""
    monkeypatch.setattr(denoising, "autocast", nullcontext)
    pipe = make_pipe()
    g = torch.Generator().manual_seed(1_000_003 * 5)
    total = 0.0
    for pairs, count, factor in ((MODEL, 4, 1.0), (WEB, 3, 0.5)):
        rows, t, noise = denoising.draw(pairs, count, g, 1000)
        for i in range(count):
            row = rows[i : i + 1]
            states = pairs.states[pairs.text[row]]
            loss = denoising_loss(pipe, pairs.latents[row], states, t[i : i + 1], noise[i : i + 1])
            total = total + factor * pairs.weight[row] * loss / count
    total.sum().backward()
    tuned = tune(replace(SPEC, updates=1, seed=5, clip=1e9))
    for (name, p), q in zip(tuned.unet.named_parameters(), pipe.unet.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_the_gradient_is_linear_in_the_reward(tune):
    spec = replace(SPEC, updates=1, clip=1e9, beta=0.0)
    once, twice = (tune(spec, weighted(MODEL, w * MODEL.weight)).unet.parameters() for w in (1.0, 2.0))
    for p, q in zip(once, twice, strict=True):
        torch.testing.assert_close(2 * p.grad, q.grad, atol=1e-6, rtol=1e-3)


def test_without_reward_and_pre_training_nothing_but_weight_decay_moves_the_weights(make_pipe, tune):
    before = weights(make_pipe())
    spec = replace(SPEC, updates=3, beta=0.0, warmup=2, learning_rate=1e-2)
    tuned = tune(spec, weighted(MODEL, 0.0))
    decay = (1 - 0.5e-2 * 1e-2) * (1 - 1e-2 * 1e-2) ** 2  # the first update is half warm
    for name, p in tuned.unet.named_parameters():
        assert not p.grad.any(), name
        torch.testing.assert_close(p.detach(), decay * before[name], atol=1e-8, rtol=1e-6)


def test_the_rate_warms_up_and_then_falls_to_nothing_or_stays():
    spec = FinetuneSpec(updates=10, learning_rate=1.0, warmup=2)
    falling, constant = ([replace(spec, schedule=s).rate(u) for u in range(10)] for s in ("falling", "constant"))
    assert falling == pytest.approx([0.5, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]) and constant == [0.5] + [1.0] * 9
    with pytest.raises(ValueError, match="^unknown schedule 'cosine': expected one of falling, constant$"):
        replace(spec, schedule="cosine")


def test_dropped_captions_are_replaced_by_those_of_pre_training_and_change_nothing_else(make_pipe, tune, monkeypatch):
    """With every caption but few dropped, the U-Net is shown the states of NO_CAPTION, as often as that says."""
    nothing = sampling.encode_texts(make_pipe(), list(denoising.NO_CAPTION))

    def shown(share):
        seen, gather = [], finetune.denoising_loss
        with monkeypatch.context() as patch:
            patch.setattr(finetune, "denoising_loss", lambda *args: seen.append(args[1:]) or gather(*args))
            tune(replace(SPEC, updates=40, caption_dropout=share))
        return [torch.cat([s[i] for s in seen]) for i in range(4)]

    kept, lost = shown(0.0), shown(0.9)
    for i in (0, 2, 3):  # latents, timesteps, noise
        assert torch.equal(kept[i], lost[i])
    same = [(lost[1] == n).flatten(1).all(1) for n in nothing]
    own = (lost[1] == kept[1]).flatten(1).all(1)
    assert torch.equal(own, ~torch.stack(same).any(0)) and 0.03 < own.float().mean() < 0.2
    for is_it, often in zip(same, denoising.NO_CAPTION.values(), strict=True):
        assert is_it.float().mean() / 0.9 == pytest.approx(often, abs=0.1)


def test_the_timesteps_of_a_batch_cover_the_schedule_and_most_lie_where_a_scene_is_composed():
    _, t, noise = denoising.draw(MODEL, 50, torch.Generator().manual_seed(0), 1000)
    assert (t < 800).sum() == 16 and (t >= 800).sum() == 34 and t.max() < 1000 and noise.shape == (50, 16, 8, 8)
    assert set((t // 100).tolist()) == set(range(10))


@pytest.mark.parametrize("level", [1.0, 1 - 2**-24, 0.0])
def test_no_timestep_lies_beyond_the_schedule_even_where_float32_rounds_a_level_up(level, monkeypatch):
    monkeypatch.setattr(denoising, "noise_levels", lambda count, g: torch.full((count,), level))
    _, t, _ = denoising.draw(MODEL, 3, torch.Generator().manual_seed(0), 1000)
    assert t.tolist() == [999 if level else 0] * 3


def test_no_row_of_a_batch_has_noise_levels_of_its_own():
    g = torch.Generator().manual_seed(0)
    levels = torch.stack([denoising.noise_levels(50, g) for _ in range(400)]).mean(0)
    assert (levels - (0.4 * 0.5 + 0.6 * 0.9)).abs().max() < 0.06  # four standard errors


def test_latents_of_images_are_encoded_once_and_apart_from_those_of_other_images(make_pipe):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    made = []

    def latents(images, count):
        return denoising.latents_of(lambda: made.append(images) or make_pipe(), lambda: pixels[:count], {"images": images})

    first, other, again = latents("all", 3), latents("one", 1), latents("all", 3)
    torch.testing.assert_close(first, sampling.encode(make_pipe(), pixels))
    assert torch.equal(first, again) and len(other) == 1 and made == ["all", "one"]


def test_arms_that_differ_in_weights_beta_or_rate_see_the_same_batches_and_noise(tune, monkeypatch):
    def seen(spec=SPEC, model=MODEL):
        draws, draw = [], finetune.draw
        with monkeypatch.context() as patch:
            patch.setattr(finetune, "draw", lambda *args: draws.append(draw(*args)) or draws[-1])
            tune(spec, model)
        return [x for drawn in draws for x in drawn]

    full = seen()
    others = [seen(model=weighted(MODEL, 0.3)), seen(replace(SPEC, beta=0.0)), seen(replace(SPEC, use_model=False)),
              seen(replace(SPEC, learning_rate=1e-5))]  # fmt: skip
    for arm in others:
        assert len(arm) == 12 and all(map(torch.equal, arm, full))
    assert not torch.equal(full[2], full[8])  # the next update's noise is another
    assert not any(map(torch.equal, seen(replace(SPEC, seed=1)), full))


def test_only_the_unet_is_tuned_and_what_is_written_is_what_was_tuned(make_pipe, tune, tmp_path):
    before = make_pipe()
    frozen = [{k: v.clone() for k, v in m.state_dict().items()} for m in (before.vae, before.text_encoder)]
    tuned = tune(replace(SPEC, keep=(1,)))
    for module, old in zip((tuned.vae, tuned.text_encoder), frozen, strict=True):
        assert all(torch.equal(v, old[k]) for k, v in module.state_dict().items())
        assert all(p.grad is None for p in module.parameters())
    assert not tuned.unet.training
    kept, last = (load_file(tmp_path / f"unet-{n}.safetensors") for n in (1, 2))
    tuned.unet.load_state_dict(last, strict=True)
    for name, old in weights(before).items():
        assert not torch.equal(old.half(), last[name]) and not torch.equal(kept[name], last[name]), name


def test_the_moving_average_lies_between_the_first_weights_and_the_last(make_pipe, tune, tmp_path):
    tuned = tune(replace(SPEC, updates=1, average=0.9, learning_rate=0.05))
    averaged = load_file(tmp_path / "unet-1.safetensors")
    before, after = weights(make_pipe()), weights(tuned)
    for name, weight in averaged.items():  # an early average forgets faster: 1 of 10 after the first update
        expected = before[name] + 0.9 * (after[name] - before[name])
        torch.testing.assert_close(weight.float(), expected, atol=1e-3, rtol=1e-3)


def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(make_pipe, tmp_path, monkeypatch, patched):
    spec = FinetuneSpec(updates=53, keep=(40,), batch=(2, 1), average=0.9)
    monkeypatch.setattr(finetune, "EVERY", 50)
    save, pipes = checkpoint.save, []

    def killed(*args, **numbers):
        save(*args, **numbers)
        raise KeyboardInterrupt

    def load():
        pipes.append(make_pipe())
        return pipes[-1]

    def stage():
        return finetune.tuned(load, lambda pipe: MODEL, lambda pipe: WEB, spec, {"base": "d1"})

    monkeypatch.setattr(cache, "CACHE", tmp_path / "undisturbed")
    whole = stage()
    monkeypatch.setattr(cache, "CACHE", tmp_path / "killed")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", killed)
        stage()
    draws, draw = [], finetune.draw
    monkeypatch.setattr(finetune, "draw", lambda *args: draws.append(1) or draw(*args))
    resumed = stage()
    assert len(draws) == 2 * 3  # three updates of two draws were left
    for name, weight in weights(pipes[0]).items():  # float32, the average is in the files
        assert torch.equal(weight, weights(pipes[-1])[name]), name
    assert resumed.digest == whole.digest and resumed.path != whole.path
    assert sorted(p.name for p in resumed.path.glob("*.safetensors")) == ["unet-40.safetensors", "unet-53.safetensors"]


@pytest.mark.parametrize("damage", ["state", "unet-40", "half of unet-40", "no unet-40"])
def test_a_run_with_a_damaged_checkpoint_starts_again(damage, make_pipe, tmp_path, patched, monkeypatch, capfd):
    spec = FinetuneSpec(updates=51, keep=(40,), batch=(1, 1))
    for name in ("whole", "killed"):  # as if at the end, with all checkpoints still there
        (tmp_path / name).mkdir()
        finetune.finetune(make_pipe(), MODEL, WEB, spec, tmp_path / name)
    path = tmp_path / "killed" / "_partial" / f"{damage.split()[-1]}.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if "half" in damage else content[:-1] + bytes([content[-1] ^ 1]))
    if "no " in damage:
        path.unlink()
    for written in (tmp_path / "killed").glob("*.safetensors"):
        written.unlink()
    draws, draw = [], finetune.draw
    monkeypatch.setattr(finetune, "draw", lambda *args: draws.append(1) or draw(*args))
    finetune.finetune(make_pipe(), MODEL, WEB, spec, tmp_path / "killed")
    assert len(draws) == 2 * 51 and ("is damaged" in capfd.readouterr().err) == ("no " not in damage)
    for name in ("unet-40.safetensors", "unet-51.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_bad_input_is_refused_in_one_line(tune):
    broken = replace(MODEL, latents=torch.full_like(MODEL.latents, float("nan")))
    with pytest.raises(ValueError, match="^the fine-tuning loss is nan at update 0: lower the learning rate$"):
        tune(model=broken)
    with pytest.raises(ValueError, match="^nothing to learn from: use_model is False and beta is 0$"):
        tune(replace(SPEC, use_model=False, beta=0.0))
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="^weights must be finite and at least 0$"):
            weighted(MODEL, bad)
    pipe, x = SimpleNamespace(scheduler=DDPMScheduler(prediction_type="sample")), MODEL.latents
    with pytest.raises(ValueError, match="^unknown prediction type 'sample': expected v_prediction or epsilon$"):
        denoising_loss(pipe, x, None, torch.zeros(9, dtype=int), x)
    with pytest.raises(ValueError, match="^9 latents, 9 texts and 8 weights: need the same number of each$"):
        replace(MODEL, weight=MODEL.weight[:8])


def test_the_ceiling_is_the_good_share_that_the_weighting_leaves():
    good = np.array([1, 0, 1, 0])
    assert finetune.ceiling(np.array([0.9, 0.3, 0.6, 0.2]), good) == pytest.approx(1.5 / 2.0)
    assert finetune.ceiling(np.full(4, 0.3), good) == pytest.approx(0.5)  # constant reward: the share of good images
    assert finetune.ceiling(good.astype(float), good) == 1


def test_a_weighting_that_is_unknown_or_keeps_nothing_is_refused():
    known = "raw, constant, random, thresholded, exponential"
    with pytest.raises(ValueError, match=f"^unknown weighting 'cubic': expected one of {known}$"):
        finetune.reweighted(np.array([0.2, 0.9]), "cubic")
    with pytest.raises(ValueError, match="^no reward is above one half: nothing to keep$"):
        finetune.reweighted(np.array([0.2, 0.4]), "thresholded")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_where_no_reward_is_above_one_half_the_highest_quarter_is_kept_in_words(dtype, capsys):
    low = np.array([0.1, 0.2, 0.3, 0.4, 0.05, 0.15, 0.25, 0.35], dtype)
    for r, kept in ((low, [3, 7]), (low + dtype(0.12), [3]), (np.full(5, 0.3, dtype), [0, 1, 2, 3, 4])):
        weight = finetune.reweighted(r, "thresholded", threshold=finetune.threshold_of(r))
        assert np.flatnonzero(weight).tolist() == kept and weight.mean() == pytest.approx(r.mean())
        assert ("highest quarter" in capsys.readouterr().out) == (r.max() <= 0.5)
