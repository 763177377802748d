"""The Human Preference Score's CLIP, tuned on choices in several processes. Wu et al. 2023, section 4.

The loss, the tuned layers and the order of groups are those of `lib.methods.preference`.
"""

import shutil
from collections.abc import Callable, Sequence
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.ground.cache import PARTIAL
from lib.ground.seeds import torch_seed
from lib.ground.setups import Training
from lib.images.embedding import preprocessed
from lib.methods.preference import PreferenceSpec, choice_loss, last_layers
from lib.methods.training import sent
from lib.scale.tuning import Tuning, Upkeep, ahead, micro_batches, write_weights


class Cosines(nn.Module):
    """Cosines [image] of images with their group's prompt: CLIP as one call, so that processes exchange gradients."""

    def __init__(self, clip: nn.Module):
        super().__init__()
        self.clip = clip

    def forward(self, image: Tensor, text: Tensor, owner: Tensor) -> Tensor:
        image = self.clip.encode_image(image.contiguous(memory_format=torch.channels_last))
        image, text = (F.normalize(x.float(), dim=-1) for x in (image, self.clip.encode_text(text)))
        return (image * text[owner]).sum(-1)


def tune(
    accelerator, clip: nn.Module, preprocess: Callable, tokenizer: Callable, pixels, prompts: Sequence[str],
    rows: np.ndarray, counts: np.ndarray, spec: PreferenceSpec, training: Training, folder: Path, upkeep: Upkeep,
    tell: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Tune `clip` in place; writes `open_clip_model.safetensors`, float32, in `folder / "_partial" / "out"`.

    `pixels` gives an image, uint8 [height, width, 3], by its number, from memory or disk; `prompts` [image]; `rows` and
    `counts` int [group, image] as in `lib.methods.preference.counted`.
    """
    clip = clip.eval()  # the statistics of batch normalisation are frozen
    tuned = set(last_layers(clip, spec.image_share, spec.text_share))
    for name, p in clip.named_parameters():
        p.requires_grad_(name in tuned)
    batches, rank, processes = orders(len(rows), spec), accelerator.process_index, accelerator.num_processes
    tuning = Tuning(accelerator, Cosines(clip), "preference", folder / PARTIAL, training, upkeep,
                    weight_decay=spec.weight_decay, clip=None)  # fmt: skip

    def part(groups: Tensor) -> tuple[Tensor, ...]:
        """Images, prompts and their places, and counts, of some groups."""
        group = torch.from_numpy(rows[groups.numpy()])
        given = group >= 0
        place = given.flatten().nonzero()[:, 0]
        shown = preprocessed(preprocess, np.stack([pixels[int(i)] for i in group[given]]))
        count = torch.from_numpy(counts[groups.numpy()])
        return shown, tokenizer([prompts[i] for i in group[:, 0]]), place // group.shape[1], place, given, count

    def mine(update: int) -> tuple[list[tuple[Tensor, ...]], float]:
        """Micro-batches of this process's groups, and the weight of their counts in the loss."""
        groups, whole = batches[update][rank::processes], int(counts[batches[update].numpy()].sum())
        if not len(groups):  # more processes than groups: it must take part in the exchange all the same
            return [part(batches[update][:1])], 0.0
        return [part(groups[here]) for here in micro_batches(len(groups), training.micro_batch)], 1 / whole

    def loss(factor: float, *x: Tensor) -> Tensor:
        image, text, owner, place, given, count = (sent(part, accelerator.device) for part in x)
        cosine = tuning.network(image, text, owner).float()
        scores = cosine.new_zeros(given.numel()).index_copy(0, place, cosine).view(given.shape)
        return choice_loss(spec.scale * scores, given, count) * count.sum() * factor

    for update, (parts, factor) in ahead(mine, range(tuning.done, len(batches))):
        losses = (lambda p=p, f=factor: loss(f, *p) for p in parts)
        tuning.update(losses, spec.learning_rate * (1 + cos(pi * update / len(batches))) / 2)
        tuning.upkeep_due(len(batches), tell)
    if accelerator.is_main_process:
        write_weights(clip.state_dict(), folder / PARTIAL / "out" / "open_clip_model.safetensors")
    accelerator.wait_for_everyone()


def copy_layout(source: Path, folder: Path) -> None:
    """Copy an open_clip folder's configuration and tokenizer, so that `local-dir:` loads the tuned weights."""
    for path in source.glob("*.json"):
        if path.name != "card.json":
            shutil.copy(path, folder / path.name)


def orders(count: int, spec: PreferenceSpec) -> list[Tensor]:
    """The groups of each update, int64 [group], over all epochs, in the order that the seed draws."""
    if spec.epochs is None:
        raise ValueError("epochs is None: state how many epochs the preference is tuned for")
    g = torch.Generator().manual_seed(torch_seed(spec.seed))
    return [part for _ in range(spec.epochs) for part in torch.randperm(count, generator=g).split(spec.batch)]
