"""Judges: two classifiers of different make that read count, colour, object and background off an image.

judge-a (convolutions) is the eye of the simulated raters; judge-b (a transformer) never labels anything and audits every
result. Both also know what is no clean scene: none or more than six objects, mixed or unrecognisable ones.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lib.cache import Artifact, load_arrays, save_arrays, stage
from lib.checks import finite
from lib.prompts import Attributes, parse
from lib.sampling import load_images, to_pixels
from lib.world import BACKGROUNDS, COLOURS, OBJECTS, Scene

COLOUR_CLASSES = (None, *COLOURS)  # None is an object's natural colours
HEADS = {
    "count": 8,  # none, one to six, more than six
    "colour": len(COLOUR_CLASSES) + 1,  # the last: mixed or none
    "object": len(OBJECTS) + 1,  # the last: mixed or unrecognisable
    "background": len(BACKGROUNDS),
}


class Residual(nn.Module):
    """Two 3 x 3 convolutions with group normalisation around a skip."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(8, width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(8, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(F.relu(x))))))


class ConvolutionalTrunk(nn.Module):
    """float [image, 3, 64, 64] in [-1, 1] to [image, width, 8, 8]: residual blocks at 16 x 16 and 8 x 8 places."""

    def __init__(self, width: int = 96, blocks: int = 2):
        super().__init__()
        half = width // 2
        self.layers = nn.Sequential(
            nn.Conv2d(3, half, 4, stride=4), Residual(half), Residual(half),
            nn.Conv2d(half, width, 2, stride=2), *(Residual(width) for _ in range(blocks)), nn.ReLU(),
        )  # fmt: skip
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class TransformerTrunk(nn.Module):
    """float [image, 3, 64, 64] in [-1, 1] to [image, width, 8, 8]: attention over 8 x 8 places."""

    def __init__(self, width: int = 128, blocks: int = 3):
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(3, 64, 4, stride=4), Residual(64), nn.Conv2d(64, width, 2, stride=2))
        self.place = nn.Parameter(0.02 * torch.randn(1, 64, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 3 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.blocks(self.patches(x).flatten(2).transpose(1, 2) + self.place))
        return x.transpose(1, 2).unflatten(2, (8, 8))


def pooled(grid: torch.Tensor) -> torch.Tensor:
    """Mean and maximum over places: float [image, channel, height, width] to [image, 2 x channel]."""
    return torch.cat([grid.mean((2, 3)), grid.amax((2, 3))], 1)


class StridedTrunk(nn.Module):
    """float [image, 3, 64, 64] in [-1, 1] to [image, width, 4, 4]: four plain convolutions of stride 2."""

    def __init__(self, width: int = 128):
        super().__init__()
        widths = (3, width // 4, width // 2, 3 * width // 4, width)
        layers = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Judge(nn.Module):
    """Logits by head, dict of float [image, class], from float images [image, 3, 64, 64] in [-1, 1].

    Counts are counted: each place says how far it stands for one object, and the nearer their sum, the likelier a number.
    """

    def __init__(self, kind: str):
        super().__init__()
        trunks = {"a": ConvolutionalTrunk, "b": TransformerTrunk}
        if kind not in trunks:
            raise ValueError(f"unknown judge {kind!r}: one of {', '.join(trunks)}")
        self.trunk = trunks[kind]()
        self.heads = nn.ModuleDict({name: nn.Linear(2 * self.trunk.width, n) for name, n in HEADS.items()})
        self.one_here = nn.Conv2d(self.trunk.width, 1, 1)
        nn.init.constant_(self.one_here.bias, -3.0)  # three objects to begin with

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        grid = self.trunk(x)
        logits = {name: head(pooled(grid)) for name, head in self.heads.items()}
        total = self.one_here(grid).float().sigmoid().sum((1, 2, 3))
        away = total[:, None] - torch.arange(HEADS["count"], device=x.device)
        return logits | {"count": logits["count"] - 4 * away.square()}


class FeatureNet(nn.Module):
    """64 features, float [image, 64], from a small network trained on attributes: for the Fréchet distance, unless given
    another trunk: `StridedTrunk()` for votes on fidelity."""

    def __init__(self, trunk: nn.Module | None = None):
        super().__init__()
        self.trunk = ConvolutionalTrunk(64, blocks=1) if trunk is None else trunk
        self.features = nn.Linear(2 * self.trunk.width, 64)
        self.heads = nn.ModuleDict({name: nn.Linear(64, n) for name, n in HEADS.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(pooled(self.trunk(x)))


@torch.no_grad()
def look(judge: Judge, images: np.ndarray, batch: int = 256) -> dict[str, np.ndarray]:
    """Class probabilities by head, float32 [image, class], for uint8 images [image, 64, 64, 3]."""
    device = next(judge.parameters()).device
    parts = []
    for i in range(0, len(images), batch):
        logits = judge(to_pixels(images[i : i + batch]).to(device).contiguous(memory_format=torch.channels_last))
        parts.append({k: finite(f"logits of {k}", v).float().softmax(1).cpu().numpy() for k, v in logits.items()})
    return {k: np.concatenate([p[k] for p in parts]) for k in HEADS}


def _rows(named: Attributes) -> dict[str, list[int]]:
    """The classes by head that make true what a prompt names."""
    rows = {"object": [OBJECTS.index(named.object)]}
    if named.count is not None:
        rows["count"] = [named.count]
    if named.colour is not None:
        rows["colour"] = [COLOUR_CLASSES.index(c) for c in named.colours_that_satisfy()]
    if named.background is not None:
        rows["background"] = [BACKGROUNDS.index(named.background)]
    return rows


def _finite(seen: dict[str, np.ndarray]) -> None:
    for head, chances in seen.items():
        finite(f"chances of {head}", chances)


def attribute_chances(seen: dict[str, np.ndarray], prompts: Sequence[str]) -> list[dict[str, float]]:
    """For each image, the chance in [0, 1] that each attribute named by its prompt is right (the object always is named)."""
    _finite(seen)
    wanted = {p: _rows(parse(p)) for p in set(prompts)}
    return [
        {head: float(seen[head][i, rows].sum()) for head, rows in wanted[p].items()} for i, p in enumerate(prompts)
    ]


def verdicts(seen: dict[str, np.ndarray], prompts: Sequence[str]) -> np.ndarray:
    """Whether the most likely class of every named attribute is a right one: bool [image]."""
    _finite(seen)  # the most likely class of NaN would be the first
    wanted = {p: _rows(parse(p)) for p in set(prompts)}
    best = {head: p.argmax(1) for head, p in seen.items()}
    return np.array([all(best[h][i] in rows for h, rows in wanted[p].items()) for i, p in enumerate(prompts)])


def truth(scene: Scene) -> dict[str, int]:
    """The right class by head for a clean scene."""
    return {
        "count": scene.count, "colour": COLOUR_CLASSES.index(scene.colour), "object": OBJECTS.index(scene.object),
        "background": BACKGROUNDS.index(scene.background),
    }  # fmt: skip


def looked_at(images: Artifact, load: Callable[[], Judge], digest: str) -> dict[str, np.ndarray]:
    """The stage of a judge's chances by head [image, class] of a set of images; `digest` is of the judge's weights."""

    def make(folder) -> None:
        save_arrays(folder / "chances.safetensors", look(load(), load_images(images).pixels))

    found = stage("looks", {}, {"images": images, "judge": digest}, make, ("lib.models", load))
    return load_arrays(found.path / "chances.safetensors")
