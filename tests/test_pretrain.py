"""What pre-training shares: the contrastive loss."""

import math

import torch

from lib.precision import DEVICE
from pretrain.clip import contrastive_loss


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
