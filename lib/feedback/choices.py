"""Choices: simulated users, each with their own taste, pick one of two to four images of a prompt.

Wu et al. 2023, section 3.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.feedback.labels import refuse_strangers
from lib.feedback.taste import MOST, TasteSpec, last_place, weights
from lib.ground.cache import atomic_write
from lib.ground.checks import finite
from lib.ground.seeds import name_of, rng_of, uniforms
from lib.images.sampling import ImageSet

# Numbers of groups of four, three and two images among the paper's 5,000 test choices.
PAPER_GROUPS = {4: 4737, 3: 166, 2: 97}


# ---- what users choose ---------------------------------------------------------------------------------------------


def groups(prompts: Sequence[str]) -> np.ndarray:
    """The images of each prompt, in order of first appearance: int [group, MOST], -1 where it has fewer."""
    places: dict[str, list[int]] = {}
    for i, p in enumerate(prompts):
        places.setdefault(p, []).append(i)
    if max(map(len, places.values())) > MOST:
        raise ValueError(f"a group may have at most {MOST} images, but one has {max(map(len, places.values()))}")
    return np.array([r + [-1] * (MOST - len(r)) for r in places.values()])


def choose(
    values: np.ndarray, rows: np.ndarray, shown: ImageSet, users: Sequence[Sequence[str]], spec: TasteSpec,
    position: bool = True, coin: bool = False,
) -> pd.DataFrame:
    """Users' choices: a table of SCHEMA with one row per group and user; `users` are the users' names for each group.

    `values` are the traits of the images `shown`, in their units, [image, trait]; `rows` int [group, MOST]. Without
    `position` nobody takes the last image unseen, as when a user guesses another's choice. With `coin` images do not matter.
    """
    finite("traits", values)
    groups_of_choices = np.repeat(np.arange(len(rows)), [len(group) for group in users])
    who, rows = [name for group in users for name in group], rows[groups_of_choices]
    distinct, at = np.unique(who, return_inverse=True)
    liking = np.einsum("cit,ct->ci", values[rows], weights(distinct.tolist(), spec)[at]) / spec.noise
    # The highest liking plus Gumbel noise, drawn per image: an image wins with the probability in `taste.chances`, and small
    # changes in liking alter few choices.
    kind, names = "coin" if coin else "choice" if position else "guess", shown.names
    looks = [name_of(name, names[i]) for name, row in zip(who, rows.tolist(), strict=True) for i in row]
    noise = -np.log(-np.log(uniforms(looks, kind))).reshape(rows.shape)
    chosen = np.where(rows >= 0, noise if coin else liking + noise, -np.inf).argmax(1)
    if position and not coin:
        shown_to = [name_of(name, *(names[i] for i in row if i >= 0)) for name, row in zip(who, rows.tolist(), strict=True)]
        chosen = np.where(uniforms(shown_to, "last unseen") < spec.last, last_place(rows), chosen)
    return checked(pd.DataFrame({
        "prompt": [shown.prompts[i] for i in rows[:, 0]],
        "images": [[shown.digests[i] for i in row if i >= 0] for row in rows.tolist()],
        "chosen": chosen, "user": who, "time": "", "source": "simulated",
    }))  # fmt: skip


# ---- the store -----------------------------------------------------------------------------------------------------

SCHEMA = {
    "prompt": "string",
    "images": "object",  # SHA-256 of the uint8 pixels of each image, in the order shown
    "chosen": "int64",  # index of the chosen image
    "user": "string",
    "time": "string",  # ISO 8601, UTC; empty for simulated users
    "source": "string",  # as in lib.feedback.labels
}


def checked(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the schema's columns and types; raises ValueError that says what is wrong with it."""
    if missing := [c for c in SCHEMA if c not in table]:
        raise ValueError(f"the choice table lacks the column {missing[0]!r}: expected {', '.join(SCHEMA)}")
    table = table[list(SCHEMA)].astype(SCHEMA).reset_index(drop=True)
    table["images"] = [list(images) for images in table.images]
    for i, (images, chosen) in enumerate(zip(table.images, table.chosen, strict=True)):
        if not 2 <= len(images) <= MOST or len(set(images)) < len(images):
            raise ValueError(f"row {i} of the choice table has {len(images)} images: expected 2 to {MOST} different ones")
        if not 0 <= chosen < len(images):
            indices = f"expected an index from 0 to {len(images) - 1}"
            raise ValueError(f"row {i} of the choice table chooses image {chosen} of {len(images)}: {indices}")
    for column in ("prompt", "user", "source"):
        if (empty := table[column].isna() | (table[column] == "")).any():
            raise ValueError(f"row {int(empty.idxmax())} of the choice table has no {column}")
    return table


def save(path: Path, table: pd.DataFrame) -> None:
    """Write a file of choices (Parquet), completely or not at all."""
    atomic_write(path, checked(table).to_parquet(index=False))


def load(path: Path) -> pd.DataFrame:
    """Read and check a file of choices."""
    if not path.exists():
        raise FileNotFoundError(f"there is no choice file {path}")
    return checked(pd.read_parquet(path))


def groups_of(table: pd.DataFrame, digests: Sequence[str], prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The images of each choice as indices into a set of images with `digests` and `prompts`, int [choice, MOST], -1 where
    there are fewer, and the position of the chosen one, int [choice]. Raises ValueError on images outside the set."""
    shown = [(d, prompt) for prompt, images in zip(table.prompt, table.images, strict=True) for d in images]
    refuse_strangers("images of choices", shown, digests, prompts)
    place = {key: i for i, key in enumerate(zip(prompts, digests, strict=True))}
    rows = np.full((len(table), MOST), -1)
    for i, (prompt, images) in enumerate(zip(table.prompt, table.images, strict=True)):
        rows[i, : len(images)] = [place[prompt, d] for d in images]
    return rows, table.chosen.to_numpy()


def group_sizes(count: int) -> list[int]:
    """Sizes of `count` groups, shuffled, in the proportions of the released test choices; at least one of each size."""
    few = [n for n in (2, 3) for _ in range(max(1, round(count * PAPER_GROUPS[n] / sum(PAPER_GROUPS.values()))))]
    return rng_of(4).permutation([MOST] * (count - len(few)) + few).tolist()
