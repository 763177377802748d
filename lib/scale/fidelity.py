"""FID on COCO as Lee et al. 2023 measured it, with the protocol on a card beside the number.

Published values for the same weights differ by several points because of what no table says: how images become square, JPEG,
the resize before the network, the choice of captions. All of it is on the card, and two cards that differ are not compared.
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lib.ground.cache import Artifact, digest_of, file_digest, load_arrays, save_arrays, stage
from lib.ground.checks import finite
from lib.ground.seeds import rng_of
from lib.ground.setups import FidelitySource
from lib.images.metrics import Given
from lib.scale import inception


@dataclass(frozen=True)
class Card:
    """How a Fréchet distance was measured; it belongs beside the number."""

    implementation: str
    weights: str  # SHA-256 of the network's file
    count: int
    captions: str  # SHA-256 of the image ids and captions
    resolution: int
    shape: str
    jpeg_quality: int
    batch: int

    def __str__(self) -> str:
        jpeg = f"JPEG of quality {self.jpeg_quality}" if self.jpeg_quality else "no JPEG"
        square = {"stretch": "stretched to a square", "crop": "middle square"}[self.shape]
        return (
            f"{self.count:,} images with one caption each (SHA-256 {self.captions[:12]}), {square} at {self.resolution} px, "
            f"{jpeg}, {self.implementation}'s resize to {inception.SIDE} px, Inception-v3 {self.weights[:12]}, "
            f"float32 in batches of {self.batch}, moments in float64"
        )


@dataclass(frozen=True)
class CocoPair:
    """One real image and the caption that stands for it."""

    id: int
    path: Path
    caption: str


def coco_pairs(source: FidelitySource, seed: int = 0) -> list[CocoPair]:
    """The first `source.count` images by id (0: all) with one of their captions, drawn at random by `seed`.

    Raises FileNotFoundError for a missing file, ValueError if an image has no caption or there are too few images.
    """
    path = Path(source.captions)
    if not path.exists():
        raise FileNotFoundError(f"there are no captions at {path}: fetch COCO's annotations, or correct fidelity.captions")
    try:
        whole = json.loads(path.read_text("utf-8"))
        files = {x["id"]: x["file_name"] for x in sorted(whole["images"], key=lambda x: x["id"])}
        said: dict[int, list[str]] = {number: [] for number in files}
        for x in sorted(whole["annotations"], key=lambda x: x["id"]):
            said[x["image_id"]].append(x["caption"].strip())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not COCO's list of captions ({type(error).__name__}: {error}): fetch it again"
        ) from None
    if source.count > len(files):
        raise ValueError(f"{path} lists {len(files):,} images: expected at least fidelity.count = {source.count:,}")
    kept = list(files.items())[: source.count or None]
    if silent := [name for number, name in kept if not any(said[number])]:
        raise ValueError(f"{len(silent):,} of {len(kept):,} images have no caption in {path}, such as {silent[0]}")
    pick = rng_of(seed).random(len(files))
    out = []
    for (number, name), share in zip(kept, pick, strict=False):
        texts = [text for text in said[number] if text]
        out.append(CocoPair(number, Path(source.images) / name, texts[int(share * len(texts))]))
    if lost := [p.path for p in out if not p.path.exists()]:
        raise FileNotFoundError(f"{len(lost):,} of {len(out):,} images of fidelity.images are missing, such as {lost[0]}")
    return out


def card_of(source: FidelitySource, pairs: Sequence[CocoPair], batch: int = 50) -> Card:
    """The card of a measurement on these pairs."""
    texts = digest_of([[p.id, p.caption] for p in pairs])
    weights = file_digest(Path(source.weights))
    return Card(
        source.implementation, weights, len(pairs), texts, source.resolution, source.shape, source.jpeg_quality, batch
    )


# ---- images --------------------------------------------------------------------------------------------------------


def at_size(image: Image.Image, card: Card) -> np.ndarray:
    """The image that is compared, uint8 [resolution, resolution, 3]: Pillow's bicubic, as its resize does by default."""
    image, side = image.convert("RGB"), card.resolution
    if card.shape == "crop":
        small = min(image.size)
        left, top = ((length - small) // 2 for length in image.size)
        image = image.crop((left, top, left + small, top + small))
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    if card.jpeg_quality:
        image.save(file := io.BytesIO(), "JPEG", quality=card.jpeg_quality)
        image = Image.open(file)
    return np.asarray(image)


def real_images(pairs: Iterable[CocoPair]) -> Iterator[Image.Image]:
    """The real images, one at a time; raises ValueError that names one that cannot be decoded."""
    for pair in pairs:
        try:
            yield Image.open(pair.path).convert("RGB")
        except OSError:
            raise ValueError(f"{pair.path} is not an image that can be decoded: fetch it again") from None


# ---- moments -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def moments(images: Iterable[np.ndarray | Image.Image], card: Card, network: torch.nn.Module) -> dict[str, np.ndarray]:
    """Sum of features, sum of their products and number of images, float64, of any number of images; `card` says how.

    Images are read as they come and never kept.
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    total, batch = None, []

    def add() -> None:
        nonlocal total
        ready = inception.prepared(np.stack(batch), card.implementation, device)
        x = finite("features", network(ready).flatten(1)).double()
        new = {"sum": x.sum(0), "products": x.T @ x, "count": torch.tensor(len(x))}
        total = new if total is None else {k: total[k] + v for k, v in new.items()}
        batch.clear()

    for image in images:
        batch.append(at_size(image if isinstance(image, Image.Image) else Image.fromarray(image), card))
        if len(batch) == card.batch:
            add()
    if batch:
        add()
    if total is None:
        raise ValueError("no images: a Fréchet distance needs some on each side")
    return {k: v.cpu().numpy() for k, v in total.items()}


def merged(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The moments of several sets together."""
    return {k: np.sum([p[k] for p in parts], axis=0) for k in parts[0]}


def distance(real: dict[str, np.ndarray], fake: dict[str, np.ndarray]) -> float:
    """Fréchet distance between two sets given by their moments, by torchmetrics (Heusel et al. 2017).

    Raises ValueError if the sets differ in number, or have no more images than features.
    """
    counts, dimension = (int(real["count"]), int(fake["count"])), len(real["sum"])
    if counts[0] != counts[1] or min(counts) <= dimension:
        raise ValueError(f"a distance on {dimension:,} features needs more images than that, as many real as generated, got "
                         f"{counts[0]:,} and {counts[1]:,}")  # fmt: skip
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=Given(dimension)).set_dtype(torch.float64)
    metric.orig_dtype = torch.float64
    for side, sums in (("real", real), ("fake", fake)):
        for state, name in (("sum", "sum"), ("cov_sum", "products"), ("num_samples", "count")):
            setattr(metric, f"{side}_features_{state}", torch.from_numpy(np.array(sums[name])))
    metric._update_count = 1
    return max(0.0, finite("the Fréchet distance", float(metric.compute())))


