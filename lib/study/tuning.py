"""How the U-Nets of a `study` (a LeeStudy) are tuned: once on weighted images, or in several rounds of draw, score and tune.

Lee et al. 2023 draw, score and tune once.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from lib.ground.cache import Artifact, digest_of
from lib.ground.sizes import SamplerSpec
from lib.images import sampling
from lib.methods import finetune
from lib.world import web


def tuned(
    study, sets: list[Artifact], rows: np.ndarray, weight: np.ndarray, spec: finetune.FinetuneSpec,
    start: tuple[Artifact, int] | None = None,
) -> Artifact:  # fmt: skip
    """The base's U-Net, or another to `start` from (its stage and updates), after training on the images at indices `rows`,
    int [image], of all sets together, with weights [image]."""
    if hasattr(study, "tune"):  # a setup of its own, where training is launched
        return study.tune(sets, rows, weight, spec, start)
    load, made_of = study.model(start)
    inputs = made_of | {f"images {i}": s for i, s in enumerate(sets)} | {
        "web pairs": web.digest(study.size.pretraining, 1), "weights": digest_of([rows.tolist(), weight.round(5).tolist()]),
    }  # fmt: skip
    drawn = partial(study.drawn_pairs, sets=sets, rows=rows, weight=weight)
    return finetune.tuned(load, drawn, study.real_pairs, spec, inputs)


def in_rounds(study, count: int, spec: finetune.FinetuneSpec) -> tuple[Artifact, int]:
    """The U-Net after `count` rounds, and the updates of the last round. In total there are as many images, updates and
    warm-up updates as in the full method, which has one round.

    The first round learns from every `count`-th of the base's images. Each later round replaces the next share of them by
    images of the same prompts, drawn from its own noise with the U-Net so far. The reward remains that of the run; the
    optimiser and the learning-rate schedule restart. Raises ValueError if there are more rounds than updates.
    """
    if not 1 <= count <= spec.updates:
        raise ValueError(f"the number of rounds must be between 1 and {spec.updates}, the number of updates, got {count}")
    sets, reward, unet = study.own_images(spec.drawn_at), study.run_reward(spec.seed), None
    shown, sampler = [sampling.load_images(s) for s in sets], SamplerSpec(guidance_scale=spec.drawn_at)
    rows = np.concatenate([np.arange(len(s)) % count == 0 for s in shown]).nonzero()[0]
    for k in range(count):
        if k:
            here, of = slice(k, None, count), f"round {k + 1} of {count}"
            sets = [study.sample(s.prompts[here], s.numbers[here], f"{s.stream}, {of}", unet, sampler) for s in shown]
            rows = np.arange(sum(len(s.prompts[here]) for s in shown))
        r = np.concatenate([study.scores(s, reward)[0] for s in sets])
        updates = spec.updates // count + (k < spec.updates % count)
        # A seed that no run has, so that each round has its own batches and noise.
        part = replace(spec, updates=updates, warmup=spec.warmup // count, keep=(), seed=spec.seed + 100 * k)
        unet = tuned(study, sets, rows, r[rows], part, unet), updates
    return unet
