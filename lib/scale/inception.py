"""Inception-v3 as the Fréchet Inception Distance uses it, and the four ways in which implementations bring images to it.

The weights are the TensorFlow model of 2015-12-05, in the PyTorch form that pytorch-fid and torch-fidelity share (.pth, 95
MB) or in the TorchScript form of StyleGAN and clean-fid (.pt). Implementations differ in resizing to 299 px and in scale:

    pytorch-fid     bilinear without antialiasing, (x - 127.5) / 127.5
    torch-fidelity  as TensorFlow 1: bilinear, corner-aligned on the left; (x - 128) / 128; torchmetrics before 1.8
    torchmetrics    bilinear with antialiasing, (x - 128) / 128; since 1.8
    clean-fid       Pillow's bicubic on floats (Parmar et al. 2022), (x - 128) / 128
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from lib.ground.cache import file_digest

SIDE, CLASSES = 299, 1008


def bilinear(x: torch.Tensor, antialias: bool = False) -> torch.Tensor:
    """float [image, 3, height, width] to 299 px, half-pixel centres."""
    return F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=antialias)


def like_tensorflow(x: torch.Tensor) -> torch.Tensor:
    """float [image, 3, height, width] to 299 px as TensorFlow 1 resizes: output pixel i shows input position i x scale."""
    for axis in (2, 3):
        length = x.shape[axis]
        at = torch.arange(SIDE, dtype=torch.float64, device=x.device) * (length / SIDE)
        low = at.floor().long().clamp_max(length - 1)
        share = (at - low).to(x.dtype).view([-1 if k == axis else 1 for k in range(4)])
        first, second = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp_max(length - 1))
        x = first + share * (second - first)
    return x


def pillow_bicubic(x: torch.Tensor) -> torch.Tensor:
    """float [image, 3, height, width] to 299 px by Pillow, one channel at a time, clipped to [0, 255] but not rounded."""
    planes = x.cpu().numpy().reshape(-1, *x.shape[2:])
    resized = [np.asarray(Image.fromarray(p).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for p in planes]
    return torch.from_numpy(np.stack(resized).clip(0, 255)).view(*x.shape[:2], SIDE, SIDE).to(x.device)


IMPLEMENTATIONS: dict[str, tuple[Callable, float]] = {  # resize, and the grey value that becomes 0
    "pytorch-fid": (bilinear, 127.5),
    "torch-fidelity": (like_tensorflow, 128.0),
    "torchmetrics": (lambda x: bilinear(x, antialias=True), 128.0),
    "clean-fid": (pillow_bicubic, 128.0),
}


def prepared(images: np.ndarray, implementation: str, device: torch.device | str = "cpu") -> torch.Tensor:
    """What an implementation feeds to the network, float32 [image, 3, 299, 299], of uint8 [image, height, width, 3]."""
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"unknown implementation {implementation!r}: expected one of {', '.join(IMPLEMENTATIONS)}")
    resize, grey = IMPLEMENTATIONS[implementation]
    return (resize(torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()) - grey) / grey


class Layers(torch.nn.Module):
    """2,048 features, float [image, 2048], of prepared images: torchvision's Inception-v3, pooling as TensorFlow does."""

    def __init__(self):
        super().__init__()
        from torchvision.models.inception import Inception3

        self.network = Inception3(num_classes=CLASSES, aux_logits=False, init_weights=False)
        self.network.dropout, self.network.fc = torch.nn.Identity(), torch.nn.Identity()
        for name in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b"):
            _repool(getattr(self.network, f"Mixed_{name}"), lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
        _repool(self.network.Mixed_7c, lambda x: F.max_pool2d(x, 3, 1, 1))  # sic: a slip in the TensorFlow model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


def _repool(block: torch.nn.Module, pool: Callable) -> None:
    """Make the pooling branch of an Inception block pool by `pool`: its convolution gets that in place of what comes."""
    given = []
    block.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    block.branch_pool.register_forward_pre_hook(lambda _, args: (pool(given.pop()),))


def load_inception(weights: Path, sha256: str = "", device: torch.device | str = "cpu") -> torch.nn.Module:
    """The network in a file, from prepared images to features [image, feature].

    Raises FileNotFoundError or ValueError in one line if the file is missing, has another SHA-256 sum or other contents.
    """
    if not weights.exists():
        raise FileNotFoundError(f"there are no Inception weights at {weights}: fetch them, or correct fidelity.weights")
    if sha256 and (found := file_digest(weights)) != sha256:
        raise ValueError(f"{weights} has SHA-256 {found}, but fidelity.sha256 says {sha256}: fetch it again")
    try:
        if weights.suffix == ".pt":
            with warnings.catch_warnings():  # the published file has this form
                warnings.simplefilter("ignore", FutureWarning)
                network = torch.jit.load(weights, map_location="cpu").layers
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            network = Layers()
            network.network.load_state_dict({k: v for k, v in state.items() if not k.startswith(("fc.", "AuxLogits."))})
    except (RuntimeError, AttributeError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{weights} does not contain the Inception network ({reason}): fetch it again") from None
    return network.eval().to(device)
