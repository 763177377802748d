"""Choices: simulated users, each with tastes of their own, pick one of two to four images of a prompt.

Wu et al. 2023, section 3. Users see how well an image fits its prompt through judge-a, and how real it looks in the features
of votes on fidelity; size, placement and vividness they see in the pixels. Nothing of this is used by any audit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from lib.cache import Artifact, atomic_write, load_arrays, save_arrays, stage
from lib.checks import finite
from lib.domains import check
from lib.judges import attribute_chances
from lib.labels import refuse_strangers
from lib.metrics import colourfulness
from lib.sampling import load_images
from lib.seeds import rng_of, seed_of
from lib.votes import spread_within

TRAITS = ("match", "realism", "size", "placement", "vividness")
OF_THE_IMAGE = TRAITS[1:]  # what an aesthetic predictor could see, without the prompt
MOST = 4  # images a group
CERTAINTY = 3.5  # logits of match are capped here, as the raters' of the panel are
PAPER_GUESS = 0.42  # how often people guessed which image another one had chosen (Table 2)
# Groups of four, three and two images among the 5,000 test choices, and how often the last of four is chosen.
PAPER_GROUPS = {4: 4737, 3: 166, 2: 97}
PAPER_LAST = 0.311


@dataclass(frozen=True)
class TasteSpec:
    """What simulated users like. Weights are in units of choice for one spread of the trait within the base's prompts."""

    match: float = 1.0
    realism: float = 0.4
    size: float = 0.6
    placement: float = 0.4
    vividness: float = 0.6
    spread: float = 0.3  # of each user's weight around each of these
    noise: float = 1.0  # scale of the Gumbel noise in a choice; see `calibrated`
    last: float = (PAPER_LAST - 1 / MOST) / (1 - 1 / MOST)  # the chance of taking the last image unseen: 0.0813

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
    """Of uint8 images [image, height, width, 3]: the share of the picture that stands out, in [0, 1], and how near to the
    middle it stands, from -1 (a corner) to 0 (the middle, or nothing stands out): float [image] each."""
    shown = foreground(images)
    total = shown.sum((1, 2))
    ends = [(np.arange(n) - (n - 1) / 2) / (n / 2) for n in shown.shape[1:]]
    y, x = ((shown * at).sum((1, 2)) / np.maximum(total, 1) for at in (ends[0][:, None], ends[1]))
    return total / shown[0].size, -np.hypot(x, y) / np.sqrt(2)


def traits(
    seen: dict[str, np.ndarray], prompts: Sequence[str], realism: np.ndarray, pixels: np.ndarray
) -> np.ndarray:
    """The TRAITS of images for their prompts, in units of their own: float [image, trait].

    `seen` are judge-a's chances by head [image, class], `realism` [image], `pixels` uint8 [image, height, width, 3].
    """
    p = np.array([np.prod(list(c.values())) for c in attribute_chances(seen, prompts)]).clip(1e-6, 1 - 1e-6)
    match = np.log(p / (1 - p)).clip(-CERTAINTY, CERTAINTY)
    return np.stack([match, finite("realism", realism), *size_and_placement(pixels), colourfulness(pixels)], 1)


def looked_at(
    images: Artifact, seen: Callable[[], dict[str, np.ndarray]], realism: Callable[[np.ndarray], np.ndarray],
    inputs: Mapping[str, Artifact | str],
) -> np.ndarray:
    """The stage of the traits of a set of images, float [image, trait]; `inputs` are the digests of what users see with."""

    def make(folder: Path) -> None:
        shown = load_images(images)
        found = traits(seen(), shown.prompts, realism(shown.pixels), shown.pixels)
        save_arrays(folder / "traits.safetensors", {"traits": found})

    found = stage("traits", {}, {"images": images, **inputs}, make, ("lib.models", seen, realism))
    return load_arrays(found.path / "traits.safetensors")["traits"]


