"""Pre-training pairs as latents in half precision with their captions: one shard for each shard of images.

Any number of processes may share the work, and a killed one loses one shard. Training reads latents and captions as it needs
them; neither is ever in memory as a whole. 625,000 pairs at Stable Diffusion's size take 20 GB on disk.
"""

import bisect
import functools
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyarrow import feather
from safetensors import safe_open

from lib.ground.cache import atomic_write, save_arrays, save_json
from lib.ground.setups import PairSource
from lib.scale.streams import Tally, pairs_in, shard_paths

CHUNK = 64  # images in memory at once


def encode_shard(
    path: Path, number: int, source: PairSource, resolution: int, encode: Callable[[np.ndarray], torch.Tensor], folder: Path
) -> None:
    """Write a shard's latents (float16 [pair, channel, height, width]), captions and tally; nothing if that is done.

    `encode` takes uint8 [image, resolution, resolution, 3]. Different processes may do different shards of one folder.
    """
    if (folder / f"{number:05d}.json").exists():
        return
    tally, captions, latents, images = Tally(), [], [], []
    for _, caption, image in pairs_in(path, source, resolution, tally):
        captions.append(caption)
        images.append(image)
        if len(images) == CHUNK:
            latents.append(encode(np.stack(images)).half().cpu())
            images.clear()
    if images:
        latents.append(encode(np.stack(images)).half().cpu())
    write_latents(folder, number, torch.cat(latents) if latents else None, captions, tally)


def write_latents(folder: Path, number: int, latents: torch.Tensor | None, captions: Sequence[str], tally: Tally) -> None:
    """Write one shard: latents [pair, channel, height, width], captions [pair] and, last, their tally."""
    if latents is not None:
        save_arrays(folder / f"{number:05d}.safetensors", {"latents": latents.half().cpu().numpy()})
    feather.write_feather(pa.table({"caption": list(captions)}), file := io.BytesIO(), compression="uncompressed")
    atomic_write(folder / f"{number:05d}.feather", file.getvalue())
    save_json(folder / f"{number:05d}.json", asdict(tally))


def close_latents(source: PairSource, folder: Path) -> Tally:
    """Check that every shard of the source is done, and that few enough pairs were skipped; returns their tally."""
    tallies = []
    for number, path in enumerate(shard_paths(source)):
        if not (done := folder / f"{number:05d}.json").exists():
            raise FileNotFoundError(f"the latents of {path} are missing in {folder}: encode every shard first")
        tallies.append(json.loads(done.read_text("utf-8")))
    first = next((t["first"] for t in tallies if t["first"]), "")
    whole = Tally(*(sum(t[name] for t in tallies) for name in ("good", "corrupt", "missing", "captionless")), first)
    whole.check(source.corrupt_limit)
    save_json(folder / "pairs.json", asdict(whole))
    return whole


class PairLatents:
    """Latents and captions in folders that `close_latents` closed, one after the other, read when they are asked for."""

    def __init__(self, *folders: Path):
        for lost in (f / "pairs.json" for f in folders if not (f / "pairs.json").exists()):
            raise FileNotFoundError(f"{lost} is missing: expected a folder of latents, closed after encoding")
        found = [p for folder in folders for p in sorted(folder.glob("[0-9]*.json"))]
        tallies = {p: json.loads(p.read_text("utf-8"))["good"] for p in found}
        self.paths = [p.with_suffix(".safetensors") for p, good in tallies.items() if good]
        self.ends = np.cumsum([good for good in tallies.values() if good]).tolist()

    def __len__(self) -> int:
        return self.ends[-1]

    def latents(self, rows: Sequence[int]) -> torch.Tensor:
        """Latents of some pairs, float32 [row, channel, height, width], as an autoencoder gave them, in half precision."""
        return torch.stack([_slice(path)[row] for path, row in map(self._place, rows)]).float()

    def captions(self, rows: Sequence[int]) -> list[str]:
        """Captions of some pairs."""
        return [_captions(path.with_suffix(".feather"))[row].as_py() for path, row in map(self._place, rows)]

    def _place(self, row: int) -> tuple[Path, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"pair {row} of {len(self):,}: expected 0 to {len(self) - 1}")
        k = bisect.bisect_right(self.ends, row)
        return self.paths[k], row - (self.ends[k - 1] if k else 0)


@functools.cache
def _slice(path: Path):
    return safe_open(path, "pt").get_slice("latents")


@functools.cache
def _captions(path: Path) -> pa.ChunkedArray:
    return feather.read_table(path, memory_map=True)["caption"]
