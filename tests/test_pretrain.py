"""What pre-training shares: the contrastive loss, the text tower in two formats, texts with what they name, and the loop."""

import itertools
import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CLIPTokenizer

from lib.feedback.judges import HEADS, look, truth
from lib.ground.precision import DEVICE
from lib.images.models import MODELS, load_judge
from lib.methods.denoising import NO_CAPTION
from lib.methods.training import Updates
from lib.study.wu import ADAPTATIONS
from lib.world.prompts import PREFIX, parse
from pretrain import common, judges
from pretrain.clip import contrastive_loss, make_clip, model_config, take_text_encoder, text_encoder
from pretrain.mini_clip import NAMED, RESNET, said


def pairs(n: int = 8):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 16, generator=g), torch.randn(n, 16, generator=g)


def test_the_contrastive_loss_is_the_mean_of_two_cross_entropies():
    shown, said = pairs()
    scale = torch.tensor(2.0)
    cosine = (shown / shown.norm(dim=1, keepdim=True)) @ (said / said.norm(dim=1, keepdim=True)).T
    logits = (math.exp(2.0) * cosine).double()
    to_text = (logits.logsumexp(1) - logits.diag()).mean()
    to_image = (logits.logsumexp(0) - logits.diag()).mean()
    assert to_text != to_image
    assert torch.isclose(contrastive_loss(scale, shown, said).double(), (to_text + to_image) / 2, atol=1e-5)


def test_the_scale_of_contrastive_logits_is_at_most_that_of_clip():
    shown, said = pairs()
    assert contrastive_loss(torch.tensor(9.0), shown, said) == contrastive_loss(torch.tensor(4.6), shown, said)


def test_contrastive_logits_keep_float32_inside_autocast():
    shown, said = pairs(64)
    said = shown + 0.05 * said
    scale = torch.tensor(4.6)
    outside = contrastive_loss(scale, shown.to(DEVICE), said.to(DEVICE))
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        inside = contrastive_loss(scale, shown.to(DEVICE), said.to(DEVICE))
    assert inside == outside


def test_a_text_tower_goes_to_transformers_and_back_unchanged():
    tokenizer = CLIPTokenizer.from_pretrained(MODELS / "mini-sd" / "tokenizer")
    config = model_config(len(tokenizer), RESNET)
    one, other = make_clip(config), make_clip(config)
    take_text_encoder(other, text_encoder(one, tokenizer))
    texts = {k for k in one.state_dict() if not k.startswith(("visual", "logit", "text_projection"))}
    assert len(texts) > 40
    assert all(torch.equal(one.state_dict()[k], other.state_dict()[k]) for k in texts)
    assert not torch.equal(one.state_dict()["text_projection"], other.state_dict()["text_projection"])


def test_texts_name_what_their_classes_say():
    texts, classes = said(np.random.default_rng(0), 400)
    read = 0
    for text, row in zip(texts, classes.tolist(), strict=True):
        try:
            a = parse(text.removeprefix("Weird image. "))
        except ValueError:  # a phrasing of the web
            continue
        read += 1
        assert [v.index(getattr(a, k)) for k, v in NAMED.items()] == row, text
    assert read > 150
    assert all((classes[:, i] > 0).float().mean() > 0.4 for i in range(4))


def test_dropped_captions_teach_the_prefixes_of_adaptation_to_mean_nothing_and_mostly_leave_nothing():
    assert sum(NO_CAPTION.values()) == pytest.approx(1) and NO_CAPTION[""] > 0.5
    assert set(NO_CAPTION) == {"", PREFIX, ADAPTATIONS["another prefix"]["prefix"]}


# ---- the loop -----------------------------------------------------------------------------------------------------


