"""Randomness: every draw depends on names and numbers that say what it is for, and on one seed for the whole study.

What is random about an image (its initial noise, and the noise of raters, users and voters) depends on the image's name,
that is, its stream, prompt and number, and never on its pixels: processors round differently, and a different last digit
somewhere in an image must not redraw the raters. `uniforms` and `normals` draw for many names at once.

The environment variable STUDY_SEED (3 unless set) is the study's seed: another value redraws all images, raters, users,
batches and bootstraps. It is part of every stage's key. The study was built at 0; its three confirmatory runs, each made
after all choices had been frozen, are at 1, 2 and 3.
"""

import hashlib
import os
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri


def study_seed(text: str) -> int:
    """The study's seed from the text of STUDY_SEED, at least 0 (empty: 3); raises ValueError on anything else."""
    if not text.strip():
        return 3
    if not (text.strip().isascii() and text.strip().isdigit()) or int(text) >= 1_000_000:
        raise ValueError(f"STUDY_SEED={text!r}: expected a whole number from 0 to 999999, such as 4")
    return int(text)


STUDY = study_seed(os.environ.get("STUDY_SEED", ""))


def name_of(*parts) -> str:
    """One name made of several parts, strings and integers; different parts make different names."""
    return "\x1f".join(map(str, parts))


def seed_of(*parts) -> int:
    """A 63-bit seed that depends on all `parts` (strings and integers), the study's seed, and nothing else."""
    text = name_of(*parts, *([f"study {STUDY}"] if STUDY else []))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def uniforms(names: Sequence[str], *what) -> np.ndarray:
    """A number in (0, 1) for each name: float64 [name].

    It depends on the name, on `what` is drawn (as in `seed_of`), on the study's seed, and nothing else; other names and
    other draws are independent. The name's hash and the seed of the draw are mixed by splitmix64 (Steele, Lea and Flood
    2014), whose upper 52 bits give the number: integer arithmetic, so all machines agree. Raises ValueError on one string.
    """
    if isinstance(names, str):
        raise ValueError(f"expected a sequence of names, got a single string: {names!r}")
    hashes = b"".join(hashlib.sha256(name.encode()).digest()[:8] for name in names)
    x = np.frombuffer(hashes, ">u8").astype(np.uint64) + np.uint64(seed_of(*what))  # wraps around at 2^64
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (((x ^ (x >> np.uint64(31))) >> np.uint64(12)) + 0.5) * 2.0**-52


def normals(names: Sequence[str], *what) -> np.ndarray:
    """A standard normal number for each name, float64 [name]: the normal quantiles of `uniforms`."""
    return ndtri(uniforms(names, *what))


def rng_of(*numbers: int) -> np.random.Generator:
    """NumPy's generator seeded by whole numbers of at least 0 (three at most, if as large as `seed_of` gives)."""
    return np.random.default_rng((*numbers, STUDY))  # a final 0 changes nothing: seeds are padded with zeros


def torch_seed(number: int) -> int:
    """A seed for PyTorch's generators from a small whole number, at least 0."""
    return number + STUDY * 1_000_000_000_000