def trait_units(values: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """The spread of each trait among images of one prompt, pooled over prompts: float [trait]."""
    return np.array([spread_within(x, prompts) for x in values.T]) + 1e-9


def groups(prompts: Sequence[str]) -> np.ndarray:
    """The images of each prompt, in order of first appearance: int [group, MOST], -1 where it has fewer."""
    places: dict[str, list[int]] = {}
    for i, p in enumerate(prompts):
        places.setdefault(p, []).append(i)
    if max(map(len, places.values())) > MOST:
        raise ValueError(f"a group has at most {MOST} images, one has {max(map(len, places.values()))}")
    return np.array([r + [-1] * (MOST - len(r)) for r in places.values()])


# ---- what users choose ---------------------------------------------------------------------------------------------


def weights(users: Sequence[str], spec: TasteSpec = TasteSpec()) -> np.ndarray:
    """Each user's weight of each trait: float [user, trait]; depends on the user's name and the spec alone."""
    mean = np.array([getattr(spec, t) for t in TRAITS])
    own = [rng_of(seed_of("taste", u)).standard_normal(len(TRAITS)) for u in users]
    return mean + spec.spread * np.array(own)


def chances(liking: np.ndarray, rows: np.ndarray, noise: float) -> np.ndarray:
    """The chance of each image of each group to be chosen for what it shows, float [..., group, image].

    `liking` float [..., image]; `rows` int [group, MOST], the group's images, -1 where it has fewer. Softmax of
    liking / noise: the choice of the highest liking with Gumbel noise (McFadden 1974).
    """
    if not 0 < noise < np.inf:
        raise ValueError(f"the noise of choices is a finite number above 0, got {noise}")
    given = np.where(rows >= 0, finite("liking", np.asarray(liking, float))[..., rows], -np.inf) / noise
    p = np.exp(given - given.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def last_place(rows: np.ndarray) -> np.ndarray:
    """The place of each group's last image: int [group]."""
    return (rows >= 0).sum(1) - 1


def with_position(p: np.ndarray, rows: np.ndarray, last: float) -> np.ndarray:
    """Chances [..., group, image] of users who, with the chance `last`, take the last image without a look."""
    at_end = np.arange(rows.shape[1]) == last_place(rows)[:, None]
    return (1 - last) * p + last * at_end


def expected_guess(liking: np.ndarray, rows: np.ndarray, spec: TasteSpec) -> float:
    """How often one user, choosing by what the images show, picks what another user chose: in [0, 1], exactly.

    `liking` float [user, image]; a mean over groups and pairs of different users.
    """
    p = chances(liking, rows, spec.noise)
    users = len(p)
    same = (p.sum(0) ** 2 - (p**2).sum(0)).sum(-1) / (users * (users - 1))
    unseen = p.mean(0)[np.arange(len(rows)), last_place(rows)]
    return float(((1 - spec.last) * same + spec.last * unseen).mean())


def calibrated(
    values: np.ndarray, rows: np.ndarray, spec: TasteSpec, target: float = PAPER_GUESS, users: int = 64
) -> TasteSpec:
    """The spec with the noise at which one user guesses another's choice right with the chance `target`.

    `values` traits in their units, float [image, trait]. Raises ValueError when no noise gives that chance.
    """
    liking = weights([user(n) for n in range(users)], spec) @ values.T
    low, high = 0.02, 50.0
    reached = [expected_guess(liking, rows, replace(spec, noise=x)) for x in (high, low)]
    if not reached[0] < target < reached[1]:
        span = f"from {reached[0]:.0%} to {reached[1]:.0%}"
        raise ValueError(f"no noise makes guesses right {target:.0%} of the time: {span}; take more prompts")
    for _ in range(40):
        middle = (low * high) ** 0.5
        right = expected_guess(liking, rows, replace(spec, noise=middle))
        low, high = (middle, high) if right > target else (low, middle)
    return replace(spec, noise=float(f"{middle:.4g}"))


def choose(
    values: np.ndarray, rows: np.ndarray, digests: Sequence[str], prompts: Sequence[str], users: Sequence[Sequence[str]],
    spec: TasteSpec, position: bool = True, coin: bool = False,
) -> pd.DataFrame:
    """What users choose: a table of SCHEMA with a row a group and user; `users` are the names for each group.

    `values` traits in their units [image, trait]; `digests` and `prompts` by image; `rows` int [group, MOST]. Without
    `position` nobody takes the last image unseen: a guess at what another one chose. With `coin` images do not matter.
    """
    finite("traits", values)
    out, names = [], sorted({u for group in users for u in group})
    taste = dict(zip(names, weights(names, spec), strict=True))
    for row, group in zip(rows, users, strict=True):
        row = row[row >= 0]
        shown, prompt = [digests[i] for i in row], prompts[row[0]]
        for name in group:
            kind = "coin" if coin else "choice" if position else "guess"
            rng = rng_of(seed_of(kind, name, prompt, *shown))
            p = chances(values[row] @ taste[name], np.arange(len(row))[None], spec.noise)[0]
            p = np.full(len(row), 1 / len(row)) if coin else p
            unseen = rng.random() < spec.last and position and not coin
            chosen = len(row) - 1 if unseen else int((rng.random() > p.cumsum()[:-1]).sum())
            out.append((prompt, shown, chosen, name, "", "simulated"))
    return checked(pd.DataFrame(out, columns=list(SCHEMA)))


# ---- the store -----------------------------------------------------------------------------------------------------

SCHEMA = {
    "prompt": "string",
    "images": "object",  # SHA-256 of the uint8 pixels of each image, in the order shown
    "chosen": "int64",  # its index
    "user": "string",
    "time": "string",  # ISO 8601, UTC; empty for simulated users
    "source": "string",  # as in lib.labels
}


def checked(table: pd.DataFrame) -> pd.DataFrame:
    """The table in the schema's columns and types; raises ValueError that says what is wrong with it."""
    if missing := [c for c in SCHEMA if c not in table]:
        raise ValueError(f"choice table lacks the column {missing[0]!r}: want {', '.join(SCHEMA)}")
    table = table[list(SCHEMA)].astype(SCHEMA).reset_index(drop=True)
    table["images"] = [list(images) for images in table.images]
    for i, (images, chosen) in enumerate(zip(table.images, table.chosen, strict=True)):
        if not 2 <= len(images) <= MOST or len(set(images)) < len(images):
            raise ValueError(f"row {i} of the choice table has {len(images)} images: want 2 to {MOST} different ones")
        if not 0 <= chosen < len(images):
            raise ValueError(f"row {i} of the choice table chooses image {chosen} of {len(images)}")
    for column in ("prompt", "user", "source"):
        if (empty := table[column].isna() | (table[column] == "")).any():
            raise ValueError(f"row {int(empty.idxmax())} of the choice table has no {column}")
    return table


def save(path: Path, table: pd.DataFrame) -> None:
    """Write a whole file of choices (Parquet) or none."""
    atomic_write(path, checked(table).to_parquet(index=False))


def load(path: Path) -> pd.DataFrame:
    """Read and check a file of choices."""
    if not path.exists():
        raise FileNotFoundError(f"no file of choices {path}")
    return checked(pd.read_parquet(path))


def groups_of(table: pd.DataFrame, digests: Sequence[str], prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The images of each choice, int [choice, MOST] with -1 where there are fewer, as places in a set of images with
    `digests` and `prompts`, and the chosen place, int [choice]. Raises ValueError on images that are not in the set."""
    shown = [(d, prompt) for prompt, images in zip(table.prompt, table.images, strict=True) for d in images]
    refuse_strangers("images of choices", shown, digests, prompts)
    place = {key: i for i, key in enumerate(zip(prompts, digests, strict=True))}
    rows = np.full((len(table), MOST), -1)
    for i, (prompt, images) in enumerate(zip(table.prompt, table.images, strict=True)):
        rows[i, : len(images)] = [place[prompt, d] for d in images]
    return rows, table.chosen.to_numpy()


def group_sizes(count: int) -> list[int]:
    """Sizes of so many groups, in the shares of the released test choices, mixed; at least one of each size."""
    few = [n for n in (2, 3) for _ in range(max(1, round(count * PAPER_GROUPS[n] / sum(PAPER_GROUPS.values()))))]
    return rng_of(4).permutation([MOST] * (count - len(few)) + few).tolist()
