"""Blind labelling of the base's images by eye: `python -m pretrain.reading draw`, then `record FILE`.

`draw` makes 200 images and writes them as one PNG of 10 x 20 tiles and their prompts as JSON; no judge looks at them.
`record` takes a text file of 200 letters (g good, b bad, s skip, row by row) and writes the label table.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from lib.feedback import labels
from lib.ground.paths import DATA
from lib.ground.sizes import SamplerSpec
from lib.images import models
from lib.images.sampling import image_digest, sample, seed_of
from lib.world import prompts

FOLDER = DATA / "labels"
ROWS, COLUMNS = 10, 20
LETTERS = {"g": "good", "b": "bad", "s": "skip"}


def draw() -> None:
    """Draw one image for each of 50 prompts per category, in random order."""
    rng = np.random.default_rng(201)
    grid = prompts.grid()
    groups = [[p for p in grid if prompts.parse(p).category == c] for c in prompts.CATEGORIES]
    chosen = [str(p) for p in rng.permutation([p for g in groups for p in rng.permutation(g)[:50]])]
    seeds = [seed_of("reading", p) for p in chosen]
    images = sample(models.load_generator(), chosen, seeds, SamplerSpec())
    sheet = images.reshape(ROWS, COLUMNS, 64, 64, 3).swapaxes(1, 2).reshape(ROWS * 64, COLUMNS * 64, 3)
    FOLDER.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(FOLDER / "reader_images.png", optimize=True)
    (FOLDER / "reader_prompts.json").write_text(json.dumps(chosen, indent=0) + "\n", "utf-8")


def tiles() -> np.ndarray:
    """The images to be labelled, uint8 [200, 64, 64, 3]."""
    sheet = np.asarray(Image.open(FOLDER / "reader_images.png").convert("RGB"))
    return sheet.reshape(ROWS, 64, COLUMNS, 64, 3).swapaxes(1, 2).reshape(-1, 64, 64, 3)


def record(path: Path, reader: str, time: str) -> None:
    """Turn the letters into `reader.parquet`; raises ValueError unless there is one valid letter per image."""
    letters = [c for c in path.read_text("utf-8") if not c.isspace()]
    if len(letters) != ROWS * COLUMNS or set(letters) - set(LETTERS):
        raise ValueError(f"{path}: expected {ROWS * COLUMNS} letters, each one of {', '.join(LETTERS)}, got {len(letters)}")
    texts = json.loads((FOLDER / "reader_prompts.json").read_text("utf-8"))
    labels.save(FOLDER / "reader.parquet", pd.DataFrame({
        "image": [image_digest(t) for t in tiles()], "prompt": texts, "rater": reader,
        "label": [LETTERS[c] for c in letters], "time": time, "source": "reader",
    }))  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pretrain.reading")
    parser.add_argument("step", choices=("draw", "record"))
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--reader", default="reader-1")
    parser.add_argument("--time", default="", help="ISO 8601, UTC")
    chosen = parser.parse_args()
    draw() if chosen.step == "draw" else record(chosen.file, chosen.reader, chosen.time)
