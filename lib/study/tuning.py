"""How the U-Nets of a `study` (a LeeStudy) are tuned: on weighted images once, or in several rounds of draw, score, tune.

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
    """The base's U-Net, or another from which to `start` (its stage and updates), after training on the images `rows`, int
    [image], of all sets, each weighted [image]."""
    load, made_of = study.model(start)
    inputs = made_of | {f"images {i}": s for i, s in enumerate(sets)} | {
        "web pairs": web.digest(study.size.pretraining, 1), "weights": digest_of([rows.tolist(), weight.round(5).tolist()]),
    }  # fmt: skip
    drawn = partial(study.drawn_pairs, sets=sets, rows=rows, weight=weight)
    return finetune.tuned(load, drawn, study.real_pairs, spec, inputs)


def in_rounds(study, count: int, spec: finetune.FinetuneSpec) -> tuple[Artifact, int]:
    """The U-Net after `count` rounds, and its last round's updates. In all there are as many images, updates and updates of
    warm-up as in the full method, which is one round.

    The first round learns from every `count`-th of the base's images. In place of the next ones, each later round draws as
    many of the same prompts, from noise of its own, with the U-Net from which it goes on. The reward stays the run's; the
    optimiser and the fall of the rate begin anew. Raises ValueError when there are more rounds than updates.
    """
    if not 1 <= count <= spec.updates:
        raise ValueError(f"between 1 and {spec.updates} rounds, one an update, got {count}")
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
        # A seed that no run has: a round has batches and noise of its own.
        part = replace(spec, updates=updates, warmup=spec.warmup // count, keep=(), seed=spec.seed + 100 * k)
        unet = tuned(study, sets, rows, r[rows], part, unet), updates
    return unet
