"""Fine-tuning by reward-weighted likelihood plus the pre-training loss. Lee et al. 2023, section 3.3.

L = E_model[r(x, z) l(x | z)] + beta E_pre[l(x | z)], where l is the denoising loss, in place of -log p. The whole U-Net is
tuned; the text encoder is frozen.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save as serialised
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from lib.ground import checkpoint
from lib.ground.cache import Artifact, keep, kept, stage
from lib.ground.checks import finite
from lib.ground.domains import check
from lib.ground.seeds import rng_of, torch_seed
from lib.ground.sizes import SamplerSpec
from lib.images.sampling import encode_texts
from lib.methods.denoising import CAPTION_DROPOUT, NO_CAPTION, Pairs, denoising_loss, draw, dropped, gathered
from lib.methods.training import EVERY, Updates, adamw, sent

if TYPE_CHECKING:  # diffusers takes seconds to import, and much of the study needs no generator
    from diffusers import StableDiffusionPipeline


SCHEDULES = ("falling", "constant")


@dataclass(frozen=True)
class FinetuneSpec:
    """One arm. AdamW's settings are the paper's (appendix); learning rate, its schedule, beta, updates and the guidance
    scale of the model's own images are chosen in notebook 05."""

    updates: int = 300
    learning_rate: float = 5e-4
    schedule: str = "falling"  # of the learning rate after warm-up: falling to 0 at the end, or constant
    beta: float = 1.0
    drawn_at: float = SamplerSpec().guidance_scale  # guidance scale of the model's own images: for `study`, which draws them
    caption_dropout: float = CAPTION_DROPOUT
    batch: tuple[int, int] = (64, 32)  # model-generated, pre-training
    average: float = 0.0  # decay of an exponential moving average of the weights; 0: none
    clip: float = 1.0  # maximum gradient norm
    warmup: int = 20  # updates
    keep: tuple[int, ...] = ()  # updates after which weights are kept, besides the last
    use_model: bool = True  # False: the pre-training loss alone (a control)
    seed: int = 0

    def __post_init__(self):
        check(
            self, updates="at least 1", learning_rate="in (0, inf)", beta="in [0, inf)", batch="at least 1",
            drawn_at="in [0, inf)", caption_dropout="in [0, 1)", average="in [0, 1)", clip="in (0, inf)",
            warmup="at least 0", keep="at least 0, may be empty", seed="at least 0",
        )  # fmt: skip
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.schedule!r}: expected one of {', '.join(SCHEDULES)}")

    def rate(self, update: int) -> float:
        """AdamW's learning rate at an update, counted from 0."""
        falling = 1 - update / self.updates if self.schedule == "falling" else 1.0
        return self.learning_rate * falling * min(1.0, (update + 1) / max(1, self.warmup))


WEIGHTINGS = ("raw", "constant", "random", "thresholded", "exponential")


def threshold_of(reward: np.ndarray) -> float:
    """The threshold of rewards: one half or, if no reward is above it, as at size smoke, the value that the highest quarter
    exceeds, and a line says so."""
    if reward.max() > 0.5:
        return 0.5
    threshold = float(np.nextafter(np.quantile(reward, 0.75), -np.inf, dtype=reward.dtype))
    print(f"no reward is above one half, so the threshold is {threshold:.3g}, which the highest quarter exceeds")
    return threshold


def reweighted(reward: np.ndarray, how: str, seed: int = 0, threshold: float = 0.5) -> np.ndarray:
    """Weights of the loss from rewards in [0, 1], float [item]; their mean is always that of the rewards, so that beta keeps
    its meaning.

    `raw` is the paper's; `constant` and `random` (the same rewards, shuffled) are controls; `thresholded` keeps items above
    one half, or above another `threshold`; `exponential` is exp(4 r). Raises ValueError if nothing would be kept.
    """
    finite("rewards", reward)
    if how == "raw":
        return reward
    if how == "random":
        return rng_of(seed).permutation(reward)
    if how not in WEIGHTINGS:
        raise ValueError(f"unknown weighting {how!r}: expected one of {', '.join(WEIGHTINGS)}")
    ones, kept = np.ones_like(reward), (reward > threshold) * 1.0
    out = {"constant": ones, "thresholded": kept, "exponential": np.exp(4 * reward)}[how]
    if not out.any():
        raise ValueError(f"no reward is above {'one half' if threshold == 0.5 else f'{threshold:g}'}: nothing to keep")
    return out * (reward.mean() / out.mean())


