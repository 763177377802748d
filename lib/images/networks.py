"""The networks that look at images: the two judges, and the feature networks behind distances between sets of images.

The simulated raters see through judge-a (convolutional); judge-b (a transformer) never labels anything and audits every
result. Both also recognise what is not a clean scene: no object or more than six, mixed or unrecognisable objects.
"""

import torch
import torch.nn.functional as F
from torch import nn

from lib.world.scenes import BACKGROUNDS, COLOURS, OBJECTS

COLOUR_CLASSES = (None, *COLOURS)  # None: the object's natural colours
HEADS = {
    "count": 8,  # none, one to six, more than six
    "colour": len(COLOUR_CLASSES) + 1,  # the last: mixed or none
    "object": len(OBJECTS) + 1,  # the last: mixed or unrecognisable
    "background": len(BACKGROUNDS),
}


class Residual(nn.Module):
    """Two 3 x 3 convolutions with group normalisation and a skip connection."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(8, width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(8, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(F.relu(x))))))


class ConvolutionalTrunk(nn.Module):
    """float [image, 3, 64, 64] in [-1, 1] to [image, width, 8, 8]: residual blocks at resolutions 16 x 16 and 8 x 8."""

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
    """float [image, 3, 64, 64] in [-1, 1] to [image, width, 8, 8]: attention over 8 x 8 positions."""

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
    """Mean and maximum over positions: float [image, channel, height, width] to [image, 2 x channel]."""
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
    """Logits by head, a dict of float [image, class], for float images [image, 3, 64, 64] in [-1, 1].

    Objects are counted by a sum: each position gives a number in (0, 1), the degree to which it stands for one object, and
    the closer a count is to their sum, the more likely it is.
    """

    def __init__(self, kind: str):
        super().__init__()
        trunks = {"a": ConvolutionalTrunk, "b": TransformerTrunk}
        if kind not in trunks:
            raise ValueError(f"unknown judge {kind!r}: expected one of {', '.join(trunks)}")
        self.trunk = trunks[kind]()
        self.heads = nn.ModuleDict({name: nn.Linear(2 * self.trunk.width, n) for name, n in HEADS.items()})
        self.one_here = nn.Conv2d(self.trunk.width, 1, 1)
        nn.init.constant_(self.one_here.bias, -3.0)  # starts at about three objects

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        grid = self.trunk(x)
        logits = {name: head(pooled(grid)) for name, head in self.heads.items()}
        total = self.one_here(grid).float().sigmoid().sum((1, 2, 3))
        away = total[:, None] - torch.arange(HEADS["count"], device=x.device)
        return logits | {"count": logits["count"] - 4 * away.square()}


class FeatureNet(nn.Module):
    """64 features, float [image, 64], of a small network trained to predict attributes. The default trunk is for the Fréchet
    distance, `StridedTrunk()` for votes on fidelity."""

    def __init__(self, trunk: nn.Module | None = None):
        super().__init__()
        self.trunk = ConvolutionalTrunk(64, blocks=1) if trunk is None else trunk
        self.features = nn.Linear(2 * self.trunk.width, 64)
        self.heads = nn.ModuleDict({name: nn.Linear(64, n) for name, n in HEADS.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(pooled(self.trunk(x)))


class GroupNorm(nn.GroupNorm):
    """Group normalisation for images in the channels-last order, where PyTorch's own takes six times as long on a CPU in
    bfloat16 as in the usual order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.bfloat16 or x.device.type != "cpu" or x.dim() != 4:
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


def channels_last(network: nn.Module) -> nn.Module:
    """The network with its weights in the channels-last order and a group normalisation that is fast there."""
    for module in network.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = GroupNorm
    return network.to(memory_format=torch.channels_last)
