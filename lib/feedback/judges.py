"""What the judges say: probabilities of count, colour, object and background in an image, and verdicts for its prompt."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from lib.ground.cache import Artifact, load_arrays, save_arrays, stage
from lib.ground.checks import finite
from lib.ground.precision import at_once
from lib.images.networks import COLOUR_CLASSES, HEADS, Judge
from lib.images.sampling import load_images, to_pixels
from lib.world.prompts import Attributes, parse
from lib.world.scenes import BACKGROUNDS, OBJECTS, Scene


@torch.no_grad()
def look(judge: Judge, images: np.ndarray, batch: int | None = None) -> dict[str, np.ndarray]:
    """Class probabilities by head, float32 [image, class], for uint8 images [image, 64, 64, 3]."""
    device, batch, parts = next(judge.parameters()).device, batch or at_once(256), []
    for i in range(0, len(images), batch):
        logits = judge(to_pixels(images[i : i + batch], device).contiguous(memory_format=torch.channels_last))
        parts.append({k: finite(f"logits of {k}", v).float().softmax(1).cpu().numpy() for k, v in logits.items()})
    return {k: np.concatenate([p[k] for p in parts]) for k in HEADS}


def _rows(named: Attributes) -> dict[str, list[int]]:
    """The classes, by head, that satisfy what a prompt names."""
    rows = {"object": [OBJECTS.index(named.object)]}
    if named.count is not None:
        rows["count"] = [named.count]
    if named.colour is not None:
        rows["colour"] = [COLOUR_CLASSES.index(c) for c in named.colours_that_satisfy()]
    if named.background is not None:
        rows["background"] = [BACKGROUNDS.index(named.background)]
    return rows


def _finite(seen: dict[str, np.ndarray]) -> None:
    for head, chances in seen.items():
        finite(f"probabilities of {head}", chances)


def _right(prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Which classes satisfy each prompt, by head bool [prompt, class]: all of them if it does not name the attribute."""
    place = {p: i for i, p in enumerate(dict.fromkeys(prompts))}
    right = {head: np.ones((len(place), classes), bool) for head, classes in HEADS.items()}
    for i, prompt in enumerate(place):
        for head, rows in _rows(parse(prompt)).items():
            right[head][i] = np.isin(np.arange(HEADS[head]), rows)
    at = [place[p] for p in prompts]
    return {head: each[at] for head, each in right.items()}


def attribute_chances(seen: dict[str, np.ndarray], prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Probability in [0, 1] that an image shows each attribute its prompt names, by head float [image]; NaN if unnamed."""
    _finite(seen)
    return {h: np.where(right.all(1), np.nan, (seen[h] * right).sum(1, dtype=float)) for h, right in _right(prompts).items()}


def match(seen: dict[str, np.ndarray], prompts: Sequence[str], certainty: float) -> np.ndarray:
    """Logit of the probability that all that the prompt names is right, clipped to +/- `certainty`: float [image]."""
    p = np.nanprod(list(attribute_chances(seen, prompts).values()), 0).clip(1e-6, 1 - 1e-6)
    return np.log(p / (1 - p)).clip(-certainty, certainty)


def verdicts(seen: dict[str, np.ndarray], prompts: Sequence[str]) -> np.ndarray:
    """Whether the most likely class of every named attribute is a right one: bool [image]."""
    _finite(seen)  # argmax would take NaN for the most likely
    found = [right[np.arange(len(right)), seen[head].argmax(1)] for head, right in _right(prompts).items()]
    return np.all(found, axis=0)


def truth(scene: Scene) -> dict[str, int]:
    """The right class by head for a clean scene."""
    return {
        "count": scene.count, "colour": COLOUR_CLASSES.index(scene.colour), "object": OBJECTS.index(scene.object),
        "background": BACKGROUNDS.index(scene.background),
    }  # fmt: skip


def looked_at(images: Artifact, load: Callable[[], Judge], digest: str) -> dict[str, np.ndarray]:
    """The stage of a judge's probabilities for a set of images, by head [image, class]; `digest` is of its weights."""

    def make(folder) -> None:
        save_arrays(folder / "chances.safetensors", look(load(), load_images(images).pixels))

    found = stage("looks", {}, {"images": images, "judge": digest}, make, ("lib.images.models", load))
    return load_arrays(found.path / "chances.safetensors")
