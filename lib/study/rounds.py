"""Several rounds of draw, score, tune in place of one: each learns from what the model before it draws.

Lee et al. 2023 draw, score and tune once.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lib.ground.cache import Artifact
from lib.ground.sizes import SamplerSpec
from lib.images import sampling
from lib.methods.finetune import FinetuneSpec

if TYPE_CHECKING:
    from lib.study.lee import LeeStudy


def tuned(study: "LeeStudy", count: int, spec: FinetuneSpec) -> tuple[Artifact, int]:
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
    for k in range(count):
        if k:
            here, of = slice(k, None, count), f"round {k + 1} of {count}"
            sets = [study.sample(s.prompts[here], s.numbers[here], f"{s.stream}, {of}", unet, sampler) for s in shown]
        weight = np.concatenate([study.scores(s, reward)[0] for s in sets])
        if not k:
            own = np.concatenate([np.arange(len(s)) % count == 0 for s in shown])
            weight = weight * own / own.mean()  # those of weight 0 are left out, and the others' weights times own.mean()
        updates = spec.updates // count + (k < spec.updates % count)
        # A seed that no run has: a round has batches and noise of its own.
        part = replace(spec, updates=updates, warmup=spec.warmup // count, keep=(), seed=spec.seed + 100 * k)
        unet = study.tuned(sets, weight, part, unet), updates
    return unet
