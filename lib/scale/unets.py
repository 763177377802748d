"""Fine-tuning the U-Net of a latent-diffusion model on cached latents: the whole of it, or a LoRA.

Lee et al. 2023, section 3.3: reward-weighted likelihood plus the pre-training loss. Wu et al. 2023, section 5: a LoRA on
preferred, non-preferred and real images. Captions are encoded as they come: with Stable Diffusion's shapes the text encoder
costs 1 % of an update.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from lib.ground.cache import PARTIAL
from lib.ground.seeds import seed_of, torch_seed
from lib.ground.setups import Training
from lib.methods.adaptation import PROJECTIONS, AdaptationSpec
from lib.methods.finetune import FinetuneSpec
from lib.methods.training import sent
from lib.scale.draws import Items, items
from lib.scale.grid import Grid
from lib.scale.halves import DTYPES, halve_frozen
from lib.scale.tuning import Tuning, Upkeep, ahead, micro_batches, write_weights

EMPTY = {"": 1.0}  # what replaces a dropped caption, by weight: nothing, as in both papers


class Latents(Protocol):
    """Latents with captions, read by row, such as `lib.scale.pairs.PairLatents`."""

    def __len__(self) -> int: ...

    def latents(self, rows: Sequence[int]) -> Tensor: ...

    def captions(self, rows: Sequence[int]) -> list[str]: ...


@dataclass(frozen=True)
class Stream:
    """A data set to draw from, with the weight of each item in the loss, at least 0 (float32 [item]; None: 1 each)."""

    data: Latents
    weight: Tensor | None = None

    def __post_init__(self):
        w = self.weight
        if w is not None and len(w) != len(self.data):
            raise ValueError(f"{len(self.data):,} latents and {len(w):,} weights: need the same number of each")
        if w is not None and not (w.isfinite().all() and (w >= 0).all()):
            raise ValueError("weights must be finite and at least 0")


class Loss:
    """The weighted denoising loss of some items of the global batch, for a network that predicts noise or v."""

    def __init__(
        self, pipe, streams: Sequence[Stream], factors: Sequence[float], blanks: Mapping[str, float], training: Training
    ):  # fmt: skip
        self.pipe, self.streams, self.factors, self.blanks = pipe, streams, factors, list(blanks)
        self.alphas, self.gamma = pipe.scheduler.alphas_cumprod.to(pipe.device), training.min_snr
        self.kind = pipe.scheduler.config.prediction_type
        if self.kind not in ("v_prediction", "epsilon"):
            raise ValueError(f"unknown prediction type {self.kind!r}: expected v_prediction or epsilon")

    def batch(self, drawn: Items) -> tuple[Tensor, ...]:
        """Latents, token numbers, timesteps, noise and weights of some items, on the CPU."""
        latents, texts, weight = torch.empty_like(drawn.noise), [""] * len(drawn), torch.empty(len(drawn))
        for i, (stream, factor) in enumerate(zip(self.streams, self.factors, strict=True)):
            if len(place := (drawn.source == i).nonzero()[:, 0]):
                rows = drawn.row[place]
                latents[place] = stream.data.latents(rows.tolist()).to(latents)
                weight[place] = factor * (1.0 if stream.weight is None else stream.weight[rows])
                for p, text in zip(place.tolist(), stream.data.captions(rows.tolist()), strict=True):
                    texts[p] = text if drawn.blank[p] < 0 else self.blanks[drawn.blank[p]]
        longest = self.pipe.tokenizer.model_max_length
        ids = self.pipe.tokenizer(texts, padding="max_length", truncation=True, max_length=longest, return_tensors="pt")
        return latents, ids.input_ids, drawn.timestep, drawn.noise, weight

    def __call__(self, network: nn.Module, latents: Tensor, ids: Tensor, t: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
        """Their part of the global batch's mean loss."""
        with torch.no_grad():
            states = self.pipe.text_encoder(ids).last_hidden_state
        alpha = self.alphas[t][:, None, None, None]
        a, s = alpha.sqrt(), (1 - alpha).sqrt()
        target = a * noise - s * latents if self.kind == "v_prediction" else noise
        noisy = (a * latents + s * noise).contiguous(memory_format=torch.channels_last)
        out = network(noisy, t, encoder_hidden_states=states, return_dict=False)[0]
        return ((out.float() - target).square().mean((1, 2, 3)) * weight * self.level(t)).sum()

    def level(self, t: Tensor) -> Tensor | float:
        """Min-SNR weights [item] of timesteps (Hang et al. 2023), or 1."""
        if not self.gamma:
            return 1.0
        snr = self.alphas[t] / (1 - self.alphas[t])
        return snr.clamp(max=self.gamma) / (snr + (1 if self.kind == "v_prediction" else 0))


