"""An update replayed from fixed tensors is the update that a plain loop makes, and nothing of making the replay stays."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import clip_grad_norm_

from lib.ground.precision import DEVICE
from lib.images import models
from lib.methods import adaptation, denoising, finetune, preference, training
from lib.methods.denoising import Pairs
from lib.methods.training import Updates

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


def stand_in(body):
    """In the place of `cuda_graph`, on any machine: it runs the update as often, and keeps its tensors as a graph would."""
    for _ in range(4):
        body()
    return body


def network() -> nn.Module:
    """A small network with running means and with a count that is no float."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 1))


def batches(count: int = 20, last: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images and what to foretell; every fifth batch is smaller than the others."""
    g = torch.Generator().manual_seed(1)
    sizes = [last if i % 5 == 4 else 8 for i in range(count)]
    return [(torch.randn((n, 3, 4, 4), generator=g), torch.randn((n, 1), generator=g)) for n in sizes]


RATES = [[0.02 * (1 - i / 40)] for i in range(20)]
SHARES = [0.02 + 0.01 * (i % 3) for i in range(20)]  # small: what warming up moved would stay to be seen


def trained(capture, optimiser=torch.optim.AdamW, given=None, module=None, device="cpu") -> dict[str, torch.Tensor]:
    """State and moving averages after updates as `Updates` makes them."""
    net = (module or network()).to(device).train()
    means = {k: v.detach().clone() for k, v in net.state_dict().items()}
    updates = Updates(
        net, optimiser(net.parameters(), 1.0), lambda x, y: (net(x) - y).square().mean(), "test", averages=means,
        before_step=lambda: clip_grad_norm_(net.parameters(), 0.5), capture=capture,
    )  # fmt: skip
    for batch, rate, share in zip(batches() if given is None else given, RATES, SHARES, strict=False):
        updates(batch, rate, share)
    updates.check()
    return {k: v.detach().cpu() for k, v in net.state_dict().items()} | {f"mean {k}": v.cpu() for k, v in means.items()}


def by_hand() -> dict[str, torch.Tensor]:
    """The same by a loop as one writes it first."""
    net = network().train()
    means = {k: v.detach().clone() for k, v in net.state_dict().items()}
    optimiser = torch.optim.AdamW(net.parameters(), 1.0)
    for (x, y), (rate,), share in zip(batches(), RATES, SHARES, strict=True):
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        (net(x) - y).square().mean().backward()
        clip_grad_norm_(net.parameters(), 0.5)
        optimiser.step()
        for k, v in net.state_dict().items():
            means[k] = means[k].lerp(v, share) if v.is_floating_point() else v.clone()
    return net.state_dict() | {f"mean {k}": v for k, v in means.items()}


def assert_alike(found, expected, **near):
    """All values near, but for one in a thousand: where a gradient is nearly 0, AdamW makes a step of its rounding."""
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        apart = ~torch.isclose(found[name], x, **near)
        assert apart.sum() <= x.numel() // 1_000, f"{name}: {apart.sum()} of {x.numel():,} values differ"


# ---- the same weights ---------------------------------------------------------------------------------------------


def test_called_plainly_it_is_the_loop_as_one_writes_it_bit_for_bit():
    assert_alike(trained(None), by_hand(), atol=0, rtol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_twenty_replayed_updates_give_the_weights_of_twenty_plain_ones(fused):
    optimiser = partial(torch.optim.AdamW, fused=fused)
    assert_alike(trained(stand_in, optimiser), by_hand(), atol=1e-5, rtol=1e-5)


@gpu
def test_twenty_updates_of_a_cuda_graph_give_the_weights_of_twenty_plain_ones(monkeypatch):
    for of in (torch.backends.cudnn, torch.backends.cuda.matmul):
        monkeypatch.setattr(of, "allow_tf32", False)
    replayed, plain = (trained(c, training.adamw, device="cuda") for c in (training.cuda_graph, None))
    assert_alike(replayed, plain, atol=1e-4, rtol=1e-4)
    assert_alike(replayed, by_hand(), atol=1e-3, rtol=1e-3)


def test_a_batch_of_each_shape_is_captured_once_and_of_more_shapes_calculated_as_it_comes(monkeypatch):
    monkeypatch.setattr(training, "MOST_GRAPHS", 1)
    captured = []

    def capture(body):
        captured.append(body)
        return stand_in(body)

    assert_alike(trained(capture), by_hand(), atol=1e-5, rtol=1e-5)
    assert len(captured) == 1
    monkeypatch.setattr(training, "MOST_GRAPHS", 4)
    trained(capture)
    assert len(captured) == 3


def test_where_nothing_can_be_captured_a_line_says_so_and_the_weights_are_the_same(capsys):
    def refused(body):
        body()
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    assert_alike(trained(refused), by_hand(), atol=1e-5, rtol=1e-5)
    said = capsys.readouterr().out
    assert said == ("no CUDA graph of test, so updates run without one: "
                    "operation not permitted when stream is capturing\n")  # fmt: skip


# ---- losses that are not finite -----------------------------------------------------------------------------------


def spoiled(at: int):
    found = batches()
    found[at][1].fill_(float("inf"))
    return found


def test_a_loss_that_is_not_finite_stops_a_plain_run_at_once():
    seen = iter(spoiled(7))
    with pytest.raises(ValueError, match="^the test loss is inf at update 7: lower the learning rate$"):
        trained(None, given=seen)
    assert len(list(seen)) == 12


def test_a_replayed_run_names_the_first_update_when_it_looks(monkeypatch):
    for look, left in ((50, 0), (10, 10)):
        monkeypatch.setattr(training, "LOOK", look)
        seen = iter(spoiled(7))
        with pytest.raises(ValueError, match="^the test loss is inf at update 7: lower the learning rate$"):
            trained(stand_in, given=seen)
        assert len(list(seen)) == left


# ---- the study's own runs -----------------------------------------------------------------------------------------


def pairs(seed: int) -> Pairs:
    g = torch.Generator().manual_seed(seed)
    return Pairs(torch.randn(9, 16, 8, 8, generator=g), torch.randn(2, 16, 128, generator=g), torch.arange(9) % 2,
                 torch.rand(9, generator=g))  # fmt: skip


def tuned(make_pipe, folder):
    folder.mkdir()
    finetune.finetune(make_pipe(), pairs(1), pairs(2), finetune.FinetuneSpec(updates=4, batch=(4, 3), average=0.9), folder)
    return load_file(folder / "unet-4.safetensors")


def lora(make_pipe, folder):
    folder.mkdir()
    spec = adaptation.AdaptationSpec(rank=4, updates=4, batch=(3, 2, 2))
    adaptation.adapt(make_pipe(), [pairs(1), pairs(2), pairs(3)], spec, folder)
    return load_file(folder / "pytorch_lora_weights.safetensors")


def clip(make_pipe, folder):
    rng = np.random.default_rng(0)
    pixels, texts = rng.integers(0, 256, (28, 64, 64, 3)).astype(np.uint8), ["One dog", "Two cats"] * 14
    rows = np.arange(28).reshape(7, 4)
    rows[2, 3] = -1
    groups, counts = preference.counted(rows, np.arange(7) % 3)
    spec = preference.PreferenceSpec(epochs=2, batch=3)
    found = preference.train_preference(*models.load_clip(), pixels, texts, groups, counts, spec).state_dict()
    idle = ("k_proj.bias", "in_proj_bias")  # keys' biases move no softmax: their gradient is rounding, which AdamW blows up
    return {k: v for k, v in found.items() if not k.endswith(idle)}


@pytest.mark.parametrize("run, module", [(tuned, finetune), (lora, adaptation), (clip, preference)])
@pytest.mark.parametrize("capture", [stand_in, pytest.param(training.cuda_graph, marks=gpu)])
def test_replayed_and_plain_the_studys_models_come_out_the_same(run, module, capture, make_pipe, tmp_path, monkeypatch):
    if DEVICE.type == "cpu":  # in bfloat16 a weight that differs in its last digit is now and then rounded the other way
        for other in (denoising, preference):
            monkeypatch.setattr(other, "autocast", nullcontext)

    def found(capture, folder):
        monkeypatch.setattr(module, "Updates", partial(Updates, capture=capture))
        return {k: v.float().cpu() for k, v in run(make_pipe, tmp_path / folder).items()}

    plain, replayed = found(None, "plain"), found(capture, "replayed")
    near = dict(atol=2e-6, rtol=1e-4) if DEVICE.type == "cpu" else dict(atol=2e-2, rtol=0)  # bfloat16, other kernels
    assert_alike(replayed, plain, **near)


@gpu
def test_nothing_waits_for_the_gpu_between_two_looks():
    near = [pairs(i).near(DEVICE) for i in (1, 2)]
    net = network().to(DEVICE)

    def loss(latents, states, t, noise, weight):
        return (net(latents[:, :3, :4, :4]).square().mean((1,)) * weight).sum()

    updates = Updates(net, training.adamw(net.parameters(), 1e-3), loss, "test", capture=training.cuda_graph)
    for i in range(20):
        torch.cuda.set_sync_debug_mode("error" if i else "default")  # the first captures
        g = torch.Generator().manual_seed(i)
        updates(denoising.gathered([(p, *denoising.draw(p, 4, g, 1000)) for p in near], DEVICE), [1e-3])
    torch.cuda.set_sync_debug_mode("default")
    updates.check()


def test_pairs_stay_where_they_are_when_a_gpu_has_little_memory(monkeypatch):
    size = 4 * (9 * 16 * 64 + 2 * 16 * 128 + 9) + 8 * 9
    given = pairs(1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * size, 0))
    assert given.near(torch.device("cuda")) is given
    assert torch.equal(given.near(torch.device("cpu")).latents, given.latents)


def test_what_was_drawn_is_gathered_in_order_with_each_items_own_text_and_weight():
    one, two = pairs(1), pairs(2)
    drawn = [(p, *denoising.draw(p, n, torch.Generator().manual_seed(n), 1000)) for p, n in ((one, 4), (two, 3))]
    latents, states, t, noise, weight = denoising.gathered(drawn, torch.device("cpu"))
    for i, (p, row) in enumerate([(one, r) for r in drawn[0][1]] + [(two, r) for r in drawn[1][1]]):
        assert torch.equal(latents[i], p.latents[row]) and torch.equal(states[i], p.states[p.text[row]])
        assert weight[i] == p.weight[row]
    assert torch.equal(t, torch.cat([drawn[0][2], drawn[1][2]])) and torch.equal(noise[4:], drawn[1][3])