def finetune(
    pipe: "StableDiffusionPipeline",
    model: Pairs,
    pretraining: Pairs,
    spec: FinetuneSpec,
    folder: Path,
    tell: Callable[[str], None] = print,
) -> None:
    """Tune `pipe.unet` in place; writes `unet-<updates>.safetensors` (float16) under `folder`.

    An update's batch and noise depend only on the spec's seed and the update, so arms that differ in weights or beta get the
    same ones. Resumes from `folder/_partial`. Raises ValueError if the loss stops being finite.
    """
    if not (spec.use_model or spec.beta):
        raise ValueError("nothing to learn from: use_model is False and beta is 0")
    unet, steps = pipe.unet.train(), pipe.scheduler.config.num_train_timesteps
    optimiser = adamw(unet.parameters(), spec.learning_rate)
    ema = {n: p.detach().clone() for n, p in unet.named_parameters()} if spec.average else {}
    partial = folder / "_partial" / "state.safetensors"
    for name in [f"unet-{n}.safetensors" for n in spec.keep if 0 < n <= checkpoint.numbers(partial).get("done", 0)]:
        if (weights := kept(partial.parent / name)) is None:  # train this one again, and all after it
            partial.unlink(missing_ok=True)
            break
        (folder / name).write_bytes(weights)
    done = int(checkpoint.resume(partial, unet, optimiser, ema).get("done", 0))
    model = replace(model, weight=model.weight / spec.batch[0]).near(pipe.device)
    pretraining = replace(pretraining, weight=spec.beta * pretraining.weight / spec.batch[1]).near(pipe.device)
    nothing = encode_texts(pipe, list(NO_CAPTION))

    def loss(latents: Tensor, states: Tensor, t: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
        return (denoising_loss(pipe, latents, states, t, noise) * weight).sum()

    def clip() -> None:
        clip_grad_norm_(unet.parameters(), spec.clip)

    updates = Updates(unet, optimiser, loss, "fine-tuning", done, before_step=clip, averages=ema)
    for update in range(done, spec.updates):
        g = torch.Generator().manual_seed(torch_seed(1_000_003 * spec.seed + update))
        drawn = [(p, *draw(p, n, g, steps)) for p, n in zip((model, pretraining), spec.batch, strict=True)]
        lost = [dropped(n, spec.caption_dropout, g) for n in spec.batch]
        used = [i for i, wanted in enumerate((spec.use_model, spec.beta)) if wanted]
        latents, states, *others = gathered([drawn[i] for i in used], pipe.device)
        blank = sent(torch.cat([lost[i] for i in used]), pipe.device)
        states = torch.where(blank[:, None, None] < 0, states, nothing[blank])
        updates((latents, states, *others), [spec.rate(update)], 1 - min(spec.average, (1 + update) / (10 + update)))
        if update + 1 in (*spec.keep, spec.updates):
            updates.check()
            weights = ema or dict(unet.named_parameters())
            half = serialised({n: w.detach().half().cpu().contiguous() for n, w in weights.items()}, {"format": "pt"})
            (folder / f"unet-{update + 1}.safetensors").write_bytes(half)
            if update + 1 < spec.updates:  # after a kill the stage empties its folder, except `_partial`
                keep(partial.parent / f"unet-{update + 1}.safetensors", half)
        if (update + 1) % EVERY == 0 and update + 1 < spec.updates:
            tell(f"update {update + 1} of {spec.updates}, loss {updates.check():.3f}")
            checkpoint.save(partial, unet, optimiser, ema, done=update + 1)
    unet.eval()


def ceiling(reward: np.ndarray, good: np.ndarray) -> float:
    """E[r good] / E[r], in [0, 1]: the good share among the training images when weighted by the reward."""
    if not finite("rewards", reward).sum() > 0:
        raise ValueError("the rewards sum to 0: at least one image needs a reward above 0")
    return float((reward * finite("labels", good)).sum() / reward.sum())


def tuned(
    load: Callable[[], "StableDiffusionPipeline"],
    model: Callable[["StableDiffusionPipeline"], Pairs],
    pretraining: Callable[["StableDiffusionPipeline"], Pairs],
    spec: FinetuneSpec,
    inputs: Mapping[str, Artifact | str],
) -> Artifact:
    """The stage of one fine-tuned U-Net. `inputs` are the digests of the base, the two data sets and the weights."""

    def make(folder: Path) -> None:
        pipe = load()
        finetune(pipe, model(pipe), pretraining(pipe), spec, folder)

    return stage("unet", asdict(spec), inputs, make, ("lib.images.models", load, model, pretraining))
