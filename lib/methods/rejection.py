"""Rejection sampling: draw more images per prompt than are wanted, and keep those with the highest score.

Lee et al. 2023, Figure 6 (16 drawn, 4 kept). The mean over all ways to draw n of the available images is computed exactly,
without the noise of a single draw.
"""

from collections.abc import Sequence
from math import comb

import numpy as np
import pandas as pd

from lib.ground.checks import finite


def by_prompt(prompts: Sequence[str], each: int | None = None) -> tuple[list[str], np.ndarray]:
    """Distinct prompts in order of first appearance, and the images of each, int [prompt, image]: all, or the first `each`.

    Raises ValueError if prompts differ in their number of images (without `each`) or have fewer than `each`.
    """
    rows: dict[str, list[int]] = {}
    for i, p in enumerate(prompts):
        rows.setdefault(p, []).append(i)
    counts = {len(r) for r in rows.values()}
    if each is None and len(counts) > 1:
        raise ValueError(f"prompts have different numbers of images, from {min(counts)} to {max(counts)}: give `each`")
    if each is not None and min(counts) < each:
        raise ValueError(f"need {each} images of each prompt, but one has {min(counts)}")
    return list(rows), np.array([r[:each] for r in rows.values()])


def kept(scores: np.ndarray, keep: int = 4) -> np.ndarray:
    """Indices of the `keep` highest scores in each row of [prompt, image], best first: int [prompt, keep]."""
    if not 1 <= keep <= scores.shape[1]:
        raise ValueError(f"cannot keep {keep} of {scores.shape[1]} images: keep between 1 and all of them")
    return np.argsort(-finite("scores", scores), axis=1, kind="stable")[:, :keep]


def best_quarter(scores: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """1 for the quarter of each prompt's images with the highest score, and 0 for the others: float [image].

    For example 4 of 16. If a quarter is not a whole number, the last image that it takes counts in part, so that every
    prompt keeps its share; among tied images, the first counts as the best.
    """
    by_prompt = pd.Series(finite("scores", scores)).groupby(np.asarray(prompts))
    better = by_prompt.rank(method="first", ascending=False) - 1  # number of better images of the prompt
    return (by_prompt.transform("size") / 4 - better).clip(0, 1).to_numpy()


def chosen_weights(total: int, drawn: int, keep: int = 1) -> np.ndarray:
    """The probability that the image of each rank is kept, divided by `keep`: float [rank], summing to 1.

    `drawn` of `total` images are drawn without replacement, and the best `keep` (rank 0 first) are kept: the image of rank i
    is kept if it is drawn and fewer than `keep` of the i better ones are.
    """
    if not 1 <= keep <= drawn <= total:
        raise ValueError(f"need 1 <= keep <= drawn <= total, got {keep}, {drawn} and {total}")
    ways = [
        sum(comb(i, j) * comb(total - 1 - i, drawn - 1 - j) for j in range(min(keep, drawn))) for i in range(total)
    ]  # fmt: skip
    return np.array([w / (keep * comb(total, drawn)) for w in ways])


def best_of(scores: np.ndarray, quality: np.ndarray, drawn: int, keep: int = 1) -> np.ndarray:
    """Expected quality, float [..., prompt], of the `keep` images with the highest scores among `drawn` at random.

    `scores`, `quality` [..., prompt, image], broadcast. The mean is exact: over all subsets of `drawn` images, and over all
    orders of tied images.
    """
    scores, quality = np.broadcast_arrays(np.asarray(scores, float), np.asarray(quality, float))
    finite("scores", scores), finite("quality", quality)
    weights = chosen_weights(scores.shape[-1], drawn, keep)
    out = np.empty(scores.shape[:-1])
    for at in np.ndindex(out.shape):
        _, level = np.unique(-scores[at], return_inverse=True)  # 0 is the highest score
        ranks = np.sort(level)
        shared = np.bincount(ranks, weights) / np.bincount(ranks)
        out[at] = shared[level] @ quality[at]
    return out


def divergence(drawn: int) -> float:
    """How far the best of n is from the model that draws the images: KL divergence, log n - (n - 1) / n nats.

    Gao et al. 2023, Scaling laws for reward model overoptimization, equation 2; an upper bound if scores tie.
    """
    return float(np.log(drawn) - (drawn - 1) / drawn)
