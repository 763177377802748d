"""Adapting the generator to preferences: a LoRA trained on a prompt's images of highest and lowest score.

Wu et al. 2023, section 5. The worst images keep their prompt, with a prefix that is the negative prompt at inference.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from lib.feedback.taste import TasteSpec, weights
from lib.ground import checkpoint, stats
from lib.ground.cache import Artifact, stage
from lib.ground.checks import finite
from lib.ground.domains import check
from lib.ground.seeds import name_of, seed_of, torch_seed, uniforms
from lib.methods.denoising import Pairs, denoising_loss, draw, gathered
from lib.methods.training import EVERY, Updates, adamw
from lib.world.prompts import PREFIX

if TYPE_CHECKING:  # diffusers takes seconds to import, and much of the study needs no generator
    from diffusers import StableDiffusionPipeline

PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]  # of all attention in the U-Net
AT_LEAST = 4  # images per group
FEWEST = 2  # prompts selected regardless of the threshold: an interval over prompts needs two
USERS = 20  # in the user study
VOTER, SELECTOR = "voter", "selector"  # users in the study, and users who choose rate and updates: no one is both
TESTED = ("no non-preferred", "another prefix", "coin choices")  # arms against which the prefix shows its effect

# Table 4: the base, and adapted with the negative prompt (HPS as a cosine); the user study's shares of prompts won and lost.
PAPER_TABLE = {
    "base": dict(frechet=19.72, aesthetic=5.90, clip_score=0.2816, hps=0.1898),
    "adapted, negative prompt": dict(frechet=19.35, aesthetic=6.06, clip_score=0.2831, hps=0.1916),
}
PAPER_STUDY = {"win": 0.74, "lose": 0.22}


@dataclass(frozen=True)
class AdaptationSpec:
    """One adapted model. Prefix, rank, batch size, AdamW's settings and clipping are the paper's; the rest is ours."""

    rank: int = 32
    threshold: float = 2.0  # a group's best image is preferred if its softmax exceeds threshold / n; likewise its worst
    prefix: str = PREFIX  # before the prompts of non-preferred images
    swapped: bool = False  # a control: preferred and non-preferred images are swapped
    updates: int | None = None  # None: as many as the study's size says
    learning_rate: float = 1e-2  # at the start; the centre of the grid in notebook 09
    batch: tuple[int, int, int] = (18, 14, 8)  # preferred, non-preferred, real; 40 as in the paper, shares by users' votes
    clip: float = 1.0  # maximum gradient norm
    warmup: int = 20  # updates
    seed: int = 0  # of the run

    def __post_init__(self):
        above, counted = "in (0, inf)", "at least 1"
        check(
            self, rank=counted, threshold=above, updates=counted, learning_rate=above, batch="at least 0, not all 0",
            clip=above, warmup="at least 0", seed="at least 0",
        )


# ---- selection -----------------------------------------------------------------------------------------------------


def near_uniform(images: np.ndarray, spread: float = 10.0) -> np.ndarray:
    """Whether uint8 images [image, height, width, 3] are nearly uniform, with `spread` in 8-bit units: bool [image]."""
    return finite("pixels", images).reshape(len(images), -1, 3).std(1).max(1) < spread


def select(
    scores: np.ndarray, prompts: Sequence[str], usable: np.ndarray, threshold: float = 2.0,
    budget: tuple[int, int] | None = None, fewest: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The preferred and the non-preferred images, int [image] each, at most one of each per prompt.

    Of a prompt's n `usable` images (at least 4), the one with the highest score is preferred if softmax(scores) gives it
    more than threshold / n, and the one with the lowest is non-preferred if softmax(-scores) does. If fewer than `fewest`
    prompts pass, as at size smoke, the `fewest` with the clearest scores are taken, and a line says so. A `budget` (two
    numbers of images) replaces the threshold: the prompts with the clearest scores are taken. Raises ValueError if no prompt
    passes, or if fewer than `fewest` have enough images with different scores.
    """
    finite("scores", scores), finite("usable", usable)
    table = pd.DataFrame({"prompt": list(prompts), "row": np.arange(len(scores))})[np.asarray(usable, bool)]
    found: list[list[tuple[float, int]]] = [[], []]
    for _, rows in table.groupby("prompt", sort=False).row:
        if len(rows) >= AT_LEAST and np.ptp(np.asarray(scores, float)[rows]) > 0:  # if all are equal, none is the best
            for sign, kept in zip((1, -1), found, strict=True):
                given = sign * np.asarray(scores, float)[rows]
                p = np.exp(given - given.max())
                kept.append((len(rows) * p.max() / p.sum(), int(rows.iloc[p.argmax()])))
    out = []
    for kind, kept, wanted in zip(("preferred", "non-preferred"), found, budget or (None, None), strict=True):
        passing = wanted if budget else sum(k[0] > threshold for k in kept)
        if len(kept) < fewest:
            raise ValueError(
                f"{len(kept)} prompts have at least {AT_LEAST} usable images whose scores differ, but {fewest} are needed: "
                "increase `prompts`, `images` or `unlabelled` of the size (lib/ground/sizes.py)"
            )
        if passing < fewest:
            few = f"only {passing} of {len(kept)} prompts pass the threshold of {threshold:g} / n"
            print(f"{kind}: {few}, so the {fewest} with the clearest scores are used")
        if not (chosen := sorted(kept, key=lambda k: (-k[0], k[1]))[: max(passing, fewest)]):
            raise ValueError(f"no prompt passes the threshold of {threshold:g} / n: use a lower threshold or more prompts")
        out.append(np.array(sorted(row for _, row in chosen)))
    return out[0], out[1]


