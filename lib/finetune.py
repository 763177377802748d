"""Fine-tuning by reward-weighted likelihood plus the pre-training loss. Lee et al. 2023, section 3.3.

L = E_model[r(x, z) l(x | z)] + beta E_pre[l(x | z)], with l the denoising loss that stands for -log p. The whole U-Net is
tuned, the text encoder is frozen; latents are computed once for all models, text states once a model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from safetensors.torch import save as serialised
from torch import Tensor

from lib import checkpoint
from lib.cache import Artifact, keep, kept, stage
from lib.checks import finite
from lib.domains import check
from lib.precision import autocast
from lib.sampling import encode, encode_texts
from lib.seeds import rng_of, torch_seed

if TYPE_CHECKING:  # diffusers takes seconds to import, and much of the study needs no generator
    from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class FinetuneSpec:
    """One arm. AdamW's settings are the paper's (appendix); rate, beta and updates are chosen in notebook 05."""

    updates: int = 300
    learning_rate: float = 5e-4
    beta: float = 1.0
    batch: tuple[int, int] = (64, 32)  # model-generated, pre-training
    average: float = 0.0  # decay of an exponential moving average of the weights; 0 for none
    clip: float = 1.0  # largest norm of the gradient
    warmup: int = 20  # updates
    keep: tuple[int, ...] = ()  # updates after which weights are kept besides the last
    use_model: bool = True  # False: the pre-training loss alone (a control)
    seed: int = 0

    def __post_init__(self):
        check(
            self, updates="at least 1", learning_rate="in (0, inf)", beta="in [0, inf)", batch="at least 1",
            average="in [0, 1)", clip="in (0, inf)", warmup="at least 0", keep="at least 0, may be empty", seed="at least 0",
        )


@dataclass
class Pairs:
    """What a loss is over: latents [item, channel, height, width], text states [text, token, width], the text of each item
    (int64 [item]) and its weight, at least 0 (float32 [item])."""

    latents: Tensor
    states: Tensor
    text: Tensor
    weight: Tensor

    def __post_init__(self):
        if not len(self.latents) == len(self.text) == len(self.weight):
            counts = f"{len(self.latents)} latents, {len(self.text)} texts and {len(self.weight)} weights"
            raise ValueError(f"{counts}: want as many")
        if not torch.isfinite(self.weight).all() or self.weight.min() < 0:
            raise ValueError("weights must be finite and at least 0")


WEIGHTINGS = ("raw", "mean", "random", "thresholded", "exponential")


def threshold_of(reward: np.ndarray) -> float:
    """One half, as a threshold of rewards; where none is above it, as at size smoke, the one above which the highest quarter
    lies, and a line says so."""
    if reward.max() > 0.5:
        return 0.5
    threshold = float(np.nextafter(np.quantile(reward, 0.75), -np.inf, dtype=reward.dtype))
    print(f"no reward is above one half: the highest quarter is, above {threshold:.3g}")
    return threshold


def reweighted(reward: np.ndarray, how: str, seed: int = 0, threshold: float = 0.5) -> np.ndarray:
    """Weights of the loss from rewards in [0, 1], float [item], all with the mean of the rewards, so that beta keeps its
    meaning.

    `raw` is the paper's; `mean` (constant) and `random` (the same rewards, given to images by lot) are controls;
    `thresholded` keeps items above one half, or above another `threshold`, `exponential` is exp(4 r). Raises ValueError
    when nothing would be kept.
    """
    finite("rewards", reward)
    if how == "raw":
        return reward
    if how == "random":
        return rng_of(seed).permutation(reward)
    if how not in WEIGHTINGS:
        raise ValueError(f"unknown weighting {how!r}: one of {', '.join(WEIGHTINGS)}")
    out = {"mean": np.ones_like(reward), "thresholded": (reward > threshold) * 1.0, "exponential": np.exp(4 * reward)}[how]
    if not out.any():
        raise ValueError(f"no reward is above {'one half' if threshold == 0.5 else f'{threshold:g}'}: nothing to keep")
    return out * (reward.mean() / out.mean())


def denoising_loss(pipe: "StableDiffusionPipeline", latents: Tensor, states: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Squared error of each item, float [item], on the quantity that the model predicts (noise or v)."""
    alphas = pipe.scheduler.alphas_cumprod.to(latents.device)[t][:, None, None, None]
    a, s = alphas.sqrt(), (1 - alphas).sqrt()
    kind = pipe.scheduler.config.prediction_type
    if kind not in ("v_prediction", "epsilon"):
        raise ValueError(f"unknown prediction type {kind!r}: v_prediction or epsilon")
    target = a * noise - s * latents if kind == "v_prediction" else noise
    noisy = (a * latents + s * noise).contiguous(memory_format=torch.channels_last)
    with autocast():
        out = pipe.unet(noisy, t, encoder_hidden_states=states, return_dict=False)[0]
    return (out.float() - target).square().mean((1, 2, 3))


