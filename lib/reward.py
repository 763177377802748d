"""The reward: an MLP on frozen CLIP embeddings of image and prompt, with prompt classification as an auxiliary loss.

Lee et al. 2023, section 3.2, Algorithms 1 and 2.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lib.cache import Artifact, load_arrays, save_arrays, stage
from lib.prompts import COUNT_WORDS, Attributes, perturbed, write
from lib.sampling import load_images
from lib.world import BACKGROUNDS, COLOURS, SEEN


@dataclass(frozen=True)
class RewardSpec:
    """How a reward is trained. The paper states lambda, T and the width; the rest is chosen here."""

    auxiliary_weight: float = 0.5  # lambda
    temperature: float = 2.0  # T
    perturbed: int = 5  # other prompts an image, N - 1
    width: int = 1024
    epochs: int = 20
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    normalise: bool = True  # embeddings to unit length
    shuffle_labels: bool = False  # a control
    seed: int = 0


class Reward(nn.Module):
    """r(x, z) in [0, 1]: two hidden layers of `width` with ReLU on image and prompt embeddings, then a sigmoid."""

    def __init__(self, dimension: int = 128, width: int = 1024):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * dimension, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """[..., dimension] twice to [...]."""
        return torch.sigmoid(self.layers(torch.cat([image, text], -1))).squeeze(-1)


def prompt_classification_loss(rewards: Tensor, temperature: float = 2.0) -> Tensor:
    """Cross-entropy (nats) of telling each image's own prompt from perturbed ones.

    `rewards` [pair, prompt] in [0, 1]; column 0 is the image's own prompt. Lee et al. 2023, section 3.2 (L_pc).
    """
    own = torch.zeros(len(rewards), dtype=torch.long, device=rewards.device)
    return F.cross_entropy(rewards / temperature, own)


@torch.no_grad()
def embed_images(clip, preprocess, images: np.ndarray, batch: int = 256) -> np.ndarray:
    """CLIP image embeddings, float32 [image, dimension], not normalised, of uint8 images [image, height, width, 3]."""
    device = next(clip.parameters()).device
    out = []
    for i in range(0, len(images), batch):
        pixels = torch.stack([preprocess(Image.fromarray(x)) for x in images[i : i + batch]])
        out.append(clip.encode_image(pixels.to(device)).cpu().numpy())
    return np.concatenate(out)


@torch.no_grad()
def embed_texts(clip, tokenizer, texts: Sequence[str], batch: int = 1024) -> np.ndarray:
    """CLIP text embeddings, float32 [text, dimension], not normalised; each distinct text is computed once."""
    device = next(clip.parameters()).device
    distinct = list(dict.fromkeys(texts))
    rows = [clip.encode_text(tokenizer(distinct[i : i + batch]).to(device)).cpu() for i in range(0, len(distinct), batch)]
    place = {t: i for i, t in enumerate(distinct)}
    return torch.cat(rows).numpy()[[place[t] for t in texts]]


def unit(x: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def clip_score(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Cosine similarity of image and prompt embeddings in [-1, 1]: the paper's baseline."""
    return (unit(image) * unit(text)).sum(-1)


@lru_cache(1)
def all_perturbed() -> tuple[str, ...]:
    """Every prompt that Algorithm 2 can draw: counts x colours x seen objects x places, with its full stop."""
    return tuple(
        write(Attributes(o, n, c, b)) + "."
        for o in SEEN for n in range(1, len(COUNT_WORDS) + 1) for c in COLOURS for b in BACKGROUNDS
    )  # fmt: skip


