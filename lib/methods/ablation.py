"""Ablations of the reward: each variant's pairwise accuracy and calibration, and its paired difference from the baseline."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

import numpy as np
import pandas as pd

from lib.ground import stats
from lib.ground.checks import finite
from lib.ground.seeds import rng_of
from lib.images import embedding, models, sampling
from lib.methods import reward

BASELINE = "reward"
CLIP = ("CLIP score", "CLIP score, matched longer")  # the first is calibrated to be as weak as it is with people
KEPT = (BASELINE, *CLIP)  # have their own rows in the tables


# ---- variants -----------------------------------------------------------------------------------------------------


def distinct(*groups: Iterable[str]) -> list[str]:
    """The names of all groups in order; raises ValueError on a name that is used twice."""
    names = [name for group in groups for name in group]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(f"the name {twice[0]!r} is used twice: give each variant a name of its own")
    return names


def changed(variant, base) -> dict:
    """The fields in which a variant differs from the baseline, with its values."""
    return {k: x for k, x in asdict(variant).items() if x != asdict(base)[k]}


def joined(
    base, *groups: Mapping[str, object], controls: Mapping[str, object] = MappingProxyType({}), needed: Iterable[str] = ()
) -> dict:
    """The specs of the baseline (as `reward`), of the variants of all groups, and of the controls, by name.

    Raises ValueError on a name that is used twice or reserved for another row, on a variant that equals the baseline or
    another variant, on one that changes more than one field (controls may), and if one that is `needed` later is missing.
    """
    found = {BASELINE: base}
    if kept := [name for name in distinct(*groups, controls) if name in KEPT]:
        raise ValueError(f"the name {kept[0]!r} has a row of its own in the tables: give the variant another name")
    for name, variant in (item for group in (*groups, controls) for item in group.items()):
        if type(variant) is not type(base):
            raise ValueError(f"{name!r} is not a {type(base).__name__}: write replace(base, FIELD=VALUE), got {variant!r}")
        changes = changed(variant, base)
        if "seed" in changes:
            raise ValueError(f"{name!r} changes the seed, but each variant is trained with all seeds: change another field")
        if same := next((n for n, v in found.items() if v == variant), None):
            said = "the baseline" if same == BASELINE else repr(same)
            raise ValueError(f"{name!r} is the same as {said}: change another field or value")
        if len(changes) > 1 and name not in controls:
            raise ValueError(f"{name!r} changes {' and '.join(changes)}: change only one field, or make it a control")
        found[name] = variant
    if gone := [name for name in needed if name not in found]:
        raise ValueError(f"there is no variant {gone[0]!r}, but later cells read it: keep it, and add yours beside it")
    return found


def with_labels(
    spec: reward.RewardSpec, count: int, labels: np.ndarray, prompts: Sequence[str]
) -> reward.RewardSpec:  # fmt: skip
    """The spec that learns from about `count` of its labels: a prompt has a second one only if every prompt has one.

    `labels` float [item] (NaN: none) and `prompts` [item] are the training data of `spec`; with all labels it is unchanged.
    Raises ValueError if `count` is 0 or exceeds the number of labels.
    """
    kept = ~np.isnan(labels)
    total, texts = int(kept.sum()), len(set(np.asarray(prompts)[kept]))
    if not 1 <= count <= total:
        raise ValueError(f"the number of labels must be in [1, {total:,}], got {count:,}")
    return replace(spec, labels=(count if count >= texts else 1) / total, prompts=min(1.0, count / texts))


# ---- accuracy -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeldOut:
    """Labelled images that no reward was trained on: prompts, labels (1 or 0) and CLIP embeddings, by item."""

    prompts: np.ndarray
    labels: np.ndarray
    image: np.ndarray
    text: np.ndarray

    def scores(self, rewards: list) -> np.ndarray:
        """r in [0, 1], float [seed, item]."""
        return np.stack([reward.score(network, self.image, self.text, spec) for network, spec in rewards])

    def clip_scores(self, turn: np.ndarray | None = None) -> np.ndarray:
        """CLIP score in [-1, 1], as if of one seed: float [1, item]; `turn` [dimension, dimension] first maps the texts."""
        return embedding.clip_score(self.image, self.text if turn is None else self.text @ turn)[None]


def held_out(study) -> dict[str, HeldOut]:
    """`seen`: held-out prompts about objects in the training labels; `unseen`: prompts about other objects. No skips."""
    seen = np.where(study.validation, study.targets(study.labelled_images, study.labels), np.nan)
    unseen = study.targets(study.unseen_images, study.unseen_labels)
    out = {}
    for where, images, labels in (("seen", study.labelled_images, seen), ("unseen", study.unseen_images, unseen)):
        rows = np.flatnonzero(~np.isnan(labels))
        image, text = study.embeddings(images)
        prompts = np.array(sampling.load_images(images).prompts)[rows]
        out[where] = HeldOut(prompts, labels[rows], image[rows], text[rows])
    return out


def clip_rows(tested: HeldOut) -> dict[str, np.ndarray]:
    """The scores of the two `CLIP` baselines, in [-1, 1], float [1, item]."""
    return dict(zip(CLIP, (tested.clip_scores(), tested.clip_scores(models.matched_longer())), strict=True))


def stronger_clip(scores: Mapping[str, np.ndarray], tested: HeldOut) -> str:
    """The `CLIP` baseline that orders more of these pairs correctly (the first, if equal): verdicts are against this one.

    It is chosen on the same pairs that it is then tested on, which favours CLIP.
    """
    table = compared({method: scores[method] for method in CLIP}, tested, CLIP[0]).set_index("method")
    return str(table.value.idxmax())


def pairs_right(scores: np.ndarray, labels: np.ndarray, prompts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of pairs ordered correctly [seed, prompt], the prompts, and their numbers of pairs [prompt].

    `scores` [seed, item]; a pair is a good and a bad image of one prompt.
    """
    tables = [stats.grouped_pairwise_accuracy(s, labels, prompts) for s in scores]
    return np.stack([t.right for t in tables]), tables[0].index.to_numpy(), tables[0].pairs.to_numpy()


