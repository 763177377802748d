"""What pre-training shares: the contrastive loss, the text tower in two formats, and texts with what they name."""

import math

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from lib.ground.precision import DEVICE
from lib.images.models import MODELS
from lib.methods.adaptation import PREFIX
from lib.study.wu import ADAPTATIONS
from lib.world.prompts import parse
from pretrain.clip import contrastive_loss, make_clip, model_config, take_text_encoder, text_encoder
from pretrain.mini_clip import NAMED, RESNET, said
from pretrain.unet import NO_CAPTION


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