# ---- training ------------------------------------------------------------------------------------------------------


def adapt(pipe: "StableDiffusionPipeline", streams: Sequence[Pairs], spec: AdaptationSpec, folder: Path) -> None:
    """Train a LoRA on all attention projections of `pipe.unet`; writes `pytorch_lora_weights.safetensors` under `folder`.

    `streams` are preferred, non-preferred and real pairs, mixed according to `spec.batch`; the loss is the plain denoising
    loss. The learning rate falls linearly to 0, so that the result does not hinge on the batches of the last updates. What
    an update draws from a stream depends only on the seed and the update. Resumes from `folder/_partial`. Raises ValueError
    if the loss stops being finite.
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig, get_peft_model_state_dict

    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(spec.seed))
        pipe.unet.requires_grad_(False).add_adapter(
            LoraConfig(r=spec.rank, lora_alpha=spec.rank, init_lora_weights="gaussian", target_modules=PROJECTIONS)
        )
    unet = pipe.unet.train()
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimiser = adamw(parameters, spec.learning_rate)
    partial, steps = folder / "_partial" / "state.safetensors", pipe.scheduler.config.num_train_timesteps
    done = int(checkpoint.resume(partial, unet, optimiser, {}).get("done", 0))
    streams = [s.near(pipe.device) for s in streams]

    def loss(latents: Tensor, states: Tensor, t: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
        return denoising_loss(pipe, latents, states, t, noise).mean()

    def clip() -> None:
        clip_grad_norm_(parameters, spec.clip)

    updates = Updates(unet, optimiser, loss, "adaptation", done, before_step=clip)
    for update in range(done, spec.updates):
        drawn = [
            (s, *draw(s, n, torch.Generator().manual_seed(seed_of("adapt", spec.seed, update, i)), steps))
            for i, (s, n) in enumerate(zip(streams, spec.batch, strict=True)) if n
        ]  # fmt: skip
        falling = spec.learning_rate * (1 - update / spec.updates)
        updates(gathered(drawn, pipe.device), [falling * min(1.0, (update + 1) / max(1, spec.warmup))])
        if (update + 1) % EVERY == 0 and update + 1 < spec.updates:
            updates.check()
            checkpoint.save(partial, unet, optimiser, {}, done=update + 1)
    updates.check()
    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet.eval()))
    pipe.save_lora_weights(folder, unet_lora_layers=weights, safe_serialization=True)


def adapted(
    load: Callable[[], "StableDiffusionPipeline"], streams: Callable[["StableDiffusionPipeline"], Sequence[Pairs]],
    spec: AdaptationSpec, inputs: Mapping[str, Artifact | str],
) -> Artifact:
    """The stage of one LoRA. `inputs` are the digests of the base, the streams' images and the selection."""

    def make(folder: Path) -> None:
        pipe = load()
        adapt(pipe, streams(pipe), spec, folder)

    return stage("lora", asdict(spec), inputs, make, ("lib.images.models", load, streams))


