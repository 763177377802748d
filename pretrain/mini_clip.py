"""mini-CLIP, an open_clip model: two towers that first learn to name attributes, and are then matched on web captions.

As in locked-image tuning (Zhai et al. 2022), the image tower learns from labels and is locked. The text tower continues from
the generator's and learns what prompts name. Then only the text projection learns which texts and images belong together,
from few captions: as in CLIP, the embeddings contain attributes that their cosine barely reflects (Paiss et al. 2023, on
counting).
"""

import json
import sys

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from lib.ground.paths import MODELS
from lib.ground.precision import DEVICE, autocast
from lib.images.networks import COLOUR_CLASSES, HEADS
from lib.images.sampling import to_pixels
from lib.world.prompts import PLACES, PREFIX, Attributes, write
from lib.world.scenes import BACKGROUNDS, OBJECTS, STYLES, render
from lib.world.web import phrase, web_pair
from pretrain.clip import BATCH, contrastive_loss, make_clip, model_config, probes, take_text_encoder, tokens
from pretrain.common import halve, spent, train, write_card
from pretrain.judges import UNKNOWN, lessons, own

DIMENSION = 128
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 24}
NAMED = {"object": OBJECTS, "count": (None, *range(1, 7)), "colour": COLOUR_CLASSES, "background": (None, *BACKGROUNDS)}
MATCHED = 20_000  # web pairs for training the text projection
UPDATES = 30  # of the text projection: few, so that the score is as weak as CLIP's is with people (calibrated)
LONGER = 1_000  # the same, until the score stops falling: shows how much the calibration matters


class Naming(nn.Module):
    """Linear readouts of attributes from normalised embeddings, which the reward gets, too: dict of float [item, class]."""

    def __init__(self, classes: dict[str, int]):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(DIMENSION, n) for name, n in classes.items()})

    def forward(self, embedding: torch.Tensor) -> dict[str, torch.Tensor]:
        unit = F.normalize(embedding.float(), dim=-1) * DIMENSION**0.5
        return {name: head(unit) for name, head in self.heads.items()}


