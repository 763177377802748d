"""Votes: nine simulated raters compare two sets of four images of one prompt, separately on alignment and on fidelity.

Lee et al. 2023, section 4.1, Figures 4 and 6, appendix C. For alignment raters look through judge-a, as when they label; for
fidelity they compare realism in the features of a network that no metric uses. An answer is A, B or tie. It is a tie if the
sets differ by at most a band, which is fixed on the base model against itself before any other comparison.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from lib.feedback.panel import EVALUATORS, RaterSpec, strengths
from lib.ground.checks import finite
from lib.ground.domains import check
from lib.ground.seeds import name_of, normals, rng_of, uniforms

QUESTIONS = ("alignment", "fidelity")
SET = 4  # images per side

# Two-thirds votes for A, B and tie, % of queries (Figures 4 and 6).
PAPER_OUTCOMES = {
    ("full method", "base"): {"alignment": (50, 3, 10), "fidelity": (10, 15, 0)},
    ("base + rejection", "base"): {"alignment": (46, 3, 10), "fidelity": (12, 9, 1)},
    ("full method", "base + rejection"): {"alignment": (20, 10, 9), "fidelity": (3, 20, 0)},
}
CELLS = tuple((c, o) for c in ("colour", "count", "background") for o in ("seen", "unseen"))
# Mean vote shares win / lose / tie, %, in the order of CELLS (appendix C, Tables 5 to 7).
PAPER_SHARES = {
    ("full method", "base"): {
        "alignment": ((58.9, 10.0, 31.1), (57.2, 14.4, 28.3), (69.4, 11.7, 18.9),
                      (69.4, 8.3, 22.2), (53.3, 14.4, 32.2), (55.6, 11.1, 33.3)),
        "fidelity": ((53.9, 28.3, 17.8), (39.4, 38.9, 21.7), (42.2, 37.2, 20.6),
                     (42.8, 36.7, 20.6), (43.9, 39.4, 16.7), (46.1, 35.6, 18.3)),
    },
    ("base + rejection", "base"): {
        "alignment": ((51.7, 20.6, 27.8), (47.8, 20.0, 32.2), (67.8, 12.8, 19.4),
                      (62.2, 8.3, 29.4), (47.8, 10.0, 42.2), (62.8, 7.2, 30.0)),
        "fidelity": ((37.8, 30.6, 31.7), (31.7, 39.4, 28.9), (31.7, 31.7, 36.7),
                     (40.0, 25.6, 34.4), (41.1, 27.8, 31.1), (51.1, 23.9, 25.0)),
    },
    ("full method", "base + rejection"): {
        "alignment": ((34.4, 27.2, 38.3), (40.0, 23.3, 36.7), (32.8, 35.0, 32.2),
                      (53.3, 27.2, 19.4), (31.7, 24.4, 43.9), (33.9, 21.7, 44.4)),
        "fidelity": ((41.1, 27.8, 31.1), (39.4, 32.8, 27.8), (32.8, 41.7, 25.6),
                     (26.1, 52.2, 21.7), (36.1, 36.1, 27.8), (33.3, 37.8, 28.9)),
    },
}  # fmt: skip
# The share of tie votes, by question, that the band gives the base against itself: people's share for the two models of the
# paper that are closest to each other. Votes of people on two equal models are not published.
TIE_SHARES = {q: float(np.mean(PAPER_SHARES["full method", "base + rejection"][q], 0)[2]) / 100 for q in QUESTIONS}


@dataclass(frozen=True)
class VoteSpec:
    """How simulated raters vote. Strength: logits for alignment, standard deviations of the base's images for fidelity."""

    raters: RaterSpec = field(default_factory=RaterSpec)  # how they see alignment, and their lapses
    noise: float = 1.5  # standard deviation of one judgement of realism; agreement as low as people's (ImagenHub, .06-.43)
    lean: float = 0.2  # standard deviation, across raters, of the bias to the side shown first, in units of strength

    def __post_init__(self):
        check(self, noise="in [0, inf)", lean="in [0, inf)")


@dataclass(frozen=True)
class Side:
    """Sets of four images, one set per prompt, as rated by nine raters: mean strength by question, float [rater, prompt]."""

    prompts: list[str]
    names: list[tuple[str, ...]]  # of the four images of each set, sorted: their order does not matter
    strength: dict[str, np.ndarray]


