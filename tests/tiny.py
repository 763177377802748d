"""The setup `tiny`: everything that the papers' own scale needs, with random weights, in one folder, in two seconds.

tiny/tiny.toml                      the setup, which names what follows
tiny/stable-diffusion/              in Stable Diffusion v1.5's layout: 4 latent channels, PNDM, epsilon, 64 px
tiny/clip/                          an open_clip checkpoint (the text vocabulary is CLIP's own)
tiny/pairs/00000.tar, 00001.tar     pre-training pairs as img2dataset writes them: jpg, txt, json
tiny/inception.pt                   a network of 6 features in the form of the TorchScript Inception
tiny/coco/                          ten images and 50 captions, as in COCO val2014
tiny/judged/                        the images that two raters judged, archived
tiny/labels.parquet                 their labels
tiny/choices.parquet                one image of each prompt that each of them chose
"""

import io
import json
import shutil
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from lib.feedback import choices, labels
from lib.ground.setups import FOLDER
from lib.images.sampling import ImageSet, image_digest
from lib.scale import blank, shards
from lib.world.prompts import UNSEEN, grid

PROMPTS = ("Two blue dogs in the forest.", "A red colored apple.", "six cats in San Francisco at night.")
ASKED = (*grid(counts=(6, 4, 4, 6)), *grid(UNSEEN, (3, 2, 2, 3)))  # prompts of the images that were judged
JUDGED = 4  # images per prompt
PAIRS = 12  # per shard


def write_tiny(folder: Path, safety: bool = True, extractor: str = "CLIPImageProcessor") -> Path:
    """Make the whole setup in a folder; returns the path of its `tiny.toml`, which is data/setups/tiny.toml."""
    write_generator(folder / "stable-diffusion", safety, extractor)
    write_clip(folder / "clip")
    for shard in range(2):
        write_pairs(folder / "pairs" / f"{shard:05d}.tar", range(PAIRS * shard, PAIRS * (shard + 1)))
    write_coco(folder / "coco")
    write_inception(folder / "inception.pt")
    write_judged(folder / "judged")
    write_labels(folder / "labels.parquet", judged().digests, judged().prompts)
    write_choices(folder / "choices.parquet", judged())
    return Path(shutil.copy(FOLDER / "tiny.toml", folder))


