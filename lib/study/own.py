"""Bring your own rater, auxiliary loss or weighting: each takes the place of one piece of Lee et al.'s study (a LeeStudy).

Labels and weights are part of a result's key by value, a loss by what it does. A prompt grid of your own needs nothing of
this: `study.sample` draws any prompts.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from lib.feedback import labels, panel
from lib.ground.cache import Artifact
from lib.ground.checks import finite
from lib.images import sampling
from lib.methods import finetune, reward
from lib.study import tuning


def labelled(study, rater: panel.RaterSpec | Callable) -> pd.DataFrame:
    """Labels of the labelled images, in the schema of `lib.feedback.labels`: by the study's two labellers with another
    spec, or by a function.

    `rater(chances, prompts)` returns good, bad or skip for each image, from judge-a's probabilities by head [image, class].
    Raises ValueError on anything else.
    """
    seen, shown = study.looks(study.labelled_images, "a"), sampling.load_images(study.labelled_images)
    if not callable(rater):
        return panel.label_by_two(seen, shown, rater)
    said = list(rater(seen, shown.prompts))
    if len(said) != len(shown):
        raise ValueError(f"{rater.__name__} gave {len(said):,} labels for {len(shown):,} images: expected one for each")
    return labels.checked(pd.DataFrame({
        "image": shown.digests, "prompt": shown.prompts, "rater": rater.__name__, "label": said, "time": "",
        "source": "simulated",
    }))  # fmt: skip


def rewards(
    study, table: pd.DataFrame | None = None, auxiliary: Callable = reward.prompt_classification_loss
) -> list:  # fmt: skip
    """Rewards as `study.rewards()` gives them, from a table of labels of your own, or with an auxiliary loss of your own.

    `auxiliary(rewards, temperature)` returns a loss per image, [..., image], from r of its own prompt (the first) and of
    perturbed ones, [..., image, prompt], as `lib.methods.reward.prompt_classification_loss` does.
    """
    specs = [reward.RewardSpec(seed=seed) for seed in range(study.size.reward_seeds)]
    return study.taught(specs, study.feedback if table is None else study.feedback_of(table), auxiliary)


def finetuned(study, weighting: Callable, spec: finetune.FinetuneSpec) -> tuple[Artifact, int]:
    """The full method with a weighting of your own, and its number of updates.

    `weighting(r, prompts)` returns the weight, at least 0, of each training image, from its reward in [0, 1] and its prompt.
    Weights are scaled to the mean of r, so that beta keeps its meaning. Raises ValueError on other weights.
    """
    sets, own = study.own_images(spec.drawn_at), study.run_reward(spec.seed)
    r = np.concatenate([study.scores(s, own)[0] for s in sets])
    texts = [p for s in sets for p in sampling.load_images(s).prompts]
    weight = finite("weights", np.asarray(weighting(r.copy(), texts), r.dtype))
    if weight.shape != r.shape or weight.min() < 0 or not weight.any():
        got = f"shape {weight.shape}, {weight.min():g} to {weight.max():g}"
        raise ValueError(f"{weighting.__name__} gave weights of {got}: expected {len(r):,}, at least 0 and not all 0")
    return tuning.tuned(study, sets, np.arange(len(r)), weight * (r.mean() / weight.mean()), spec), spec.updates
