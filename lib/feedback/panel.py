"""The simulated panel: raters who look at images through judge-a and stand where the papers had people.

A rater sees the chance that each attribute named by the prompt is right, and errs as people do: counts get uncertain as
they grow, everybody has a slant, a noise and a rate of lapses, and near-ties are skipped. Agreement is calibrated to
people's alpha of 0.684 on counting prompts (labels released with TextNorm), and is called calibrated wherever it is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.feedback.judges import attribute_chances
from lib.feedback.labels import checked, matched
from lib.ground.checks import finite
from lib.ground.domains import check
from lib.ground.seeds import rng_of, seed_of
from lib.world.prompts import parse


@dataclass(frozen=True)
class RaterSpec:
    """How simulated raters err. The numbers are calibrated in notebook 02 to people's agreement and skips."""

    miscount: float = 0.05  # the chance that one object more or less is seen, for each object shown beyond the first
    noise: float = 1.6  # spread (logits) of one judgement
    slant: float = 0.5  # spread (logits) of raters' leniency
    lapse: float = 0.02  # the chance of a label at random
    skip: float = 0.35  # judgements weaker than this (logits) are skipped
    certainty: float = 3.5  # logits are capped here: nobody is surer than 97 %

    def __post_init__(self):
        check(self, "in [0, inf)", miscount="in [0, 1]", lapse="in [0, 1]", certainty="in (0, inf)")


LABELLERS = ("labeller-1", "labeller-2")
EVALUATORS = tuple(f"evaluator-{i}" for i in range(1, 10))


def blurred_counts(chances: np.ndarray, miscount: float) -> np.ndarray:
    """What a rater makes of count chances [image, 8] (none, 1-6, more): neighbours leak into one another as counts grow."""
    n = finite("chances of count", chances).shape[1]
    leak = np.clip(miscount * (np.arange(n) - 1), 0, 0.4)
    kernel = np.zeros((n, n))
    for seen in range(n):
        up, down = (seen + 1 < n), (seen > 1)
        kernel[seen, seen] = 1 - leak[seen]
        if up:
            kernel[seen, seen + 1] = leak[seen] / (up + down)
        if down:
            kernel[seen, seen - 1] = leak[seen] / (up + down)
        kernel[seen] /= kernel[seen].sum()
    return chances @ kernel


def _judged(seen, images: Sequence[str], prompts: Sequence[str], rater: str, spec: RaterSpec):
    """Each image's strength (logits) for one rater, with the generator that made it."""
    if not len(prompts):
        raise ValueError("no images to rate: give at least one image with its prompt")
    blurred = seen | {"count": blurred_counts(seen["count"], spec.miscount)}
    chances = attribute_chances(blurred, prompts)
    slant = spec.slant * rng_of(seed_of("slant", rater)).standard_normal()
    for digest, prompt, chance in zip(images, prompts, chances, strict=True):
        rng = rng_of(seed_of("rating", rater, digest, prompt))
        p = float(np.clip(np.prod(list(chance.values())), 1e-6, 1 - 1e-6))
        logit = np.clip(np.log(p / (1 - p)), -spec.certainty, spec.certainty)
        yield logit + slant + spec.noise * rng.standard_normal(), rng


def strengths(
    seen: dict[str, np.ndarray],
    images: Sequence[str],
    prompts: Sequence[str],
    rater: str,
    spec: RaterSpec = RaterSpec(),
) -> np.ndarray:
    """How good one simulated rater finds each image for its prompt: logits, float [image]; `rate` labels by their sign.

    Arguments as in `rate`; lapses and skips are no part of it.
    """
    return np.array([judged for judged, _ in _judged(seen, images, prompts, rater, spec)])


def rate(
    seen: dict[str, np.ndarray],
    images: Sequence[str],
    prompts: Sequence[str],
    rater: str,
    spec: RaterSpec = RaterSpec(),
) -> list[str]:
    """One simulated rater's label, good, bad or skip, of each image for its prompt.

    `seen` are judge-a's chances by head [image, class]; `images` their digests. A label depends on the rater, the image and
    the prompt alone.
    """
    out = []
    for judged, rng in _judged(seen, images, prompts, rater, spec):
        label = "skip" if abs(judged) < spec.skip else "good" if judged > 0 else "bad"
        if rng.random() < spec.lapse:
            label = "good" if rng.random() < 0.5 else "bad"
        out.append(label)
    return out


def _table(images, prompts, rater: str, labels: list[str]) -> pd.DataFrame:
    return pd.DataFrame({
        "image": images, "prompt": prompts, "rater": rater, "label": labels, "time": "", "source": "simulated",
    })  # fmt: skip


def label_by_two(seen, images: Sequence[str], prompts: Sequence[str], spec: RaterSpec = RaterSpec(), doubled: float = 0.2):
    """Labels of two simulated labellers: one label an image, alternating, and both a share `doubled` of them."""
    turn = np.arange(len(images)) % 2
    twice = np.array([seed_of("doubled", d, p) % 1000 < 1000 * doubled for d, p in zip(images, prompts, strict=True)])
    firsts, seconds = [], []
    for k, rater in enumerate(LABELLERS):
        for chosen, tables in ((turn == k, firsts), ((turn != k) & twice, seconds)):
            rows = np.flatnonzero(chosen)
            if len(rows):
                part = {head: p[rows] for head, p in seen.items()}
                digests, texts = [images[i] for i in rows], [prompts[i] for i in rows]
                tables.append(_table(digests, texts, rater, rate(part, digests, texts, rater, spec)))
    return checked(pd.concat(firsts + seconds, ignore_index=True))


def first_labels(table: pd.DataFrame) -> pd.DataFrame:
    """One row an image and prompt: the label of the labeller whose turn it was (the second ones only measure agreement)."""
    return table.drop_duplicates(["image", "prompt"]).reset_index(drop=True)


def evaluate(seen, images: Sequence[str], prompts: Sequence[str], spec: RaterSpec = RaterSpec(), raters=EVALUATORS):
    """Labels of the nine simulated evaluators of every image."""
    return checked(pd.concat(
        [_table(images, prompts, r, rate(seen, images, prompts, r, spec)) for r in raters], ignore_index=True
    ))  # fmt: skip


def good_shares(table: pd.DataFrame, images: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
    """The share of raters who call each image good, skips in the denominator: float [image].

    Raises ValueError on ratings of other images, and on images without a rating.
    """
    matched(table, images, prompts, every=True)
    share = table.assign(good=table.label.eq("good")).groupby(["image", "prompt"]).good.mean()
    return share.reindex(list(zip(images, prompts, strict=True))).to_numpy()


def categories(prompts: Sequence[str]) -> list[str]:
    """The category of each prompt."""
    known = {p: parse(p).category for p in set(prompts)}
    return [known[p] for p in prompts]