def realism(features: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Minus the distance from each image's features [image, feature] to the nearest real ones [image, feature]: [image].

    Features are scaled by their standard deviation over the real images, so that units do not matter.
    """
    finite("features", features)
    scale = finite("real features", real).std(0) + 1e-9
    distances = torch.cdist(torch.from_numpy(features / scale), torch.from_numpy(real / scale))
    return -distances.min(1).values.numpy()


def spread_within(values: np.ndarray, prompts: Sequence[str]) -> float:
    """Pooled standard deviation of values [image] around the mean of their prompt."""
    grouped = pd.Series(finite("values", values)).groupby(list(prompts))
    sums, freedom = ((grouped.transform("mean") - values) ** 2).sum(), len(values) - grouped.ngroups
    if freedom < 1:
        raise ValueError("the spread within prompts needs a prompt with at least two images: draw more images per prompt")
    return float(np.sqrt(sums / freedom))


def sides(
    seen: dict[str, np.ndarray], real: np.ndarray, names: Sequence[str], prompts: Sequence[str], rows: np.ndarray,
    spec: VoteSpec = VoteSpec(),
) -> list[Side]:  # fmt: skip
    """Sets of four images, given by `rows` int [side, prompt, 4], as rated by the nine evaluators, who see each image once.

    `seen` are judge-a's probabilities by head [image, class]; `real` is realism in standard deviations of the base's images,
    [image]; `names` are the images' names. Raises ValueError unless a set is four different images of one prompt.
    """
    noise = np.stack([normals(names, "fidelity", rater) for rater in EVALUATORS])
    each = {
        "alignment": strengths(seen, names, prompts, EVALUATORS, spec.raters),
        "fidelity": finite("realism", real) + spec.noise * noise,
    }
    found = []
    for at in rows:
        texts, fours = np.array(prompts)[at], np.sort(np.array(names)[at], axis=1)
        if (texts != texts[:, :1]).any() or len(set(texts[:, 0])) < len(texts):
            raise ValueError(f"a side must have {SET} images of each prompt in one set, and no prompt twice")
        if (fours[:, 1:] == fours[:, :-1]).any():
            raise ValueError(f"a set must have {SET} different images, but one contains an image twice")
        mean = {q: x[:, at].mean(2) for q, x in each.items()}
        found.append(Side(texts[:, 0].tolist(), list(map(tuple, fours.tolist())), mean))
    return found


def apart(rows: np.ndarray, pairs: int, seed: int) -> np.ndarray:
    """Pairs of sets of four, for the base against itself: int [pair, side, prompt, 4], drawn for each prompt from its `rows`
    int [prompt, image], with no image on both sides of a pair. Raises ValueError if a prompt has fewer than eight."""
    if rows.shape[1] < 2 * SET:
        raise ValueError(f"two disjoint sets of {SET} need {2 * SET} images of each prompt, got {rows.shape[1]}")
    drawn = rng_of(seed).permuted(np.broadcast_to(rows, (pairs, *rows.shape)), axis=2)
    return np.stack([drawn[..., :SET], drawn[..., SET : 2 * SET]], 1)


def _queries(a: Side, b: Side, question: str) -> tuple[list[str], np.ndarray]:
    """The name of each prompt's query, and whether each rater sees A first, bool [rater, prompt]. Swapping A and B changes
    neither the name nor which set comes first."""
    names = [name_of(*x, *y) for x, y in map(sorted, zip(a.names, b.names, strict=True))]
    shown = np.stack([uniforms(names, "shown first", question, rater) < 0.5 for rater in EVALUATORS])
    return names, shown == np.array([x < y for x, y in zip(a.names, b.names, strict=True)])


def differences(a: Side, b: Side, question: str, spec: VoteSpec = VoteSpec()) -> np.ndarray:
    """How much better each rater finds A than B, float [rater, prompt]: strength, plus the bias to the side shown first.

    Raises ValueError if the two sets of a prompt share an image's name.
    """
    if a.prompts != b.prompts:
        raise ValueError("two sides must be compared on the same prompts in the same order")
    # A rater's noise depends on the image's name. Two models' images from the same initial noise share a name, so the
    # rater's noise would cancel, as if raters compared them without error. The study draws each side from its own stream.
    if shared := [p for p, x, y in zip(a.prompts, a.names, b.names, strict=True) if set(x) & set(y)]:
        count = f"{len(shared)} of {len(a.prompts)} prompts, such as {shared[0]!r}"
        raise ValueError(f"the two sides share an image name (stream, prompt, number) for {count}: the raters' noise would "
                         "cancel; draw one side from a stream of its own, or use other numbers")  # fmt: skip
    better, worse = (finite(f"strength on {question}", s.strength[question]) for s in (a, b))
    lean = spec.lean * normals(EVALUATORS, "lean", question)
    return better - worse + np.where(_queries(a, b, question)[1], 1, -1) * lean[:, None]


def tie_band(a: Side, b: Side, question: str, spec: VoteSpec = VoteSpec()) -> float:
    """The band that contains `TIE_SHARES` of the differences between A and B, two sides of the base from different noise."""
    return float(np.quantile(np.abs(differences(a, b, question, spec)), TIE_SHARES[question]))


def answers(a: Side, b: Side, question: str, band: float, spec: VoteSpec = VoteSpec()) -> np.ndarray:
    """The votes, int [rater, prompt]: 1 for A, -1 for B, 0 for a tie. In a lapse it is one of the three at random."""
    if not 0 <= band < np.inf:
        raise ValueError(f"the tie band must be a finite number of at least 0, got {band}")
    gap = differences(a, b, question, spec)
    found = np.where(np.abs(gap) <= band, 0, np.sign(gap)).astype(int)
    names, first = _queries(a, b, question)
    for votes_of, sign, rater in zip(found, np.where(first, 1, -1), EVALUATORS, strict=True):
        lapsed = uniforms(names, "lapse", question, rater) < spec.raters.lapse
        at_random = (3 * uniforms(names, "vote of a lapse", question, rater)).astype(int) - 1
        votes_of[lapsed] = (sign * at_random)[lapsed]
    return found