# ---- Table 4 -------------------------------------------------------------------------------------------------------


def differences(values: Mapping[str, Mapping[str, np.ndarray]], a: str, b: str, prompts: Sequence[str]) -> list[dict]:
    """One row per measure: model `a` minus model `b` on the same images, also relative to b (`relative`; None unless the
    interval of b's mean is above 0), with 95 % intervals over prompts and runs.

    `values` float [run, image], by model and measure; a model with one run is compared with each run of the other.
    """
    rows = []
    for measure in values[a]:
        x, y = np.broadcast_arrays(values[a][measure], values[b][measure])
        f, sure = stats.paired_difference(x, y, prompts), stats.cluster_bootstrap(y, prompts).low > 0
        share = stats.relative_difference(x, y, prompts) if sure else None
        ends = {"relative": "value", "relative_low": "low", "relative_high": "high"}
        row = dict(a=a, b=b, measure=measure, value=f.value, low=f.low, high=f.high, prompts=f.clusters, seeds=f.seeds)
        rows.append(row | {name: getattr(share, part, None) for name, part in ends.items()})
    return rows


# ---- the user study ------------------------------------------------------------------------------------------------


def votes(
    a: np.ndarray, b: np.ndarray, names: Sequence[tuple[str, str]], users: Sequence[str], taste: TasteSpec
) -> np.ndarray:
    """Which of two images each simulated user prefers: bool [user, pair], True for the first.

    `a`, `b` are traits in their units, float [pair, trait]; `names` are both images' names, including their models, because
    two models' images from the same initial noise share a name. Images are shown side by side in an order drawn for each
    user, so that taking one unseen is a coin toss. A vote depends only on the user and the two images: swapping the sides
    swaps the votes. If two images are liked exactly equally, every other user votes for the first.
    """
    gap = weights(users, taste) @ (finite("traits", a) - finite("traits", b)).T / taste.noise
    chance = (1 - taste.last) / (1 + np.exp(-gap)) + taste.last / 2
    # One threshold, at the probability of the name that sorts first, moves only as much as that probability. Drawing whether
    # the better-liked image gets the vote would need no order, but could flip all votes on two images liked almost equally.
    pairs, turned = [name_of(*sorted(pair)) for pair in names], np.array([x > y for x, y in names])
    drawn = np.stack([uniforms(pairs, "study", user) for user in users])
    for_first = np.where(turned, drawn >= 1 - chance, drawn < chance)
    return np.where(gap == 0, np.arange(len(users))[:, None] % 2 == 0, for_first)


def majorities(found: np.ndarray) -> np.ndarray:
    """The outcome of each pair, int [..., pair]: 1 if more than half of the users [..., user, pair] prefer the first image,
    -1 if more than half prefer the second, else 0."""
    won = 2 * finite("votes", found).sum(-2)
    return np.sign(won - found.shape[-2]).astype(int)


def mechanism(verdicts: Mapping[str, str], runs: int) -> str:
    """What users' votes say about the paper's mechanism, in words, from verdicts on the adapted model against each arm of
    TESTED (`better`, `worse`, or anything else if the interval contains 0) and the number of runs per arm."""
    without, *others = (verdicts[arm] for arm in TESTED)
    steering = "the paper's mechanism, in which the negative prompt steers away from what was learnt under it,"
    first = {
        "better": f"Users like the images less when non-preferred images are left out: {steering} holds here",
        "worse": f"Users like the images more when non-preferred images are left out: {steering} does not hold here",
    }.get(without, f"Leaving out non-preferred images makes no detectable difference: {steering} is not shown here")
    how = {"better": "does worse", "worse": "does better"}
    named = zip(("another prefix", "choosing by coin toss"), others, strict=True)
    rest = [f"{arm} {how.get(v, 'makes no detectable difference')}" for arm, v in named]
    over = "prompts only, with one run per arm" if runs == 1 else f"prompts and {runs} runs per arm"
    return f"{first}; {' and '.join(rest)}. Intervals are over {over}."
