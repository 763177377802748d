"""Human Preference Score: CLIP with its last layers tuned on choices, so that a prompt's chosen image scores highest.

Wu et al. 2023, sections 3 and 4. HPS(image, text) = 100 x cosine of their embeddings.
"""

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from lib.ground.cache import Artifact, stage
from lib.ground.checks import finite
from lib.ground.domains import check
from lib.ground.precision import autocast
from lib.ground.seeds import rng_of, torch_seed
from lib.images.embedding import clip_score, preprocessed, unit
from lib.methods.training import Updates, adamw

# Accuracy on choices (Table 2), and agreement with people on pairs of SD and DALL-E images (Table 3); shares.
PAPER_CHOICES = {"chance": 0.261, "CLIP score": 0.329, "aesthetic predictor": 0.331, "people's guess": 0.420, "HPS": 0.435}
PAPER_PAIRS = {"CLIP score": 0.568, "HPS": 0.615, "people": 0.635}


@dataclass(frozen=True)
class PreferenceSpec:
    """How CLIP is tuned. Shares of layers and weight decay are the paper's; the rest is chosen here, for a small CLIP."""

    image_share: float = 10 / 24  # share of the image encoder's layers that is tuned, the last ones
    text_share: float = 6 / 12
    scale: float = 10.0  # of cosines in the softmax, close to mini-CLIP's own; CLIP's, and so the paper's, is 100
    choices: float = 1.0  # share of the training prompts that is used
    coin: bool = False  # a control: choices made by coin
    epochs: int | None = None  # None: as many as the study's size says
    batch: int = 16  # prompts
    learning_rate: float = 3e-4
    weight_decay: float = 3.1e-3
    seed: int = 0

    def __post_init__(self):
        above, counted, share = "in (0, inf)", "at least 1", "in [0, 1]"
        check(
            self, image_share=share, text_share=share, scale=above, choices="in (0, 1]", epochs=counted, batch=counted,
            learning_rate=above, weight_decay="in [0, inf)", seed="at least 0",
        )


# ---- the encoder's last layers -------------------------------------------------------------------------------------


def last_layers(clip: nn.Module, image_share: float = 10 / 24, text_share: float = 6 / 12) -> list[str]:
    """Names of the parameters in the last layers of an open_clip model: this share of each encoder, rounded, and all after.

    An image encoder's layers are the blocks of a transformer or the stages of a ResNet.
    """
    visual = clip.visual
    if hasattr(visual, "transformer"):
        image, head = [f"visual.transformer.resblocks.{i}." for i in range(len(visual.transformer.resblocks))], (
            "visual.ln_post.", "visual.proj")
    else:
        image, head = [f"visual.layer{i}." for i in range(1, 5)], ("visual.attnpool.",)
    text = [f"transformer.resblocks.{i}." for i in range(len(clip.transformer.resblocks))]
    first = tuple(image[len(image) - round(image_share * len(image)) :]) + tuple(
        text[len(text) - round(text_share * len(text)) :]
    )
    wanted = (*first, *head, "ln_final.", "text_projection")
    return [name for name, _ in clip.named_parameters() if name.startswith(wanted)]


# ---- learning from choices -----------------------------------------------------------------------------------------


