"""How fast this machine does the work that dominates the study, and how close that is to its limit: `make bench`.

Rates of one process, the best of three rounds, with the arithmetic per item and the speed as a share of the rate at which
the same machine multiplies large matrices. Timings are noisy: compare lines within one run, not between runs.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lib.feedback import judges
from lib.ground import precision
from lib.ground.precision import DEVICE
from lib.images import embedding, models, sampling
from lib.methods import denoising, ensemble, finetune, lessons, reward
from lib.world import prompts, scenes, web

ON_GPU = DEVICE.type == "cuda"
BATCHES = (64, 512, 2048) if ON_GPU else (64,)  # images sampled at once
UPDATES = {(48, 24): 200, (256, 256): 200} if ON_GPU else {(48, 24): 4}  # fine-tuning updates, by batch

UPDATES_OF_A_REWARD = 20


@dataclass(frozen=True)
class Rate:
    """Items per second of some work, and floating-point operations per item (None: not counted)."""

    name: str
    items: float
    operations: float | None = None
    fast: bool = False  # in bfloat16 where that is fast


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """Time that `work` takes: the best of several rounds after a warm-up round, or that of one longer than a minute."""
    taken = []
    for _ in range(rounds + 1):
        finished()
        start = time.perf_counter()
        work()
        finished()
        taken.append(time.perf_counter() - start)
        if taken[-1] > 60:
            return taken[-1]
    return min(taken[1:])


def finished() -> None:
    """Wait until the GPU, if any, has finished its work."""
    if ON_GPU:
        torch.cuda.synchronize()


def rate(
    name: str, work: Callable[[], object], count: int, fast: bool = False, of: Callable[[], object] | None = None
) -> Rate:
    """The rate of `work`, which processes `count` items; `of` processes one, to count its arithmetic."""
    operations = None
    if of:
        with FlopCounterMode(display=False) as counter:
            of()
        operations = float(counter.get_total_flops())
    return Rate(name, count / seconds(work), operations, fast)


def matrix_rate(dtype: torch.dtype, size: int = 8192 if ON_GPU else 2048) -> float:
    """Floating-point operations per second when multiplying two square matrices."""
    a = torch.randn(size, size, device=DEVICE).to(dtype)
    return 2 * size**3 / seconds(lambda: a @ a)


def matrix_rates() -> dict[torch.dtype, float]:
    """The matrix rates in float32 and, where fast, in bfloat16."""
    return {dtype: matrix_rate(dtype) for dtype in (torch.float32, torch.bfloat16)[: 1 + precision.FAST_BFLOAT16]}


def rates() -> list[Rate]:
    """The rates of all the work that dominates the study."""
    rng = np.random.default_rng(0)
    count = BATCHES[-1]
    texts = [prompts.evaluation_prompts()[i % 120] for i in range(count)]
    drawn = [web.web_pair(rng)[1] for _ in range(64)]
    pixels = np.resize(np.stack([scenes.render(s, rng) for s in drawn]), (count, scenes.SIZE, scenes.SIZE, 3))
    pipe, (clip, preprocess, tokenizer) = models.load_generator(), models.load_clip()
    found = [rate("scenes rendered", lambda: [scenes.render(s, rng) for s in drawn], len(drawn))]

    def draw(n: int) -> None:
        sampling.sample(pipe, texts[:n], range(n), batch=n)

    found += [rate(f"images sampled, {n} at once", lambda n=n: draw(n), n, not ON_GPU, of=lambda: draw(1)) for n in BATCHES]
    judge, one = models.load_judge("b"), pixels[:1]
    found += [
        rate("images judged", lambda: judges.look(judge, pixels), count, of=lambda: judges.look(judge, one)),
        rate("images embedded", lambda: embedding.embed_images(clip, preprocess, pixels), count,
             of=lambda: embedding.embed_images(clip, preprocess, one)),
        rate("prompts embedded", lambda: embedding.embed_texts(clip, tokenizer, texts[:120]), len(set(texts[:120])),
             of=lambda: embedding.embed_texts(clip, tokenizer, texts[:1])),
    ]  # fmt: skip
    spec = reward.RewardSpec(epochs=UPDATES_OF_A_REWARD)
    image, text = (rng.normal(size=(spec.batch, 128)).astype(np.float32) for _ in range(2))
    others = rng.integers(spec.batch, size=(spec.batch, spec.epochs * spec.perturbed))
    taught = [lessons.Lesson(replace(spec, seed=s), np.arange(spec.batch), np.arange(spec.batch) % 2.0, others)
              for s in range(ensemble.TOGETHER)]  # fmt: skip
    name, learn = f"updates of a reward, {len(taught)} at once", partial(ensemble.train, image, text, text)
    one = [replace(taught[0], spec=replace(spec, epochs=1), others=others[:, : spec.perturbed])]
    found.append(rate(name, partial(learn, taught), spec.epochs * len(taught), of=partial(learn, one)))
    pairs = denoising.encoded(pipe, sampling.encode(pipe, pixels), texts)
    g, steps = torch.Generator().manual_seed(0), pipe.scheduler.config.num_train_timesteps

    def update(size: int) -> None:
        latents, states, t, noise, _ = denoising.gathered([(pairs, *denoising.draw(pairs, size, g, steps))], pipe.device)
        denoising.denoising_loss(pipe, latents, states, t, noise).mean().backward()

    with tempfile.TemporaryDirectory() as folder:
        for batch, updates in UPDATES.items():
            spec = finetune.FinetuneSpec(updates=updates, batch=batch, average=0.99)
            tune = partial(finetune.finetune, pipe, pairs, pairs, spec, Path(folder), tell=lambda _: None)
            name = f"updates in fine-tuning, {batch[0]} + {batch[1]}"
            found.append(rate(name, tune, updates, True, of=partial(update, sum(batch))))
    return found


def main() -> None:
    """Print the rates as a table."""
    limit = matrix_rates()
    told = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {str(dtype).removeprefix('torch.')}" for dtype, rate in limit.items())
    print(f"{DEVICE}, {torch.get_num_threads()} threads; large matrices are multiplied at {told}")
    print(f"{'per second':>10} {'GFLOP each':>11} {'of the matrix rate':>19}")
    for r in rates():
        each = share = ""
        if r.operations:
            each = f"{r.operations / 1e9:.3g}"
            fastest = limit[torch.bfloat16 if r.fast and precision.FAST_BFLOAT16 else torch.float32]
            share = f"{r.items * r.operations / fastest:.0%}"
        print(f"{r.items:10,.1f} {each:>11} {share:>19}  {r.name}")


if __name__ == "__main__":
    main()
