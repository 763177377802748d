"""Fidelity and diversity: Fréchet distance on our own features (by torchmetrics), its intervals, and other measures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from lib.ground.checks import finite
from lib.ground.precision import at_once
from lib.ground.seeds import rng_of
from lib.images.sampling import to_pixels


class Given(nn.Module):
    """Precomputed features, in the form that torchmetrics expects."""

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
    """Fréchet distance between two sets of features [image, feature]; at least 0. Heusel et al. 2017.

    Raises ValueError if either set has fewer images than features (its covariance would be singular), and on features that
    are not finite or whose squares are not. Values below 0 by no more than rounding, relative to the variance, become 0.
    """
    if min(len(real), len(fake)) < real.shape[1]:
        raise ValueError(f"need at least {real.shape[1]} images per side, got {len(real)} and {len(fake)}")
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


@dataclass(frozen=True)
class Distance:
    """A distance with its 95 % interval over images."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Change:
    """Difference of two distances to the same real images, also relative to the second; 95 % intervals over images."""

    value: float
    low: float
    high: float
    relative: float
    relative_low: float
    relative_high: float
    n: int


@dataclass(frozen=True)
class Band:
    """The range of a distance due to chance alone, over `draws` sets of `n` images."""

    mean: float
    lowest: float
    highest: float
    draws: int
    n: int


def _with_halves(
    real: np.ndarray, fakes: list[np.ndarray], draws: int, seed: int, clusters: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fréchet distances of whole sets, float [set], and of `draws` halves, [draw, set], with the same rows of each set.

    Halves are drawn without replacement, by image or by `clusters` [image] (prompts), and have at least as many images as
    features; if that takes all images, they do not vary.
    """
    if any(len(fake) != len(real) for fake in fakes):
        counts = " and ".join(str(len(x)) for x in (real, *fakes))
        raise ValueError(f"need as many real as generated images, got {counts}")
    if draws < 2:
        raise ValueError(f"an interval needs at least 2 draws, got {draws}")
    member = np.arange(len(real)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    if len(member) != len(real):
        raise ValueError(f"need one cluster per image, got {len(member)} for {len(real)} images")
    members = np.split(np.argsort(member, kind="stable"), np.bincount(member).cumsum()[:-1])
    whole, rng, halves = np.array([frechet_distance(real, fake) for fake in fakes]), rng_of(seed), []
    for _ in range(draws):
        order = [members[c] for c in rng.permutation(len(members))]
        enough = 1 + np.searchsorted(np.cumsum([len(m) for m in order]), real.shape[1])
        halves.append(np.concatenate(order[: max(len(order) // 2, enough)]))
    if any(len(h) == len(real) for h in halves):
        return whole, np.stack([whole, whole])
    return whole, np.array([[frechet_distance(real[h], fake[h]) for fake in fakes] for h in halves])


def distance_with_interval(
    real: np.ndarray, fake: np.ndarray, draws: int = 20, seed: int = 0, clusters: ArrayLike | None = None
) -> Distance:
    """Fréchet distance of all images, with an interval from `draws` subsamples without replacement.

    Each draw takes half of the images on both sides (the real and the generated image of a caption stay together), or half
    of the `clusters` [image], that is, prompts, whose images resemble each other or are duplicates. Halves vary around the
    value of the whole sample as whole samples vary around the population's. Being smaller, halves have a larger bias; the
    interval does not inherit it, because it is centred on the whole sample's value.
    """
    (value,), halves = _with_halves(real, [fake], draws, seed, clusters)
    spread = 1.96 * halves.std(0, ddof=1).item()
    return Distance(float(value), max(0.0, value - spread), value + spread, len(real))


def distance_change(
    real: np.ndarray, fake: np.ndarray, other: np.ndarray, draws: int = 20, seed: int = 0, clusters: ArrayLike | None = None
) -> Change:
    """Fréchet distance of `fake` minus that of `other`, both to `real`, and this difference relative to `other`'s distance.

    Row i of all three belongs to one caption, and both models are measured on the same halves (`distance_with_interval`), so
    a half's difficulty for both cancels out. The relative difference is a ratio, whose interval comes from linearising it
    about the whole sample's value. Raises ValueError if the distance of `other` is 0.
    """
    (mine, base), halves = _with_halves(real, [fake, other], draws, seed, clusters)
    if base <= 0:
        raise ValueError("the other model is at distance 0 from the real images: a difference relative to that is undefined")
    value, relative = float(mine - base), float(mine / base - 1)
    spread = 1.96 * float((halves[:, 0] - halves[:, 1]).std(ddof=1))
    share = 1.96 * float((halves[:, 0] - (1 + relative) * halves[:, 1]).std(ddof=1) / base)
    return Change(value, value - spread, value + spread, relative, relative - share, relative + share, len(real))


def floor_band(real: np.ndarray, redraws: Sequence[np.ndarray]) -> Band:
    """Fréchet distances of sets that a perfect model could have drawn: mean, lowest and highest over `redraws`.

    Each set is features [image, feature] of new scenes for the real images' captions (`web.redrawn`), as many as there are
    real images. Raises ValueError on fewer than 8 sets, whose lowest and highest would say little.
    """
    if len(redraws) < 8:
        raise ValueError(f"a band needs at least 8 draws, got {len(redraws)}")
    if any(len(x) != len(real) for x in redraws):
        raise ValueError(f"need as many redrawn as real images, got {[len(x) for x in redraws]} and {len(real)}")
    found = [frechet_distance(real, x) for x in redraws]
    return Band(float(np.mean(found)), min(found), max(found), len(found), len(real))


def inception_score(chances: np.ndarray) -> float:
    """exp of the mean KL divergence of images' class probabilities [image, class] from their mean; 1 to number of classes.

    Salimans et al. 2016, with any classifier; computed on all images at once, without splits, as there are few.
    """
    p = finite("class probabilities", np.asarray(chances, float)) + 1e-12
    if (p < 0).any():
        raise ValueError(f"class probabilities must be in [0, 1], got {p.min():.3g}")
    return float(np.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean()))


def diversity(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Mean Euclidean distance in features [image, feature] between two images of a group (prompt): float [group]."""
    out, x = [], finite("features", x)
    for group in dict.fromkeys(groups):
        rows = x[groups == group]
        if len(rows) < 2:
            raise ValueError(f"diversity needs at least two images per prompt, but {str(group)!r} has {len(rows)}")
        gaps = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
        out.append(gaps[np.triu_indices(len(rows), 1)].mean())
    return np.array(out)


def colourfulness(images: np.ndarray) -> np.ndarray:
    """How colourful images are, uint8 [image, height, width, 3]: float [image], 0 for grey ones.

    Hasler & Süsstrunk 2003, Measuring colourfulness in natural images (M3), in units of 8-bit values.
    """
    r, g, b = np.moveaxis(finite("pixels", images).astype(float), -1, 0)
    opponents = np.stack([r - g, (r + g) / 2 - b]).reshape(2, len(images), -1)
    return np.hypot(*opponents.std(2)) + 0.3 * np.hypot(*opponents.mean(2))