def real_moments(
    source: FidelitySource, pairs: Sequence[CocoPair], card: Card, load: Callable[[], torch.nn.Module]
) -> Artifact:
    """The stage with the moments of the real images: made once, whatever is compared with them afterwards."""
    files = digest_of([[p.path.name, p.path.stat().st_size] for p in pairs])

    def make(folder: Path) -> None:
        save_arrays(folder / "moments.safetensors", moments(real_images(pairs), card, load()))

    return stage("real_moments", asdict(card), {"files": files}, make)


def coco_distance(
    source: FidelitySource,
    generated: Iterable[np.ndarray],
    pairs: Sequence[CocoPair],
    batch: int = 50,
    device: torch.device | str = "cpu",
) -> tuple[float, Card]:
    """FID of generated images, uint8 [height, width, 3], one per pair in their order, with its card."""
    card = card_of(source, pairs, batch)
    network = inception.load_inception(Path(source.weights), source.sha256, device)
    real = load_arrays(real_moments(source, pairs, card, lambda: network).path / "moments.safetensors")
    return distance(real, moments(generated, card, network)), card


def differences(cards: Sequence[Card]) -> list[str]:
    """What differs between cards, by field; distances on different cards are not to be compared."""
    return [name for name in Card.__dataclass_fields__ if len(Counter(getattr(card, name) for card in cards)) > 1]