def latents_of(
    load: Callable[[], "StableDiffusionPipeline"], pixels: Callable[[], np.ndarray], inputs: Mapping[str, Artifact | str]
) -> Tensor:
    """Latents, float32 [image, channel, height, width], of uint8 images [image, height, width, 3]: a stage, as every model
    learns from the same few sets of images. `inputs` are the digests of the base and of the images."""

    def make(folder: Path) -> None:
        save_file({"latents": encode(load(), pixels()).contiguous().cpu()}, folder / "latents.safetensors")

    found = stage("latents", {}, inputs, make, ("lib.models", load, pixels))
    return load_file(found.path / "latents.safetensors")["latents"]


def encoded(
    pipe: "StableDiffusionPipeline", latents: Tensor, texts: Sequence[str], weight: np.ndarray | None = None
) -> Pairs:
    """Latents of images, their texts and weights [image] (None: 1 each) as a loss takes them."""
    place = {t: i for i, t in enumerate(dict.fromkeys(texts))}
    states, text = encode_texts(pipe, list(place)).cpu(), torch.tensor([place[t] for t in texts])
    weights = torch.ones(len(texts)) if weight is None else torch.as_tensor(weight).float()
    return Pairs(latents, states, text, weights)


def noise_levels(count: int, g: torch.Generator) -> Tensor:
    """Levels in [0, 1), float [count]: two in five spread evenly, the others over the last fifth, where a scene is composed.

    A glyph fills many latents and shows through all but the strongest noise: there it is settled how many there are.
    """
    even = (torch.arange(count) + torch.rand(count, generator=g)) / count
    return torch.where(even < 0.4, even / 0.4, 0.8 + (even - 0.4) / 3)[torch.randperm(count, generator=g)]


