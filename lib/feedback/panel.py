"""The simulated panel: raters who look at images through judge-a and take the place of the papers' people.

A rater sees the probability that each attribute named by the prompt is right, and errs as people do: larger counts are less
certain, every rater has a bias, noise and a lapse rate, and near-ties are skipped. Agreement is calibrated to people's alpha
of 0.684 on counting prompts (labels released with TextNorm), and is marked as calibrated wherever it is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.feedback.judges import match
from lib.feedback.labels import checked
from lib.ground.checks import finite
from lib.ground.domains import check
from lib.ground.seeds import normals, uniforms
from lib.images.sampling import ImageSet
from lib.world.prompts import parse


@dataclass(frozen=True)
class RaterSpec:
    """How simulated raters err. The values are calibrated in notebook 02 to people's agreement and skips."""

    miscount: float = 0.05  # probability of a count that is off by one, per object shown beyond the first
    noise: float = 1.6  # standard deviation (logits) of one judgement
    slant: float = 0.5  # standard deviation (logits) of leniency across raters
    lapse: float = 0.02  # probability of a random label
    skip: float = 0.35  # judgements weaker than this (logits) are skipped
    certainty: float = 3.5  # logits are clipped here: no one is more than 97 % sure

    def __post_init__(self):
        check(self, "in [0, inf)", miscount="in [0, 1]", lapse="in [0, 1]", certainty="in (0, inf)")



def labellers(run: int = 0) -> tuple[str, str]:
    """The two labellers of a training run; each run has its own."""
    return f"labeller-{2 * run + 1}", f"labeller-{2 * run + 2}"


LABELLERS = labellers()
EVALUATORS = tuple(f"evaluator-{i}" for i in range(1, 10))


def blurred_counts(chances: np.ndarray, miscount: float) -> np.ndarray:
    """Count probabilities [image, 8] (none, 1-6, more) as a rater sees them: larger counts leak more to their neighbours."""
    n = finite("probabilities of count", chances).shape[1]
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


def strengths(
    seen: dict[str, np.ndarray], names: Sequence[str], prompts: Sequence[str], raters: Sequence[str],
    spec: RaterSpec = RaterSpec(),
) -> np.ndarray:
    """How good simulated raters find each image for its prompt: logits, float [rater, image]; `rate` labels by their sign.

    Arguments as in `rate`; lapses and skips are not included.
    """
    if not len(prompts):
        raise ValueError("no images to rate: give at least one image with its prompt")
    found = match(seen | {"count": blurred_counts(seen["count"], spec.miscount)}, prompts, spec.certainty)
    noise = np.stack([normals(names, "rating", rater) for rater in raters])
    return found + spec.slant * normals(raters, "slant")[:, None] + spec.noise * noise


def rate(
    seen: dict[str, np.ndarray], names: Sequence[str], prompts: Sequence[str], raters: Sequence[str],
    spec: RaterSpec = RaterSpec(),
) -> np.ndarray:
    """The label (good, bad or skip) that each simulated rater gives each image for its prompt: str [rater, image].

    `seen` are judge-a's probabilities by head [image, class]; `names` are the images' names
    (`lib.images.sampling.ImageSet`). A label depends only on the rater, the image's name and what is seen in the image.
    """
    judged = strengths(seen, names, prompts, raters, spec)
    labels = np.where(np.abs(judged) < spec.skip, "skip", np.where(judged > 0, "good", "bad"))
    for given, rater in zip(labels, raters, strict=True):
        lapsed = uniforms(names, "lapse", rater) < spec.lapse
        given[lapsed] = np.where(uniforms(names, "label of a lapse", rater) < 0.5, "good", "bad")[lapsed]
    return labels


def _table(shown: ImageSet, rows: np.ndarray, raters: Sequence[str], labels: np.ndarray) -> pd.DataFrame:
    images, prompts = np.array(shown.digests)[rows], np.array(shown.prompts)[rows]
    return checked(pd.DataFrame({
        "image": images, "prompt": prompts, "rater": raters, "label": labels, "time": "", "source": "simulated",
    }))  # fmt: skip


def label_by_two(
    seen: dict[str, np.ndarray], shown: ImageSet, spec: RaterSpec = RaterSpec(), doubled: float = 0.2, run: int = 0
) -> pd.DataFrame:
    """Labels of a run's two simulated labellers: one per image, in turn, and from both for a share `doubled` of images."""
    raters, turn = labellers(run), np.arange(len(shown)) % 2
    labels = rate(seen, shown.names, shown.prompts, raters, spec)
    twice = np.flatnonzero(uniforms(shown.names, "doubled") < doubled)
    rows, whose = np.concatenate([np.arange(len(shown)), twice]), np.concatenate([turn, 1 - turn[twice]])
    return _table(shown, rows, np.array(raters)[whose], labels[whose, rows])


def first_labels(table: pd.DataFrame) -> pd.DataFrame:
    """One row per image and prompt: the label of the labeller whose turn it was (second labels only measure agreement)."""
    return table.drop_duplicates(["image", "prompt"]).reset_index(drop=True)


def evaluate(seen: dict[str, np.ndarray], shown: ImageSet, spec: RaterSpec = RaterSpec()) -> pd.DataFrame:
    """Labels by the nine simulated evaluators for every image."""
    labels, rows = rate(seen, shown.names, shown.prompts, EVALUATORS, spec), np.arange(len(shown))
    return _table(shown, np.tile(rows, len(EVALUATORS)), np.repeat(EVALUATORS, len(rows)), labels.ravel())


def categories(prompts: Sequence[str]) -> list[str]:
    """The category of each prompt."""
    known = {p: parse(p).category for p in set(prompts)}
    return [known[p] for p in prompts]