def write_generator(folder: Path, safety: bool = True, extractor: str = "CLIPImageProcessor", seed: int = 0) -> None:
    """A folder in Stable Diffusion v1's layout with tiny random weights.

    `safety`: with a safety checker, as published, or without. `extractor`: the class that model_index.json names, in copies
    of v1.4 the `CLIPFeatureExtractor` that transformers no longer has.
    """
    from transformers import CLIPImageProcessor

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipe = blank.blank_pipeline(folder / "tokenizer", "tiny")
        checker = blank.safety_checker("tiny")
    pipe.save_pretrained(folder, safe_serialization=True)
    blank.write_tokenizer(folder / "tokenizer")  # vocab.json and merges.txt, as published, not tokenizer.json
    (folder / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    index = json.loads((folder / "model_index.json").read_text())
    if safety:
        checker.save_pretrained(folder / "safety_checker", safe_serialization=True)
        index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    CLIPImageProcessor(size=32, crop_size=32).save_pretrained(folder / "feature_extractor")
    index |= {"feature_extractor": ["transformers", extractor], "requires_safety_checker": safety}
    index.pop("image_encoder", None)  # the published index has no such part
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def write_clip(folder: Path, seed: int = 1) -> None:
    """An open_clip folder (`local-dir:`): a transformer at 32 px with CLIP's own vocabulary, random weights."""
    import open_clip
    from safetensors.torch import save_file

    text = {"context_length": 77, "vocab_size": blank.VOCABULARY, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    model = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = open_clip.CLIP(**model)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "open_clip_model.safetensors")
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    shown = {"mean": mean, "std": std, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": shown}, indent=1))


def picture(seed: int, height: int = 64, width: int = 64) -> np.ndarray:
    """A smooth random image, uint8 [height, width, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def as_jpeg(pixels: np.ndarray) -> bytes:
    """The bytes of a JPEG file of quality 95."""
    Image.fromarray(pixels).save(file := io.BytesIO(), "JPEG", quality=95)
    return file.getvalue()


def write_pairs(path: Path, keys, corrupt=(), captionless=()) -> None:
    """A shard in img2dataset's layout; some images may be `corrupt` (half a file), some pairs without a caption."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key in keys:
            image = as_jpeg(picture(key, 64 + 8 * (key % 3), 96))
            caption, status = f"a picture of number {key}", {"status": "success", "width": 96, "url": f"https://a.b/{key}"}
            files = {"jpg": image[:200] if key in corrupt else image, "txt": caption.encode()}
            files["json"] = json.dumps({"key": f"{key:09d}", "caption": caption, **status}).encode()
            for kind, content in files.items():
                if kind != "txt" or key not in captionless:
                    member = tarfile.TarInfo(f"{key:09d}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def write_coco(folder: Path, count: int = 10) -> None:
    """Images of several sizes (one grey), and five captions each, named as in COCO val2014."""
    (folder / "val2014").mkdir(parents=True, exist_ok=True)
    images, captions = [], []
    for i in range(count):
        number, (height, width) = 42 + 31 * i, ((60, 80), (80, 60), (64, 64))[i % 3]
        name, pixels = f"COCO_val2014_{number:012d}.jpg", picture(1000 + i, height, width)
        (folder / "val2014" / name).write_bytes(as_jpeg(pixels[..., 0] if i == 3 else pixels))
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        captions += [
            {"image_id": number, "id": 7 * len(captions) + k, "caption": f"Picture {i}, caption {k}."} for k in range(5)
        ]
    (folder / "annotations").mkdir(exist_ok=True)
    whole = json.dumps({"images": images, "annotations": captions})
    (folder / "annotations" / "captions_val2014.json").write_text(whole)


def write_labels(path: Path, digests, prompts) -> pd.DataFrame:
    """Labels by two raters of images with these digests and prompts: good, bad, now and then skip."""
    table = pd.DataFrame([
        {"image": image, "prompt": prompt, "rater": rater, "label": labels.LABELS[(i * (2 + k) + k) % 7 % 3],
         "time": "2026-01-01T00:00:00", "source": "human"}
        for i, (image, prompt) in enumerate(zip(digests, prompts, strict=True)) for k, rater in enumerate(("ann", "bob"))
    ])  # fmt: skip
    labels.save(path, table)
    return table


def write_choices(path: Path, images: ImageSet) -> pd.DataFrame:
    """Of the images of each prompt, the one that each of two users chose."""
    shown = {p: [d for d, q in zip(images.digests, images.prompts, strict=True) if q == p] for p in ASKED}
    table = pd.DataFrame([
        {"prompt": p, "images": shown[p], "chosen": (i + k) % JUDGED, "user": user, "time": "2026-01-01T00:00:00",
         "source": "human"}
        for i, p in enumerate(ASKED) for k, user in enumerate(("ann", "bob"))
    ])  # fmt: skip
    choices.save(path, table)
    return table


def judged() -> ImageSet:
    """The images that were judged."""
    prompts, numbers = [p for p in ASKED for _ in range(JUDGED)], [n for _ in ASKED for n in range(JUDGED)]
    pixels = np.stack([picture(2000 + i) for i in range(len(prompts))])
    return ImageSet(pixels, "judged", prompts, numbers, [image_digest(x) for x in pixels])


def write_judged(folder: Path) -> None:
    """The archive of the images that were judged, in two shards."""
    images, half = judged(), JUDGED * len(ASKED) // 2
    for shard in range(2):
        part = images.part(list(range(half * shard, half * (shard + 1))))
        shards.write_shard(folder, shard, part.pixels, part.stream, part.prompts, part.numbers)
    shards.finish(folder)


class Colours(torch.nn.Module):
    """Six features, float [image, 6], of prepared images: random sums of the colours of their four quarters."""

    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Linear(12, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


class Whole(torch.nn.Module):
    """What the TorchScript Inception is: a module whose `layers` take prepared images."""

    def __init__(self):
        super().__init__()
        self.layers = Colours()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def write_inception(path: Path, seed: int = 2) -> None:
    """A TorchScript file with `Whole`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        torch.jit.script(Whole().eval()).save(path)
