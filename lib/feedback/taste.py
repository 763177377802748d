"""Taste: what simulated users see in an image, and how much each of them likes it.

Wu et al. 2023, section 3. Users see through judge-a how well an image fits its prompt, through the features of votes on
fidelity how real it looks, and in its pixels the size, placement and vividness. No audit uses any of this.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lib.feedback.judges import match
from lib.feedback.votes import spread_within
from lib.ground.cache import Artifact, load_arrays, save_arrays, stage
from lib.ground.checks import finite
from lib.ground.domains import check
from lib.ground.seeds import normals
from lib.images.metrics import colourfulness
from lib.images.sampling import load_images

TRAITS = ("match", "realism", "size", "placement", "vividness")
CERTAINTY = 3.5  # logits of match are clipped here, as for the raters of the panel
PAPER_GUESS = 0.42  # how often people guessed which image another person had chosen (Table 2)
PAPER_LAST = 0.311  # how often the last of four images is chosen
MOST = 4  # images per group, at most


@dataclass(frozen=True)
class TasteSpec:
    """What simulated users like. Weights: liking per standard deviation of a trait among the base's images of one prompt."""

    match: float = 1.0
    realism: float = 0.4
    size: float = 0.6
    placement: float = 0.4
    vividness: float = 0.6
    spread: float = 0.3  # standard deviation, across users, of each of these weights
    noise: float = 1.0  # scale of the Gumbel noise in a choice; see `calibrated`
    last: float = (PAPER_LAST - 1 / MOST) / (1 - 1 / MOST)  # probability of taking the last image unseen: 0.0813

    def __post_init__(self):
        check(self, spread="in [0, inf)", noise="in (0, inf)", last="in [0, 1)")


def user(number: int) -> str:
    """The name of a simulated user."""
    return f"user-{number:05d}"


# ---- what users see ----------------------------------------------------------------------------------------------


def foreground(images: np.ndarray, away: float = 40.0) -> np.ndarray:
    """Pixels that stand out from the median of their row by more than `away` (8-bit units): bool [image, height, width]."""
    x = finite("pixels", images).astype(np.float32)
    return np.abs(x - np.median(x, 2, keepdims=True)).max(-1) > away


def size_and_placement(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For uint8 images [image, height, width, 3]: the share of pixels that stand out, in [0, 1], and how central they are,
    from -1 (a corner) to 0 (the centre, or nothing stands out): float [image] each."""
    shown = foreground(images)
    total = shown.sum((1, 2))
    ends = [(np.arange(n) - (n - 1) / 2) / (n / 2) for n in shown.shape[1:]]
    y, x = ((shown * at).sum((1, 2)) / np.maximum(total, 1) for at in (ends[0][:, None], ends[1]))
    return total / shown[0].size, -np.hypot(x, y) / np.sqrt(2)


def traits(
    seen: dict[str, np.ndarray], prompts: Sequence[str], realism: np.ndarray, pixels: np.ndarray
) -> np.ndarray:
    """The TRAITS of images for their prompts, each in its own unit: float [image, trait].

    `seen` are judge-a's probabilities by head [image, class]; `realism` [image]; `pixels` uint8 [image, height, width, 3].
    """
    fits = match(seen, prompts, CERTAINTY)
    return np.stack([fits, finite("realism", realism), *size_and_placement(pixels), colourfulness(pixels)], 1)


def looked_at(
    images: Artifact, seen: Callable[[], dict[str, np.ndarray]], realism: Callable[[np.ndarray], np.ndarray],
    inputs: Mapping[str, Artifact | str],
) -> np.ndarray:
    """The stage of the traits of a set of images, float [image, trait]; `inputs` are digests of what users see with."""

    def make(folder: Path) -> None:
        shown = load_images(images)
        found = traits(seen(), shown.prompts, realism(shown.pixels), shown.pixels)
        save_arrays(folder / "traits.safetensors", {"traits": found})

    found = stage("traits", {}, {"images": images, **inputs}, make, ("lib.images.models", seen, realism))
    return load_arrays(found.path / "traits.safetensors")["traits"]


def trait_units(values: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """The standard deviation of each trait among images of one prompt, pooled over prompts: float [trait]."""
    return np.array([spread_within(x, prompts) for x in values.T]) + 1e-9


# ---- what users like ---------------------------------------------------------------------------------------------


def weights(users: Sequence[str], spec: TasteSpec = TasteSpec()) -> np.ndarray:
    """Each user's weight for each trait: float [user, trait]; depends only on the user's name and the spec."""
    mean = np.array([getattr(spec, t) for t in TRAITS])
    return mean + spec.spread * np.stack([normals(users, "taste", t) for t in TRAITS], 1)


def chances(liking: np.ndarray, rows: np.ndarray, noise: float) -> np.ndarray:
    """The probability that each image of each group is chosen for what it shows, float [..., group, image].

    `liking` float [..., image]; `rows` int [group, MOST], the group's images, -1 where it has fewer. Softmax of
    liking / noise, which is the choice of the highest liking plus Gumbel noise (McFadden 1974).
    """
    if not 0 < noise < np.inf:
        raise ValueError(f"the noise of choices must be a finite number above 0, got {noise}")
    given = np.where(rows >= 0, finite("liking", np.asarray(liking, float))[..., rows], -np.inf) / noise
    p = np.exp(given - given.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def last_place(rows: np.ndarray) -> np.ndarray:
    """The position of each group's last image: int [group]."""
    return (rows >= 0).sum(1) - 1


def expected_guess(liking: np.ndarray, rows: np.ndarray, spec: TasteSpec) -> float:
    """How often one user, choosing by what the images show, picks what another user chose: in [0, 1], computed exactly.

    `liking` float [user, image]; the mean over groups and pairs of different users.
    """
    p = chances(liking, rows, spec.noise)
    users = len(p)
    same = (p.sum(0) ** 2 - (p**2).sum(0)).sum(-1) / (users * (users - 1))
    unseen = p.mean(0)[np.arange(len(rows)), last_place(rows)]
    return float(((1 - spec.last) * same + spec.last * unseen).mean())


def calibrated(
    values: np.ndarray, rows: np.ndarray, spec: TasteSpec, target: float = PAPER_GUESS, users: int = 64
) -> TasteSpec:
    """The spec with the noise at which one user guesses another's choice with probability `target`.

    `values` are traits in their units, float [image, trait]. Raises ValueError if no noise gives that probability.
    """
    liking = weights([user(n) for n in range(users)], spec) @ values.T
    low, high = 0.02, 50.0
    reached = [expected_guess(liking, rows, replace(spec, noise=x)) for x in (high, low)]
    if not reached[0] < target < reached[1]:
        span = f"only from {reached[0]:.0%} to {reached[1]:.0%}"
        raise ValueError(f"no noise level makes guesses right {target:.0%} of the time, {span}: use more prompts")
    for _ in range(40):
        middle = (low * high) ** 0.5
        right = expected_guess(liking, rows, replace(spec, noise=middle))
        low, high = (middle, high) if right > target else (low, middle)
    return replace(spec, noise=float(f"{middle:.4g}"))
