"""Training data of rewards, update by update.

Lee et al. 2023, section 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lib.ground.precision import DEVICE
from lib.ground.seeds import torch_seed
from lib.methods.reward import RewardSpec, taught
from lib.world.perturbed import draw_perturbed


@dataclass(frozen=True)
class Lesson:
    """Training data of one reward.

    `items` int [item]: indices of the images and their prompts; `labels` float [item], in [0, 1]; `others` int
    [item, epoch x perturbed]: indices of the perturbed prompts, of which epoch e uses the e-th part. `spec` has the epochs.
    """

    spec: RewardSpec
    items: np.ndarray
    labels: np.ndarray
    others: np.ndarray

    @property
    def updates_an_epoch(self) -> int:
        """Number of updates per epoch; the last one takes what is left."""
        return -(-len(self.labels) // self.spec.batch)


def lesson_of(spec: RewardSpec, prompts: Sequence[str], labels: np.ndarray, raters: np.ndarray) -> Lesson:
    """The labels selected by `taught`, with perturbed prompts.

    With only a share of the labels there are more epochs, so that every variant gets as many updates as `spec.epochs` passes
    over all labels: fewer labels do not also mean less training.
    """
    chosen = taught(labels, prompts, raters, spec)
    items = np.flatnonzero(~np.isnan(chosen))
    every = taught(labels, prompts, raters, replace(spec, labels=1.0, prompts=1.0, labellers=None))
    run = replace(spec, epochs=round(spec.epochs * np.isfinite(every).sum() / len(items)))
    others = np.zeros((len(items), 0), int)
    if spec.auxiliary_weight:
        others = draw_perturbed([prompts[i] for i in items], run.epochs * run.perturbed, run.seed, run.perturbed_form)
    return Lesson(run, items, chosen[items], others)


@dataclass(frozen=True)
class Plan:
    """The updates of all rewards, padded with items of weight 0 where a reward has finished or has too few items."""

    rows: Tensor  # int [update, reward, item]: images; those with the auxiliary loss come first
    labels: Tensor  # [update, reward, item]
    others: Tensor  # int [update, reward, some, prompt]: perturbed prompts of the first items
    of_label: Tensor  # [update, reward, item]: weight of the squared error, 1 / items
    of_prompt: Tensor  # [update, reward, item]: weight of prompt classification, lambda / items that have it
    temperature: Tensor  # [reward, 1, 1]
    rates: list[list[float]]  # [update, reward]
    some: list[int]  # [update]: number of items with the auxiliary loss, the maximum over rewards

    @classmethod
    def of(cls, lessons: Sequence[Lesson], dtype: torch.dtype) -> "Plan":
        """The updates for several lessons, each drawn by its own seed, in `dtype` and on the device."""
        found = [_updates(lesson, dtype) for lesson in lessons]
        last = max(len(f["rows"]) for f in found)
        of = {k: torch.stack([torch.cat([f[k], f[k].new_zeros(last - len(f[k]), *f[k].shape[1:])]) for f in found], 1)
              for k in found[0]}  # fmt: skip
        some, rates = of.pop("auxiliary").amax(1), of.pop("rates").tolist()
        of["others"] = of["others"][:, :, : int(some.max())]
        of["temperature"] = torch.tensor([lesson.spec.temperature for lesson in lessons], dtype=dtype)[:, None, None]
        return cls(some=some.tolist(), rates=rates, **{k: v.to(DEVICE) for k, v in of.items()})


def _updates(lesson: Lesson, dtype: torch.dtype) -> dict[str, Tensor]:
    """One lesson's part of the plan, drawn by its seed; `auxiliary` int [update]: how many items have the auxiliary loss."""
    spec, count, y = lesson.spec, len(lesson.labels), torch.from_numpy(lesson.labels).to(dtype)
    if not ((y == 1).any() and (y == 0).any()):
        raise ValueError(f"need both good and bad labels, got {int((y == 1).sum())} good of {count}")
    order, each = torch.Generator().manual_seed(torch_seed(spec.seed)), lesson.updates_an_epoch
    rows = torch.full((spec.epochs, each * spec.batch), count)  # index `count` means no item
    for epoch in rows:
        epoch[:count] = torch.randperm(count, generator=order)
    rows = rows.view(-1, spec.batch)
    has_auxiliary = (y == 1) | (spec.auxiliary_on == "all") if spec.auxiliary_weight else torch.zeros(count, dtype=bool)
    place = torch.cat([1 - has_auxiliary.long(), torch.tensor([2])])  # order: with auxiliary loss, without, no item
    rows = rows.gather(1, place[rows].argsort(dim=1, stable=True))
    given, chosen, rows = rows < count, place[rows] == 0, rows.clamp(max=count - 1)
    update = torch.arange(len(rows))
    others = torch.from_numpy(lesson.others[:, : spec.epochs * spec.perturbed])  # none if there is no auxiliary loss
    others = others.reshape(count, spec.epochs, others.shape[1] // spec.epochs)
    auxiliary = chosen.sum(1)
    return {
        "rows": torch.from_numpy(lesson.items)[rows], "labels": y[rows], "auxiliary": auxiliary,
        "others": others[rows, update[:, None] // each],
        "of_label": given.to(dtype) / given.sum(1, keepdim=True),
        "of_prompt": spec.auxiliary_weight * chosen.to(dtype) / auxiliary[:, None].clamp(min=1),
        "rates": spec.learning_rate * (1 + torch.cos(torch.pi * update.double() / len(rows))) / 2,
    }  # fmt: skip
