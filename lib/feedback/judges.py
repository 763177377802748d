"""What the judges say: chances of each count, colour, object and background in an image, and verdicts for its prompt."""

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
    """The classes by head that make true what a prompt names."""
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
        finite(f"chances of {head}", chances)


def attribute_chances(seen: dict[str, np.ndarray], prompts: Sequence[str]) -> list[dict[str, float]]:
    """For each image, the chance in [0, 1] that each attribute named by its prompt is right (the object always is named)."""
    _finite(seen)
    wanted = {p: _rows(parse(p)) for p in set(prompts)}
    return [
        {head: float(seen[head][i, rows].sum()) for head, rows in wanted[p].items()} for i, p in enumerate(prompts)
    ]


def verdicts(seen: dict[str, np.ndarray], prompts: Sequence[str]) -> np.ndarray:
    """Whether the most likely class of every named attribute is a right one: bool [image]."""
    _finite(seen)  # the most likely class of NaN would be the first
    wanted = {p: _rows(parse(p)) for p in set(prompts)}
    best = {head: p.argmax(1) for head, p in seen.items()}
    return np.array([all(best[h][i] in rows for h, rows in wanted[p].items()) for i, p in enumerate(prompts)])


def truth(scene: Scene) -> dict[str, int]:
    """The right class by head for a clean scene."""
    return {
        "count": scene.count, "colour": COLOUR_CLASSES.index(scene.colour), "object": OBJECTS.index(scene.object),
        "background": BACKGROUNDS.index(scene.background),
    }  # fmt: skip


def looked_at(images: Artifact, load: Callable[[], Judge], digest: str) -> dict[str, np.ndarray]:
    """The stage of a judge's chances by head [image, class] of a set of images; `digest` is of the judge's weights."""

    def make(folder) -> None:
        save_arrays(folder / "chances.safetensors", look(load(), load_images(images).pixels))

    found = stage("looks", {}, {"images": images, "judge": digest}, make, ("lib.images.models", load))
    return load_arrays(found.path / "chances.safetensors")