def compared(scores: Mapping[str, np.ndarray], tested: HeldOut, baseline: str = BASELINE) -> pd.DataFrame:
    """One row per method: `value`, the share of pairs ordered correctly, and `gain` over the baseline, with bounds.

    `scores` [seed, item] by method; a method with one seed (CLIP score) is compared with every seed of the
    other side. Intervals are 95 %, over prompts and seeds; those of gains resample both sides together.
    """
    if baseline not in scores:
        raise ValueError(f"there are no scores of the baseline {baseline!r}, only of {', '.join(scores)}")
    rows, (base, prompts, pairs) = [], pairs_right(scores[baseline], tested.labels, tested.prompts)
    for method, s in scores.items():
        right, _, _ = pairs_right(s, tested.labels, tested.prompts)
        found = stats.cluster_bootstrap(right, prompts, weights=pairs)
        gain = stats.paired_difference(*np.broadcast_arrays(right, base), prompts, weights=pairs)
        rows.append(dict(method=method, value=found.value, low=found.low, high=found.high,
                         gain=gain.value, gain_low=gain.low, gain_high=gain.high,
                         pairs=int(pairs.sum()), prompts=found.clusters, seeds=found.seeds))  # fmt: skip
    return pd.DataFrame(rows)


def verdict(low: float, high: float, words: Sequence[str] = ("better", "worse", "no difference shown")) -> str:
    """What the interval of a difference says, one of three `words`: for above 0, below 0, or neither."""
    finite("the interval", (low, high))
    return words[0] if low > 0 else words[1] if high < 0 else words[2]


# ---- calibration --------------------------------------------------------------------------------------------------


def calibration_error(scores: np.ndarray, good: np.ndarray, bins: int = 10) -> float:
    """Mean gap between predicted and observed share of good images, in [0, 1], over equally filled bins (by score).

    `scores` in [0, 1] and `good` (1 or 0), [item] or [seed, item]; averaged over seeds. Expected calibration error, Naeini
    et al. 2015, with quantile bins. By chance it is above 0 even for perfect scores: see `calibration_floor`.
    """
    scores, good = np.atleast_2d(finite("scores", scores)), np.atleast_2d(finite("labels", good))
    if scores.shape != good.shape or scores.shape[1] < bins:
        raise ValueError(f"need one label per score and at least {bins} of them, got shapes {scores.shape} and {good.shape}")
    order = scores.argsort(1, kind="stable")
    gap = np.take_along_axis(scores - good, order, 1)
    return float(sum(abs(part.sum(1)) for part in np.array_split(gap, bins, 1)).mean() / scores.shape[1])


def calibration_floor(scores: np.ndarray, bins: int = 10, draws: int = 200, seed: int = 0) -> float:
    """The average error of scores [seed, item] if they were the true probabilities of a good label."""
    rng = rng_of(seed)
    return float(np.mean([calibration_error(scores, rng.random(scores.shape) < scores, bins) for _ in range(draws)]))


def calibrated(
    scores: Mapping[str, np.ndarray], tested: HeldOut, bins: int = 10, draws: int = 200
) -> pd.DataFrame:
    """One row per method: its calibration error with a 95 % interval over prompts and seeds, and its floor.

    Resampling repeats images, which adds gaps by chance: the interval is biased upwards by up to the floor.
    """
    rows = []
    for method, s in scores.items():
        flat, good = s.ravel(), np.tile(tested.labels, len(s))
        number = np.arange(flat.size).reshape(s.shape)
        found = stats.cluster_bootstrap(
            number, tested.prompts, lambda i, r=flat, y=good: calibration_error(r[i], y[i], bins), draws=draws
        )
        rows.append(dict(method=method, value=found.value, low=found.low, high=found.high,
                         floor=calibration_floor(s, bins, draws), images=found.n, prompts=found.clusters,
                         seeds=found.seeds))  # fmt: skip
    return pd.DataFrame(rows)
