"""Randomness: what is drawn depends on names and numbers that say what it is for, and on one number for the whole study.

The environment variable STUDY_SEED (0 unless set) is that number: another one draws all images, raters, users, batches and
bootstraps anew. It is part of every stage's key.
"""

import hashlib
import os

import numpy as np


def study_seed(text: str) -> int:
    """The number in STUDY_SEED, at least 0 (empty: 0); raises ValueError on anything else."""
    if not text.strip():
        return 0
    if not (text.strip().isascii() and text.strip().isdigit()) or int(text) >= 1_000_000:
        raise ValueError(f"STUDY_SEED={text!r}: give a whole number from 0 to 999999, such as 1")
    return int(text)


STUDY = study_seed(os.environ.get("STUDY_SEED", ""))


def seed_of(*parts) -> int:
    """A 63-bit seed that depends on all `parts` (strings and integers), the study's number, and nothing else."""
    text = "\x1f".join(map(str, (*parts, *([f"study {STUDY}"] if STUDY else []))))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng_of(*numbers: int) -> np.random.Generator:
    """NumPy's generator for some whole numbers, at least 0 (three at most, as large as `seed_of` gives)."""
    return np.random.default_rng((*numbers, STUDY))  # a last 0 changes nothing: seeds are padded with zeros


def torch_seed(number: int) -> int:
    """A seed for torch's generators from a small whole number, at least 0."""
    return number + STUDY * 1_000_000_000_000