def draw(pairs: Pairs, count: int, g: torch.Generator, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows int64 [count], timesteps int64 [count] out of `steps` by `noise_levels`, and noise like the latents."""
    rows = torch.randint(len(pairs.latents), (count,), generator=g)
    t = (steps * noise_levels(count, g)).long().clamp(max=steps - 1)  # float32 rounds the last level up to 1 now and then
    noise = torch.randn((count, *pairs.latents.shape[1:]), generator=g)
    return rows, t, noise


def losses_of(pipe: "StableDiffusionPipeline", parts: Sequence[tuple[Pairs, Tensor, Tensor, Tensor]]) -> Tensor:
    """The denoising loss of what was drawn from several pairs, as (pairs, rows, timesteps, noise): float [item]."""
    columns = zip(*((p.latents[rows], p.states[p.text[rows]], t, noise) for p, rows, t, noise in parts), strict=True)
    return denoising_loss(pipe, *(torch.cat(column).to(pipe.device) for column in columns))


def step(optimiser: torch.optim.Optimizer, loss: Tensor, spec, update: int, what: str) -> None:
    """One update at the rate of `spec` (learning_rate, warmup, clip); raises ValueError on a loss that is not finite."""
    if not torch.isfinite(loss):
        raise ValueError(f"the {what} loss is {loss.item()} at update {update}: lower the learning rate")
    for group in optimiser.param_groups:
        group["lr"] = spec.learning_rate * min(1.0, (update + 1) / max(1, spec.warmup))
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], spec.clip)
    optimiser.step()


def finetune(
    pipe: "StableDiffusionPipeline",
    model: Pairs,
    pretraining: Pairs,
    spec: FinetuneSpec,
    folder: Path,
    tell: Callable[[str], None] = print,
) -> None:
    """Tune `pipe.unet` in place; writes `unet-<updates>.safetensors` (float16) under `folder`.

    An update's batch and noise depend on the spec's seed and the update alone, so arms that differ in weights or beta see
    the same. Resumes from `folder/_partial`. Raises ValueError when the loss stops being finite.
    """
    unet, device = pipe.unet.train(), pipe.device
    optimiser = torch.optim.AdamW(unet.parameters(), lr=spec.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2)
    ema = {n: p.detach().clone() for n, p in unet.named_parameters()} if spec.average else {}
    partial = folder / "_partial" / "state.safetensors"
    done = checkpoint.numbers(partial).get("done", 0)
    for name in [f"unet-{n}.safetensors" for n in spec.keep if 0 < n <= done]:
        if (weights := kept(partial.parent / name)) is None:  # to be made again, and all after it
            partial.unlink(missing_ok=True)
            break
        (folder / name).write_bytes(weights)
    done = int(checkpoint.resume(partial, unet, optimiser, ema).get("done", 0))
    steps = pipe.scheduler.config.num_train_timesteps
    for update in range(done, spec.updates):
        g = torch.Generator().manual_seed(torch_seed(1_000_003 * spec.seed + update))
        loss = torch.zeros((), device=device)
        rows, t, noise = draw(model, spec.batch[0], g, steps)
        rows_pre, t_pre, noise_pre = draw(pretraining, spec.batch[1], g, steps)
        parts = []
        if spec.use_model:
            parts.append((model, rows, t, noise, model.weight[rows] / spec.batch[0]))
        if spec.beta:
            parts.append((pretraining, rows_pre, t_pre, noise_pre, spec.beta * pretraining.weight[rows_pre] / spec.batch[1]))
        if not parts:
            raise ValueError("nothing to learn from: use_model is False and beta is 0")
        losses = losses_of(pipe, [part[:4] for part in parts])
        loss = (losses * torch.cat([part[4] for part in parts]).to(device)).sum()
        step(optimiser, loss, spec, update, "fine-tuning")
        for n, p in unet.named_parameters():
            if ema:
                ema[n].lerp_(p.detach(), 1 - min(spec.average, (1 + update) / (10 + update)))
        if update + 1 in (*spec.keep, spec.updates):
            weights = ema or dict(unet.named_parameters())
            half = serialised({n: w.detach().half().cpu().contiguous() for n, w in weights.items()}, {"format": "pt"})
            (folder / f"unet-{update + 1}.safetensors").write_bytes(half)
            if update + 1 < spec.updates:  # the stage sweeps its folder after a kill, but not this one
                keep(partial.parent / f"unet-{update + 1}.safetensors", half)
        if (update + 1) % 50 == 0 and update + 1 < spec.updates:
            tell(f"update {update + 1} of {spec.updates}, loss {loss.item():.3f}")
            checkpoint.save(partial, unet, optimiser, ema, done=update + 1)
    unet.eval()


def ceiling(reward: np.ndarray, good: np.ndarray) -> float:
    """E[r good] / E[r]: the good share that the reward's weighting leaves among the training images, in [0, 1]."""
    if not finite("rewards", reward).sum() > 0:
        raise ValueError("the rewards sum to 0: no image has a weight")
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

    return stage("unet", asdict(spec), inputs, make, ("lib.models", load, model, pretraining))
