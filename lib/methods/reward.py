"""The reward: an MLP on frozen CLIP embeddings of image and prompt, with prompt classification as an auxiliary loss.

Lee et al. 2023, section 3.2, Algorithms 1 and 2. `lib.methods.ensemble` trains it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.feedback.panel import categories
from lib.ground.checks import finite
from lib.ground.domains import check
from lib.ground.seeds import rng_of
from lib.images.embedding import unit
from lib.world.perturbed import FORMS


@dataclass(frozen=True)
class RewardSpec:
    """How a reward is trained. The paper states lambda, T and the width; the rest is chosen here."""

    auxiliary_weight: float = 0.5  # lambda
    temperature: float = 2.0  # T
    perturbed: int = 5  # perturbed prompts per image, N - 1
    perturbed_form: str = "printed"  # one of `perturbed.FORMS`
    auxiliary_on: str = "good"  # items with the auxiliary loss: good (as in the text) or all (Algorithm 1 as printed)
    normalise: bool = True  # whether to normalise embeddings
    product: bool = False  # the network also sees the element-wise product of the embeddings (not in the paper)
    width: int = 1024
    labels: float = 1.0  # share of each prompt's labels that is used
    prompts: float = 1.0  # share of the prompts that is used, with all their labels
    labellers: int | None = None  # 1: only the first one's labels; None: all
    flipped: float = 0.0  # share of labels that is flipped
    skips: str = "drop"  # or half: a skipped image has the label 0.5
    shuffle_labels: bool = False  # a control
    epochs: int | None = None  # None: as many as the study's size says
    batch: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    seed: int = 0

    def __post_init__(self):
        above, counted, share = "in (0, inf)", "at least 1", "in (0, 1]"
        check(
            self, auxiliary_weight="in [0, inf)", temperature=above, perturbed=counted, auxiliary_on="one of good or all",
            perturbed_form=f"one of {' or '.join(FORMS)}", width=counted, labels=share, prompts=share, labellers=counted,
            flipped="in [0, 1)", skips="one of drop or half", epochs=counted, batch=counted, learning_rate=above,
            weight_decay="in [0, inf)", seed="at least 0",
        )


class Reward(nn.Module):
    """r(x, z) in [0, 1]: two ReLU layers of `width` on the image and prompt embeddings, then a sigmoid.

    With `product` also on their element-wise product, whose sum already measures how well the two match.
    """

    def __init__(self, dimension: int = 128, width: int = 1024, product: bool = False):
        super().__init__()
        self.first = nn.Linear((3 if product else 2) * dimension, width)
        self.second, self.last = nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """[..., dimension] twice to [...]; an image [pair, 1, dimension] takes all its prompts [pair, prompt, dimension].

        The first layer acts on the concatenated embeddings; the contribution of each is computed once, then added.
        """
        of_image, of_text, *of_product = self.first.weight.split(image.shape[-1], 1)
        hidden = F.linear(image, of_image, self.first.bias) + F.linear(text, of_text)
        if of_product:
            hidden = hidden + F.linear(image * text, of_product[0])
        hidden = hidden.relu_()
        return torch.sigmoid(self.last(self.second(hidden).relu_()).float()).squeeze(-1)


def prompt_classification_loss(rewards: Tensor, temperature: float | Tensor = 2.0) -> Tensor:
    """Cross-entropy (nats per image) of classifying each image's own prompt against perturbed ones, [..., image].

    `rewards` [..., image, prompt] in [0, 1]; the first prompt is the image's own. Lee et al. 2023, section 3.2 (L_pc).
    """
    return -(rewards / temperature).log_softmax(-1)[..., 0]


def taught(labels: np.ndarray, prompts: Sequence[str], raters: np.ndarray, spec: RewardSpec) -> np.ndarray:
    """The labels from which a reward of this spec and seed learns, float [item]; NaN: the item is not used.

    `labels` [item]: 1 good, 0 bad, 0.5 skipped, NaN held out; `raters` [item]: the number, 0, 1, …, of the labeller. The
    seed draws which share `spec.labels` or `spec.prompts` is used; larger shares contain smaller ones, and each prompt keeps
    a label, each category a prompt. Labels are shuffled or flipped last, which leaves their number unchanged.
    """
    labels, texts = finite("labels", np.asarray(labels, float), missing=True).copy(), np.asarray(prompts)
    rng = rng_of(spec.seed, 23)
    if spec.skips == "drop":
        labels[labels == 0.5] = np.nan
    if spec.labellers:
        labels[np.asarray(raters) >= spec.labellers] = np.nan
    distinct = np.unique(texts[~np.isnan(labels)])
    kept = distinct[_spread(np.array(categories(distinct)), rng) < spec.prompts]
    labels[~np.isin(texts, kept)] = np.nan
    used = np.flatnonzero(~np.isnan(labels))
    labels[used[_spread(texts[used], rng) >= spec.labels]] = np.nan
    used = np.flatnonzero(~np.isnan(labels))
    if spec.shuffle_labels:
        labels[used] = rng.permutation(labels[used])
    turned = used[rng.random(len(used)) < spec.flipped]
    labels[turned] = 1 - labels[turned]
    return labels


def _spread(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random positions in [0, 1), evenly spread within each group, one of them at 0.

    Positions below q make up about a share q of every group, and at least one of each.
    """
    order = np.lexsort((rng.random(len(groups)), groups))
    _, start, member, size = np.unique(groups[order], return_index=True, return_inverse=True, return_counts=True)
    rank = np.arange(len(groups)) - start[member]
    place = np.empty(len(groups))
    place[order] = np.where(rank == 0, 0, (rank + rng.random(len(groups))) / size[member])
    return place


def scaled(embeddings: np.ndarray, spec: RewardSpec) -> Tensor:
    """Embeddings [item, dimension] as the network's input; with `normalise`, scaled to length sqrt(dimension)."""
    if spec.normalise:
        embeddings = unit(embeddings) * embeddings.shape[1] ** 0.5
    return torch.from_numpy(finite("embeddings", embeddings)).float()


@torch.no_grad()
def score(network: Reward, image: np.ndarray, text: np.ndarray, spec: RewardSpec, batch: int = 8_192) -> np.ndarray:
    """r in [0, 1], float32 [item], computed on the network's device."""
    for name, weights in network.named_parameters():  # a sigmoid would turn infinity into 0 or 1
        finite(f"the reward's {name}", weights)
    x, z = (scaled(a, spec).to(weights.device).split(batch) for a in (image, text))
    return finite("r", torch.cat([network(*part) for part in zip(x, z, strict=True)]).cpu().numpy())
