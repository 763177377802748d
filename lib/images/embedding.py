"""CLIP embeddings of images and prompts, and their cosine similarity: the basis of both papers' scores."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lib.ground.cache import Artifact, load_arrays, save_arrays, stage
from lib.ground.checks import finite
from lib.ground.precision import at_once
from lib.images.sampling import load_images


def preprocessed(preprocess: Callable, images: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """`preprocess` applied to uint8 images [image, height, width, 3], for CLIP: float32 [image, 3, side, side].

    Where open_clip's transform has nothing to resize or crop, all images are processed at once on the device (bit-identical
    on a CPU); otherwise one by one through PIL.
    """
    *before, last = getattr(preprocess, "transforms", [preprocess])
    if not (type(last).__name__ == "Normalize" and all(_changes_nothing(step, images.shape[1:3]) for step in before)):
        return torch.stack([preprocess(Image.fromarray(x)) for x in images]).to(device)
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float().div_(255)
    mean, std = (torch.tensor(x, device=device).view(-1, 1, 1) for x in (last.mean, last.std))
    return pixels.sub_(mean).div_(std)


def _changes_nothing(step: Callable, sides: tuple[int, int]) -> bool:
    """Whether a step of open_clip's transform leaves the pixels of RGB images of this height and width unchanged."""
    name = getattr(step, "__name__", type(step).__name__)
    if name in ("Resize", "CenterCrop"):
        return sides[0] == sides[1] and step.size in (sides[0], [sides[0]], tuple(sides), list(sides))
    return name in ("MaybeConvertMode", "_convert_to_rgb", "MaybeToTensor", "ToTensor")


@torch.no_grad()
def embed_images(clip, preprocess, images: np.ndarray, batch: int | None = None) -> np.ndarray:
    """CLIP image embeddings, float32 [image, dimension], not normalised, of uint8 images [image, height, width, 3]."""
    device, batch = next(clip.parameters()).device, batch or at_once(128)  # larger batches do not fit a CPU's caches
    parts = (preprocessed(preprocess, images[i : i + batch], device) for i in range(0, len(images), batch))
    return finite("image embeddings", torch.cat([clip.encode_image(pixels) for pixels in parts]).cpu().numpy())


@torch.no_grad()
def embed_texts(clip, tokenizer, texts: Sequence[str], batch: int = 1024) -> np.ndarray:
    """CLIP text embeddings, float32 [text, dimension], not normalised; each distinct text is computed once."""
    device = next(clip.parameters()).device
    distinct = list(dict.fromkeys(texts))
    rows = [clip.encode_text(tokenizer(distinct[i : i + batch]).to(device)).cpu() for i in range(0, len(distinct), batch)]
    place = {t: i for i, t in enumerate(distinct)}
    return finite("text embeddings", torch.cat(rows).numpy())[[place[t] for t in texts]]


def unit(x: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; raises ValueError on a row without a direction (all zeros, or not finite)."""
    length = np.linalg.norm(finite("embeddings", x), axis=-1, keepdims=True)
    if (nil := np.flatnonzero(length == 0)).size:
        count = f"{nil.size:,} of {length.size:,} embeddings"
        raise ValueError(f"{count} have length 0 and therefore no direction; the first is at index {nil[0]}")
    return x / finite("lengths of embeddings", length)


def clip_score(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Cosine similarity of image and prompt embeddings in [-1, 1]: the paper's baseline."""
    return (unit(image) * unit(text)).sum(-1)


def embedded(images: Artifact, load: Callable, digest: str) -> tuple[np.ndarray, np.ndarray]:
    """The stage with the CLIP embeddings of a set of images and of their prompts, each float32 [image, dimension].

    `load` returns (model, preprocess, tokenizer); `digest` is the digest of the weights.
    """

    def make(folder) -> None:
        clip, preprocess, tokenizer = load()
        shown = load_images(images)
        arrays = {"image": embed_images(clip, preprocess, shown.pixels), "text": embed_texts(clip, tokenizer, shown.prompts)}
        save_arrays(folder / "embeddings.safetensors", arrays)

    found = stage("embeddings", {}, {"images": images, "clip": digest}, make, ("lib.images.models", load))
    arrays = load_arrays(found.path / "embeddings.safetensors")
    return arrays["image"], arrays["text"]