def choice_loss(scores: Tensor, given: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy (nats per choice) of the chosen images.

    `scores` float [group, image]: logits; `given` bool [group, image]: where there is an image; `counts` [group, image]: how
    many users chose it.
    """
    logp = scores.masked_fill(~given, -torch.inf).log_softmax(1).masked_fill(~given, 0)
    return -(counts * logp).sum() / counts.sum()


def counted(rows: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct groups of images, int [group, image], and how often each image was chosen, int [group, image].

    `rows` int [choice, image] (-1: no image), `chosen` int [choice].
    """
    groups, member = np.unique(rows, axis=0, return_inverse=True)
    counts = np.zeros(groups.shape, int)
    np.add.at(counts, (np.ravel(member), chosen), 1)
    return groups, counts


def train_preference(
    clip: nn.Module, preprocess: Callable, tokenizer: Callable, pixels: np.ndarray, prompts: Sequence[str],
    rows: np.ndarray, counts: np.ndarray, spec: PreferenceSpec,
) -> nn.Module:
    """A copy of `clip` whose last layers are tuned with AdamW and cosine decay, so that scale x cosine predicts choices.

    `pixels` uint8 [image, height, width, 3] and `prompts` [image]; `rows`, `counts` int [group, image] as in `counted`.
    Batch-normalisation statistics are frozen. Raises ValueError if the loss stops being finite.
    """
    clip = copy.deepcopy(clip).eval().to(memory_format=torch.channels_last)
    tuned = set(last_layers(clip, spec.image_share, spec.text_share))
    for name, p in clip.named_parameters():
        p.requires_grad_(name in tuned)
    parameters = [p for p in clip.parameters() if p.requires_grad]
    optimiser = adamw(parameters, spec.learning_rate, spec.weight_decay)
    ids = tokenizer(list(prompts))
    order = torch.Generator().manual_seed(torch_seed(spec.seed))

    def loss(image: Tensor, text: Tensor, owner: Tensor, place: Tensor, given: Tensor, count: Tensor) -> Tensor:
        with autocast():
            image = clip.encode_image(image.contiguous(memory_format=torch.channels_last))
            text = clip.encode_text(text)
        image, text = (F.normalize(x.float(), dim=-1) for x in (image, text))
        cosine = image.new_zeros(given.numel()).index_copy(0, place, (image * text[owner]).sum(-1))
        return choice_loss(spec.scale * cosine.view(given.shape), given, count)

    updates = Updates(clip, optimiser, loss, "preference")
    steps, rate = spec.epochs * -(-len(rows) // spec.batch), spec.learning_rate
    for _ in range(spec.epochs):
        for part in torch.randperm(len(rows), generator=order).split(spec.batch):
            group = torch.from_numpy(rows[part.numpy()])
            given = group >= 0
            place = given.flatten().nonzero()[:, 0]
            shown = preprocessed(preprocess, pixels[group[given].numpy()])
            batch = (shown, ids[group[:, 0]], place // group.shape[1], place, given,
                     torch.from_numpy(counts[part.numpy()]))  # fmt: skip
            updates(batch, [rate])
            rate *= (1 + cos(pi * updates.done / steps)) / (1 + cos(pi * (updates.done - 1) / steps))  # cosine decay
    updates.check()
    return clip


def subset(prompts: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Which items [item] belong to a share of the prompts, drawn by the seed; larger shares contain smaller ones."""
    if not 0 < share <= 1:
        raise ValueError(f"the share of prompts must be in (0, 1], got {share}")
    distinct = np.unique(prompts)
    order = rng_of(seed, 31).permutation(len(distinct))
    return np.isin(prompts, distinct[order[: max(1, round(share * len(distinct)))]])


def save_clip(clip: nn.Module, folder: Path, layout: Path) -> None:
    """Write the weights (float16) in open_clip's layout, with the configuration and tokenizer in the folder `layout`;
    `open_clip.create_model_and_transforms("local-dir:" + folder)` loads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in layout.glob("*.json"):
        if path.name != "card.json":
            shutil.copy(path, folder / path.name)
    weights = {k: v.detach().cpu().contiguous(memory_format=torch.contiguous_format) for k, v in clip.state_dict().items()}
    halves = {k: v.half() if v.dtype.is_floating_point else v for k, v in weights.items()}
    save_file(halves, folder / "open_clip_model.safetensors", {"format": "pt"})


def tuned(
    load: Callable, layout: Path, pixels: Callable[[], np.ndarray], prompts: Sequence[str], rows: np.ndarray,
    chosen: np.ndarray, spec: PreferenceSpec, inputs: Mapping[str, Artifact | str],
) -> Artifact:
    """The stage of one tuned CLIP, in open_clip's layout. `load` returns (model, preprocess, tokenizer), `pixels` the
    images; `inputs` are the digests of the weights, the images and the choices."""

    def make(folder: Path) -> None:
        used = subset([prompts[i] for i in rows[:, 0]], spec.choices, spec.seed)
        groups, counts = counted(rows[used], chosen[used])
        save_clip(train_preference(*load(), pixels(), prompts, groups, counts, spec), folder, layout)

    return stage("preference", asdict(spec), inputs, make, ("lib.images.models", load, pixels))


# ---- scores and their accuracy -------------------------------------------------------------------------------------


def hps(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Human Preference Score in [-100, 100], float [image]: 100 x cosine of the embeddings [image, dimension]."""
    return 100 * clip_score(image, text)


def hits(scores: np.ndarray, rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Whether the chosen image of each group has the highest score, float [..., choice]; if k images tie, each counts 1 / k.

    `scores` float [..., image], `rows` int [choice, image] with -1 for no image, `chosen` int [choice]. A constant score
    is at chance level.
    """
    given = np.where(rows >= 0, finite("scores", np.asarray(scores, float))[..., rows], -np.inf)
    best = given == given.max(-1, keepdims=True)
    return np.take_along_axis(best / best.sum(-1, keepdims=True), np.broadcast_to(chosen[:, None], best.shape[:-1] + (1,)),
                              -1)[..., 0]  # fmt: skip


def ridge(image: np.ndarray, ratings: np.ndarray, strength: float = 1e-3) -> np.ndarray:
    """Weights [dimension + 1] of a linear predictor of ratings [image] from unit embeddings [image, dimension].

    Least squares with a penalty of `strength` per rating on all weights except the last, the intercept.
    """
    x = np.column_stack([unit(image), np.ones(len(image))]).astype(float)
    penalty = strength * len(x) * np.diag([1.0] * image.shape[1] + [0.0])
    return np.linalg.solve(x.T @ x + penalty, x.T @ finite("ratings", ratings))


def aesthetic(image: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """The ratings, float [image], predicted from embeddings [image, dimension] by `ridge`'s weights, without the prompt."""
    return unit(image) @ finite("weights", fitted)[:-1] + fitted[-1]
