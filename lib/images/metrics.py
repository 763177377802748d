"""Fidelity and diversity: Fréchet and kernel distance on our own features through torchmetrics, and what goes with them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lib.ground.checks import finite
from lib.ground.precision import at_once
from lib.ground.seeds import rng_of, torch_seed
from lib.images.sampling import to_pixels


class Given(nn.Module):
    """Features that were computed before, in torchmetrics' form."""

    def __init__(self, dimension: int):
        super().__init__()
        self.num_features = dimension

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


@torch.no_grad()
def features(network: nn.Module, images: np.ndarray, batch: int | None = None) -> np.ndarray:
    """Features float64 [image, feature] of uint8 images [image, height, width, 3]."""
    device, batch = next(network.parameters()).device, batch or at_once(256)
    parts = [network(to_pixels(images[i : i + batch], device)).cpu().numpy() for i in range(0, len(images), batch)]
    return finite("features", np.concatenate(parts)).astype(np.float64)


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Fréchet distance of two sets of features [image, feature]; at least 0. Heusel et al. 2017.

    Raises ValueError on fewer images a side than features, as its covariance would be singular, and on features that are
    not finite, or so large that their squares are not. Below 0 is rounding, which the features' variance measures.
    """
    if min(len(real), len(fake)) < real.shape[1]:
        raise ValueError(f"need at least {real.shape[1]} images a side, got {len(real)} and {len(fake)}")
    with np.errstate(over="ignore", invalid="ignore"):
        spread = float((finite("real features", real).var(0) + finite("generated features", fake).var(0)).sum())
        finite("the square of the features' variance", spread * spread)
    from torchmetrics.image.fid import FrechetInceptionDistance  # seconds to import

    metric = FrechetInceptionDistance(feature=Given(real.shape[1]), normalize=False).set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(fake), real=False)
    distance = finite("the Fréchet distance", float(metric.compute()))
    if distance < -1e-3 * spread:
        raise ValueError(f"the Fréchet distance came out as {distance:.3g}, below 0 by more than rounding")
    return max(0.0, distance)


def kernel_distance(real: np.ndarray, fake: np.ndarray, seed: int = 0) -> float:
    """Kernel distance x 1000 (polynomial kernel, unbiased, mean of 20 subsets of half) of features in units of the real
    ones' spread. Binkowski et al. 2018. Raises ValueError on fewer than 4 images a side, or where nothing varies."""
    size, unit = min(len(real), len(fake)) // 2, finite("real features", real).std(0).mean()
    if size < 2 or not 0 < unit < np.inf:
        counts = f"{len(real)} and {len(fake)}"
        raise ValueError(f"need at least 4 images a side that differ, got {counts}, of spread {unit:.3g} where real")
    real, fake = (x / unit for x in (real, finite("generated features", fake)))
    from torchmetrics.image.kid import KernelInceptionDistance

    metric = KernelInceptionDistance(feature=Given(real.shape[1]), subsets=20, subset_size=size, normalize=False)
    metric = metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(fake), real=False)
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(seed))
        return finite("the kernel distance", 1000 * float(metric.compute()[0]))


@dataclass(frozen=True)
class Distance:
    """A distance with its 95 % interval over images."""

    value: float
    low: float
    high: float
    n: int


def distance_with_interval(real: np.ndarray, fake: np.ndarray, draws: int = 20, seed: int = 0) -> Distance:
    """Fréchet distance of all images, with an interval from `draws` subsamples without replacement.

    Half of the images a side are drawn each time (a pair of real and generated images of one caption stays together). Around
    the whole sample's value the halves spread as whole samples do around the population's; their bias, larger because there
    are fewer of them, is not carried over: the interval is centred on the value.
    """
    if len(real) != len(fake):
        raise ValueError(f"need as many real as generated images, got {len(real)} and {len(fake)}")
    if draws < 2:
        raise ValueError(f"an interval needs at least 2 draws, got {draws}")
    rng = rng_of(seed)
    value = frechet_distance(real, fake)
    halves = [rng.permutation(len(real))[: max(len(real) // 2, real.shape[1])] for _ in range(draws)]
    if len(halves[0]) == len(real):
        return Distance(value, value, value, len(real))
    spread = 1.96 * float(np.std([frechet_distance(real[h], fake[h]) for h in halves], ddof=1))
    return Distance(value, max(0.0, value - spread), value + spread, len(real))


def inception_score(chances: np.ndarray) -> float:
    """exp of the mean divergence of each image's class chances [image, class] from their mean; 1 to the number of classes.

    Salimans et al. 2016, on whatever classifier gave the chances; in one piece, as images are few.
    """
    p = finite("class chances", np.asarray(chances, float)) + 1e-12
    if (p < 0).any():
        raise ValueError(f"class chances lie in [0, 1], got {p.min():.3g}")
    return float(np.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean()))


def diversity(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Mean Euclidean distance of features [image, feature] between two images of a group (prompt): float [group]."""
    out, x = [], finite("features", x)
    for group in dict.fromkeys(groups):
        rows = x[groups == group]
        if len(rows) < 2:
            raise ValueError(f"diversity needs at least two images a prompt, {str(group)!r} has {len(rows)}")
        gaps = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
        out.append(gaps[np.triu_indices(len(rows), 1)].mean())
    return np.array(out)


def colourfulness(images: np.ndarray) -> np.ndarray:
    """How saturated images uint8 [image, height, width, 3] are: float [image], 0 for grey ones.

    Hasler & Süsstrunk 2003, Measuring colourfulness in natural images (M3), in units of 8-bit values.
    """
    r, g, b = np.moveaxis(finite("pixels", images).astype(float), -1, 0)
    opponents = np.stack([r - g, (r + g) / 2 - b]).reshape(2, len(images), -1)
    return np.hypot(*opponents.std(2)) + 0.3 * np.hypot(*opponents.mean(2))
