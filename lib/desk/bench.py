"""How fast this machine does what the study spends its time on: `make bench`.

Rates of one process, the best of three rounds. Machines are noisy: compare the lines of one run, not those of two.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from lib.feedback import judges
from lib.ground import precision
from lib.ground.sizes import GUIDANCE_SCALE, SAMPLING_STEPS
from lib.images import embedding, models, sampling
from lib.methods import ensemble, finetune, lessons, reward
from lib.world import prompts, scenes, web

IMAGES = 64
UPDATES = 4


def rate(work: Callable[[], object], count: int, rounds: int = 3) -> float:
    """Items a second of `work`, which does `count` of them; the best round, after one that is not counted."""
    work()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return count / min(seconds)


def in_both_precisions(name: str, work: Callable[[], object], count: int) -> dict[str, float]:
    """The rate as the study does it, and in float32 where that differs."""
    found = {name: rate(work, count)}
    if precision.FAST_BFLOAT16:
        precision.FAST_BFLOAT16 = False
        found[f"{name}, in float32"] = rate(work, count)
        precision.FAST_BFLOAT16 = True
    return found


def rates() -> dict[str, float]:
    """Items a second by name."""
    rng = np.random.default_rng(0)
    texts = prompts.evaluation_prompts()[:IMAGES]
    drawn = [web.web_pair(rng)[1] for _ in range(IMAGES)]
    pixels = np.stack([scenes.render(s, rng) for s in drawn])
    pipe, (clip, preprocess, tokenizer) = models.load_generator(), models.load_clip()
    found = {
        "scenes rendered": rate(lambda: [scenes.render(s, rng) for s in drawn], IMAGES),
        "images sampled": rate(
            lambda: sampling.sample(pipe, texts, range(IMAGES), guidance_scale=GUIDANCE_SCALE, steps=SAMPLING_STEPS), IMAGES
        ),
        "images judged": rate(lambda: judges.look(models.load_judge("b"), pixels), IMAGES),
        "images embedded": rate(lambda: embedding.embed_images(clip, preprocess, pixels), IMAGES),
        "prompts embedded": rate(lambda: embedding.embed_texts(clip, tokenizer, texts), IMAGES),
    }
    spec = reward.RewardSpec(epochs=UPDATES)
    image, text = (rng.normal(size=(spec.batch, 128)).astype(np.float32) for _ in range(2))
    others = rng.integers(spec.batch, size=(spec.batch, UPDATES * spec.perturbed))
    taught = [lessons.Lesson(replace(spec, seed=s), np.arange(spec.batch), np.arange(spec.batch) % 2.0, others)
              for s in range(ensemble.TOGETHER)]  # fmt: skip
    found["updates of a reward"] = rate(lambda: ensemble.train(image, text, text, taught), UPDATES * len(taught))
    pairs, tuning = finetune.encoded(pipe, sampling.encode(pipe, pixels), texts), finetune.FinetuneSpec(updates=UPDATES)
    with tempfile.TemporaryDirectory() as folder:
        found |= in_both_precisions(
            "updates in fine-tuning", lambda: finetune.finetune(pipe, pairs, pairs, tuning, Path(folder)), UPDATES
        )
    return found


if __name__ == "__main__":
    print(f"{precision.DEVICE}, {'bfloat16' if precision.FAST_BFLOAT16 else 'float32'}; items a second, one process")
    for name, value in rates().items():
        print(f"{value:10.1f}  {name}")