def finetune(
    accelerator, pipe, model: Stream, pretraining: Stream, spec: FinetuneSpec, training: Training, folder: Path,
    upkeep: Upkeep, blanks: Mapping[str, float] = EMPTY, grid: Grid | None = None, tell: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Tune the whole of `pipe.unet` by E_model[r l] + beta E_pre[l].

    Writes `unet-<updates>.safetensors`, float32, in `folder / "_partial" / "out"`, because a killed stage keeps that. With
    the law `scene` and `mini`'s blanks these are the updates of `lib.methods.finetune`.
    """
    if not (spec.use_model or spec.beta):
        raise ValueError("nothing to learn from: use_model is False and beta is 0")
    factors = [1 / spec.batch[0], spec.beta / spec.batch[1]]
    loss = Loss(pipe, [model, pretraining], factors, blanks, training)
    used = torch.tensor([spec.use_model, spec.beta > 0])
    halve_frozen(pipe, DTYPES[training.precision])
    pipe.unet.float().requires_grad_(True)

    def drawn(update: int) -> Items:
        g = Generator().manual_seed(torch_seed(1_000_003 * spec.seed + update))
        lengths, law = [len(model.data), len(pretraining.data)], training.timesteps
        whole = items(lengths, spec.batch, _shape(pipe), _steps(pipe), law, [g, g], blanks, spec.caption_dropout)
        return whole[used[whole.source]]

    def average(update: int) -> float:
        return 1 - min(spec.average, (1 + update) / (10 + update))

    def keep(tuning: Tuning) -> None:
        due = tuning.done in (*spec.keep, spec.updates)
        if due:
            tuning.look()
        if due and accelerator.is_main_process:
            weights = tuning.average.means if tuning.average else tuning.weights
            write_weights(weights, tuning.checkpoints.folder / "out" / f"unet-{tuning.done}.safetensors")

    _train(accelerator, "fine-tuning", loss, drawn, spec.updates, spec.rate, training, folder, upkeep, grid, tell, keep,
           average=average if spec.average else None, clip=spec.clip)  # fmt: skip


def adapt(
    accelerator, pipe, streams: Sequence[Stream], spec: AdaptationSpec, training: Training, folder: Path,
    upkeep: Upkeep, grid: Grid | None = None, tell: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Train a LoRA on all attention projections of `pipe.unet`, which is frozen in half precision; its weights are float32.

    `streams` are preferred, non-preferred and real pairs; writes `pytorch_lora_weights.safetensors` in
    `folder / "_partial" / "out"`.
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    halve_frozen(pipe, DTYPES[training.precision])
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(spec.seed))
        add_lora(pipe.unet, spec.rank, DTYPES[training.precision])
    loss = Loss(pipe, streams, [1 / sum(spec.batch)] * len(streams), EMPTY, training)

    def drawn(update: int) -> Items:
        g = [Generator().manual_seed(seed_of("adapt", spec.seed, update, i)) for i in range(len(streams))]
        return items([len(s.data) for s in streams], spec.batch, _shape(pipe), _steps(pipe), training.timesteps, g)

    def rate(update: int) -> float:
        return spec.learning_rate * (1 - update / spec.updates) * min(1.0, (update + 1) / max(1, spec.warmup))

    def keep(tuning: Tuning) -> None:
        if accelerator.is_main_process and tuning.done == spec.updates:
            weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
            out = tuning.checkpoints.folder / "out"
            pipe.save_lora_weights(out, unet_lora_layers=weights, safe_serialization=True)

    _train(accelerator, "adaptation", loss, drawn, spec.updates, rate, training, folder, upkeep, grid, tell, keep,
           clip=spec.clip)  # fmt: skip


def add_lora(unet, rank: int, dtype: torch.dtype) -> None:
    """Freeze a U-Net in `dtype` and add a LoRA to all its attention projections: float32, the only weights that learn."""
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=PROJECTIONS)
    unet.requires_grad_(False).to(dtype).add_adapter(config)
    cast_training_params(unet)


def _train(
    accelerator, what: str, loss: Loss, drawn: Callable[[int], Items], updates: int, rate: Callable[[int], float],
    training: Training, folder: Path, upkeep: Upkeep, grid: Grid | None, tell, keep: Callable[[Tuning], None], *,
    average: Callable[[int], float] | None = None, clip: float,
) -> None:  # fmt: skip
    """All updates from the newest checkpoint on, with what `keep` and the grid write on the way."""
    if accelerator.num_processes > (least := len(drawn(0))):
        raise ValueError(f"{accelerator.num_processes} processes share out {least} items of a batch: use {least} at most")
    unet, partial = loss.pipe.unet.train(), folder / PARTIAL
    if training.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    tuning = Tuning(accelerator, unet, what, partial, training, upkeep, clip=clip, average=average is not None)

    def mine(update: int) -> tuple[Tensor, ...]:
        return loss.batch(drawn(update).share(accelerator.process_index, accelerator.num_processes))

    for update, batch in ahead(mine, range(tuning.done, updates)):
        parts = [[x[here] for x in batch] for here in micro_batches(len(batch[-1]), training.micro_batch)]
        losses = (lambda p=p: loss(tuning.network, *(sent(x, accelerator.device) for x in p)) for p in parts)
        tuning.update(losses, rate(update), average(update) if average else 0.0)
        keep(tuning)  # before the checkpoint after which a resumed run goes on
        if grid and upkeep.validate and tuning.done % upkeep.validate == 0:
            grid.draw(accelerator, loss.pipe, tuning, partial / "out" / "validation")
        tuning.upkeep_due(updates, tell)
    accelerator.wait_for_everyone()
    unet.eval()


def _shape(pipe) -> tuple[int, int, int]:
    config = pipe.unet.config
    return config.in_channels, config.sample_size, config.sample_size


def _steps(pipe) -> int:
    return pipe.scheduler.config.num_train_timesteps