def network() -> nn.Module:
    """Two matrices of one shape, one tall, and what AdamW takes: biases, an embedding, running means."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Flatten(), nn.BatchNorm1d(12),
                             nn.Linear(12, 4), nn.Linear(4, 12))  # fmt: skip


def by_hand(weights: list[torch.Tensor], gradients: list[list[torch.Tensor]], muon: list[bool], rates) -> None:
    """Muon and AdamW, one weight after the other, as their papers write them."""
    for p, of_p, orthogonal in zip(weights, zip(*gradients, strict=True), muon, strict=True):
        m, v = torch.zeros_like(p), torch.zeros_like(p)
        for t, (g, (rate, adam_rate)) in enumerate(zip(of_p, rates, strict=True), 1):
            if orthogonal:
                m = 0.95 * m + g
                x = g + 0.95 * m
                x = x / x.norm()
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x - 4.7750 * a @ x + 2.0315 * a @ a @ x
                p.copy_((1 - 0.01 * rate) * p - rate * max(1, len(p) / p.shape[1]) ** 0.5 * x)
            else:
                m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
                p.sub_(adam_rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)).sqrt() + 1e-8))


@pytest.mark.parametrize("in_tensors", [False, True])
def test_muon_makes_the_updates_of_its_papers_with_rates_as_numbers_or_in_tensors(in_tensors, monkeypatch):
    monkeypatch.setattr(common, "FAST_BFLOAT16", False)
    net, g = network(), torch.Generator().manual_seed(1)
    names = [n for n, _ in net.named_parameters()]
    muon = [n.endswith("weight") and n[0] in "1256" for n in names]
    gradients = [[torch.randn(p.shape, generator=g) for p in net.parameters()] for _ in range(6)]
    rates = [(0.02 / (i + 1), 0.002 * (i + 1)) for i in range(6)]
    expected = [p.detach().clone() for p in net.parameters()]
    by_hand(expected, gradients, muon, rates)
    optimiser = common.Muon(net)
    for now, update in zip(gradients, rates, strict=True):
        for p, x in zip(net.parameters(), now, strict=True):
            p.grad = x.clone()
        for group, rate in zip(optimiser.param_groups, update, strict=True):
            group["lr"] = torch.tensor(rate) if in_tensors else rate
        optimiser.step()
    for name, p, x in zip(names, net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), x, atol=2e-6, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_weights_without_a_gradient_stay():
    net = network()
    before = net[5].weight.detach().clone()
    for p in net[1].parameters():
        p.grad = torch.ones_like(p)
    common.Muon(net).step()
    assert torch.equal(net[5].weight, before) and (net[1].bias != 0).all()


@pytest.fixture
def train(monkeypatch, tmp_path):
    """A function that trains the network for 30 updates; a checkpoint after each, as the clock goes by minutes."""
    clock = itertools.count(step=61)
    monkeypatch.setattr(common.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(common, "CACHE", tmp_path)

    def run(name, stop=None, **settings):
        net, drawn = network().to(DEVICE), []

        def draw(step):
            if step == stop:
                raise KeyboardInterrupt
            drawn.append(step)
            g = torch.Generator().manual_seed(step)
            return torch.randint(5, (8, 2), generator=g), torch.randn((8, 12), generator=g)

        def loss(words, wanted):
            return (net(words) - wanted).square().mean()

        common.train(name, net, draw, loss, 30, **settings)
        return {k: v.cpu() for k, v in net.state_dict().items()}, drawn

    return run


def test_a_killed_training_run_goes_on_to_the_same_weights_bit_for_bit(train):
    whole, drawn = train("whole")
    assert drawn == list(range(30)) and not torch.equal(whole["1.weight"], network()[1].weight)
    with pytest.raises(KeyboardInterrupt):
        train("killed", stop=12)
    resumed, drawn = train("killed")
    assert drawn == list(range(12, 30))
    assert all(torch.equal(x, whole[k]) for k, x in resumed.items())


def test_replayed_training_gives_the_weights_of_the_plain_loop(train, monkeypatch):
    monkeypatch.setattr(common, "FAST_BFLOAT16", False)

    def stand_in(body):
        for _ in range(4):
            body()
        return body

    found = []
    for name, capture in (("plain", None), ("replayed", stand_in)):
        monkeypatch.setattr(common, "Updates", partial(Updates, capture=capture))
        found.append(train(name, average=0.9)[0])
    for k, x in found[0].items():
        torch.testing.assert_close(found[1][k], x, atol=2e-5, rtol=1e-4, msg=lambda m, k=k: f"{k}: {m}")


def test_a_loss_that_is_not_finite_ends_a_training_run_in_words(train, monkeypatch):
    monkeypatch.setattr(common, "Updates", partial(Updates, capture=None))
    with pytest.raises(ValueError, match="^the spoilt loss is nan at update 1: lower the learning rate$"):
        train("spoilt", lr=float("nan"))


# ---- disjoint lessons ---------------------------------------------------------------------------------------------


def test_no_two_networks_that_look_at_images_learn_from_the_same_renders_or_worn_images(pipe, tmp_path, monkeypatch):
    started, labelled, worn = [], judges.labelled, judges.worn
    def noted(rng, count, flawed_share):
        started.append(str(rng.bit_generator.state))
        return labelled(rng, 5, flawed_share=flawed_share)

    monkeypatch.setattr(judges, "labelled", noted)
    monkeypatch.setattr(judges, "worn", lambda pipe, network, part: worn(pipe, network, part, count=5))
    for name, value in (("CACHE", tmp_path), ("WORN_PARTS", 2), ("MORE_PARTS", 1), ("BATCH", 10)):
        monkeypatch.setattr(judges, name, value)
    for network, more in itertools.product(judges.OWN_SEED, (False, True)):
        draw = judges.lessons(pipe, network, more)
        for step in range(2):
            pixels, classes = draw(step)
            assert pixels.shape == (10, 3, 64, 64) and classes.shape == (10, 4)
    assert len(set(started)) == len(started) == 7 * len(judges.OWN_SEED)  # three parts that are worn, four updates


def test_a_flawed_scene_keeps_its_classes_and_a_spoiled_one_loses_its_object():
    flawed, classes, scenes = judges.labelled(np.random.default_rng(7), 200, bad_share=0.0, flawed_share=1.0)
    clean, _, same = judges.labelled(np.random.default_rng(7), 1, bad_share=0.0)
    assert same[0] == scenes[0] and (flawed[0] != clean[0]).any()
    assert classes.tolist() == [[truth(s)[h] for h in HEADS] for s in scenes]
    read = judges.right(look(load_judge("b"), flawed), scenes)
    assert read["colour"].mean() > 0.85 and read["background"].mean() > 0.95
    spoiled = judges.labelled(np.random.default_rng(7), 200, bad_share=1.0)[1]
    assert not (spoiled == classes).all(1).any()


def test_cards_say_which_renders_a_network_learnt_from_and_none_are_named_twice():
    named = []
    for network, seed in judges.OWN_SEED.items():
        card = json.loads((MODELS / network / "card.json").read_text("utf-8"))
        named += [tuple(s) for s in card["seeds of its renders, worn images"]]
        assert named[-2:] == [(17, seed, "update"), (13, seed, "part")]
    assert len(set(named)) == len(named)