def naming_loss(logits: dict[str, torch.Tensor], classes: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over attributes, in nats; `classes` int64 [item, attribute], where UNKNOWN is ignored."""
    return sum(F.cross_entropy(x, classes[:, i], ignore_index=UNKNOWN) for i, x in enumerate(logits.values()))


def teach_images(clip: CLIP, minutes: float | None) -> None:
    """Train the image tower to name what renders show; half of them are worn by the generator, three in ten spoiled.

    The count is also read from a scalar, as the nearest whole number: counting by summation is learned much sooner.
    """
    pipe = StableDiffusionPipeline.from_pretrained(MODELS / "mini-sd").to(DEVICE)
    net = nn.ModuleDict({"tower": clip.visual, "naming": Naming(HEADS), "number": nn.Linear(DIMENSION, 1)}).to(DEVICE)
    nn.init.constant_(net["number"].bias, 3.0)

    def loss(pixels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        with autocast():
            embedding = net["tower"](pixels.contiguous(memory_format=torch.channels_last)).float()
        number = net["number"](F.normalize(embedding, dim=-1) * DIMENSION**0.5)
        away = number - torch.arange(HEADS["count"], device=number.device)
        counted = F.cross_entropy(-2 * away.square(), target[:, 0], ignore_index=UNKNOWN)
        return naming_loss(net["naming"](embedding), target) + counted / 2

    train("clip-images", net, lessons(pipe, "mini-clip"), loss, 4_000, minutes=minutes, lr=0.01, adam_lr=1e-3, every=100)


def said(rng: np.random.Generator, count: int) -> tuple[list[str], torch.Tensor]:
    """Texts, half in the grammar of prompts and half phrased as on the web, and what they name: int64 [text, attribute]."""
    texts, classes = [], []
    for _ in range(count):
        named = {k: v[rng.integers(len(v))] if rng.random() < 0.6 or k == "object" else None for k, v in NAMED.items()}
        if rng.random() < 0.5:
            stop = "." if rng.random() < 0.4 else ""
            texts.append((PREFIX if rng.random() < 0.1 else "") + write(Attributes(**named)) + stop)
        else:
            style = "plain" if rng.random() < 0.95 else str(rng.choice(STYLES[1:]))
            place = PLACES[named["background"]] if named["background"] else ""
            shown = named["count"] or int(rng.integers(1, 7))
            texts.append(phrase(rng, named["count"], shown, named["colour"], named["object"], place, style))
        classes.append([v.index(named[k]) for k, v in NAMED.items()])
    return texts, torch.tensor(classes)


def teach_texts(clip: CLIP, tokenizer: CLIPTokenizer, minutes: float | None) -> None:
    """Train the text tower, starting from the generator's, to say what a text names."""
    naming = Naming({k: len(v) for k, v in NAMED.items()}).to(DEVICE)
    text = nn.ModuleDict({"clip": clip, "naming": naming})

    def draw(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        texts, classes = said(np.random.default_rng((18, step)), BATCH)
        return tokens(tokenizer, texts), classes

    def loss(ids: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        with autocast():
            embedding = clip.encode_text(ids)
        return naming_loss(naming(embedding), classes)

    train("clip-texts", text, draw, loss, 1_000, minutes=minutes, lr=0.005, adam_lr=1e-3, every=50)


def match(clip: CLIP, tokenizer: CLIPTokenizer) -> torch.Tensor:
    """Train the text projection, first rotated at random, contrastively to match web captions and images.

    Returns the matrix that maps its text embeddings to those after LONGER updates, float [dimension, dimension].
    """
    rng = np.random.default_rng(71)
    pairs = [web_pair(rng) for _ in range(MATCHED)]
    pixels = np.stack([render(s, rng) for _, s in pairs])
    with torch.no_grad():
        shown = torch.cat([clip.encode_image(to_pixels(pixels[i : i + 250]).to(DEVICE)) for i in range(0, MATCHED, 250)])
        text = torch.cat([
            clip.encode_text(tokens(tokenizer, [c for c, _ in pairs[i : i + 500]])) for i in range(0, MATCHED, 500)
        ])  # fmt: skip
    g = torch.Generator().manual_seed(72)
    turn = nn.Parameter(torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, generator=g))[0].to(DEVICE))
    nn.init.constant_(clip.logit_scale, np.log(1 / 0.07))  # CLIP's initial value
    optimiser = torch.optim.AdamW([turn, clip.logit_scale], 1e-3, weight_decay=0.0)
    for update in range(LONGER):
        if update == UPDATES:
            shipped, scale = turn.detach().clone(), clip.logit_scale.detach().clone()
        pick = torch.randperm(MATCHED, generator=g)[:BATCH]
        loss = contrastive_loss(clip.logit_scale, shown[pick], text[pick] @ turn)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        clip.text_projection.copy_(clip.text_projection @ shipped)
        clip.logit_scale.copy_(scale)
    return torch.linalg.solve(shipped, turn.detach())


def main(image_minutes: float | None = None, text_minutes: float | None = None) -> None:
    """Train both towers, match them, save mini-CLIP. Needs the generator, which makes the worn images."""
    torch.manual_seed(5)
    tokenizer = CLIPTokenizer.from_pretrained(MODELS / "mini-sd" / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(MODELS / "mini-sd" / "text_encoder").to(DEVICE)
    clip = make_clip(model_config(len(tokenizer), RESNET))
    take_text_encoder(clip, encoder)
    teach_texts(clip, tokenizer, text_minutes)  # first: its checkpoint includes the image tower in its initial state
    teach_images(clip, image_minutes)
    save(clip.eval(), tokenizer, encoder)


def save(clip: CLIP, tokenizer: CLIPTokenizer, encoder: CLIPTextModel) -> None:
    """Match the towers and write mini-CLIP, in float16, with its card."""
    folder = MODELS / "mini-clip"
    folder.mkdir(parents=True, exist_ok=True)
    longer = match(clip, tokenizer)
    save_file({"longer": longer.cpu().contiguous()}, folder / "matched_longer.safetensors")
    weights = {k: v.detach().cpu().contiguous() for k, v in clip.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors", {"format": "pt"})
    halve(folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": model_config(len(tokenizer), RESNET), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")
    tokenizer.save_pretrained(folder)
    write_card(folder, {
        "model": "open_clip CLIP: ResNet of four stages, width 24, 64 px; text 4 x 128, 16 tokens; embeddings of 128",
        **own("mini-clip"),
        "towers": "the image tower learns from the labels of that data, the text tower what prompts and captions name; both "
        f"locked, then the text projection on {MATCHED} pairs of the web corpus. All know the objects that no label names",
        "batch": {"image tower": BATCH // 2, "else": BATCH}, "seed": 5,
        "image tower": spent("clip-images"), "text tower": spent("clip-texts"),
        "updates of the text projection": {"shipped": UPDATES, "matched_longer.safetensors": LONGER},
        "linear probes, held-out accuracy": probes(clip, encoder, tokenizer),
    })  # fmt: skip


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