def draw_perturbed(prompts: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Rows of `all_perturbed` [prompt, count] that differ in meaning from each prompt; Algorithm 2."""
    place = {p: i for i, p in enumerate(all_perturbed())}
    rng = np.random.default_rng(seed)
    return np.array([[place[q] for q in perturbed(p, count, rng)] for p in prompts]).reshape(len(prompts), count)


def train_reward(
    image: np.ndarray, text: np.ndarray, labels: np.ndarray, others: np.ndarray, pool: np.ndarray, spec: RewardSpec
) -> Reward:
    """Minimise L_MSE + lambda L_pc with AdamW.

    `image`, `text` float [item, dimension]; `labels` in {0, 1} [item]; `others` int [item, epoch x perturbed] rows of
    `pool` [prompt, dimension]. L_pc is over good items only, as in the paper's text. Raises ValueError on no good or no bad
    label, or when the loss stops being finite.
    """
    if not 0 < labels.mean() < 1:
        raise ValueError(f"need both good and bad labels, got {int(labels.sum())} good of {len(labels)}")
    torch.manual_seed(spec.seed)
    order = torch.Generator().manual_seed(spec.seed)
    if spec.shuffle_labels:
        labels = np.random.default_rng(spec.seed).permutation(labels)
    scale = unit if spec.normalise else np.asarray
    x, z, bank = (torch.from_numpy(scale(a)).float() * (image.shape[1] ** 0.5 if spec.normalise else 1.0)
                  for a in (image, text, pool))  # fmt: skip
    y = torch.from_numpy(labels).float()
    network = Reward(image.shape[1], spec.width)
    steps = spec.epochs * -(-len(y) // spec.batch)
    optimiser = torch.optim.AdamW(network.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for epoch in range(spec.epochs):
        drawn = torch.from_numpy(others[:, epoch * spec.perturbed : (epoch + 1) * spec.perturbed])
        for rows in torch.randperm(len(y), generator=order).split(spec.batch):
            own = network(x[rows], z[rows])
            loss = F.mse_loss(own, y[rows])
            good = rows[y[rows] == 1]
            if spec.auxiliary_weight and len(good):
                texts = bank[drawn[good]]
                theirs = network(x[good][:, None].expand_as(texts), texts)
                both = torch.cat([own[y[rows] == 1][:, None], theirs], 1)
                loss = loss + spec.auxiliary_weight * prompt_classification_loss(both, spec.temperature)
            if not torch.isfinite(loss):
                raise ValueError(f"the reward's loss is {loss.item()} in epoch {epoch}: lower the learning rate")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def score(network: Reward, image: np.ndarray, text: np.ndarray, spec: RewardSpec) -> np.ndarray:
    """r in [0, 1], float32 [item]."""
    scale = unit if spec.normalise else np.asarray
    factor = image.shape[1] ** 0.5 if spec.normalise else 1.0
    x, z = (torch.from_numpy(scale(a)).float() * factor for a in (image, text))
    return network(x, z).numpy()


# ---- stages -------------------------------------------------------------------------------------------------------


def embedded(images: Artifact, load: Callable, digest: str) -> tuple[np.ndarray, np.ndarray]:
    """The stage of CLIP embeddings of a set of images and of their prompts, float32 [image, dimension] each.

    `load` gives (model, preprocess, tokenizer); `digest` is of its weights.
    """

    def make(folder) -> None:
        clip, preprocess, tokenizer = load()
        shown = load_images(images)
        arrays = {"image": embed_images(clip, preprocess, shown.pixels), "text": embed_texts(clip, tokenizer, shown.prompts)}
        save_arrays(folder / "embeddings.safetensors", arrays)

    arrays = load_arrays(stage("embeddings", {}, {"images": images, "clip": digest}, make).path / "embeddings.safetensors")
    return arrays["image"], arrays["text"]


def trained(
    image: np.ndarray, text: np.ndarray, prompts: Sequence[str], labels: np.ndarray, load: Callable, spec: RewardSpec,
    inputs: Mapping[str, Artifact | str],
) -> Reward:
    """The stage of one reward: what `train_reward` learns from labels in {0, 1} (NaN rows are left out: skips).

    `inputs` are the digests of embeddings and labels.
    """

    def make(folder) -> None:
        clip, _, tokenizer = load()
        rows = np.flatnonzero(~np.isnan(labels))
        kept = [prompts[i] for i in rows]
        others = draw_perturbed(kept, spec.epochs * spec.perturbed, spec.seed)
        pool = embed_texts(clip, tokenizer, all_perturbed())
        network = train_reward(image[rows], text[rows], labels[rows], others, pool, spec)
        save_file(network.state_dict(), folder / "reward.safetensors")

    network = Reward(image.shape[1], spec.width)
    found = stage("reward", asdict(spec), inputs, make)
    network.load_state_dict(load_file(found.path / "reward.safetensors"))
    return network.eval()


def ensemble(seeds: int, spec: RewardSpec, *args, **kwargs) -> list[tuple[Reward, RewardSpec]]:
    """Rewards of one spec with seeds 0, 1, …"""
    specs = [replace(spec, seed=s) for s in range(seeds)]
    return [(trained(*args, spec=s, **kwargs), s) for s in specs]
