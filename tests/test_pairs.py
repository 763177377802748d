"""Pre-training pairs are streamed, what cannot be used is counted, and latents are read when they are asked for."""

import io
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from PIL import Image

from lib.ground.paths import ROOT
from lib.ground.setups import PairSource
from lib.scale import pairs, streams


def encode(images: np.ndarray) -> torch.Tensor:
    """Stand-in for an autoencoder: means over 8 x 8 pixels, in [-1, 1]."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.nn.functional.avg_pool2d(x, 8)


def tally_of(path, source, resolution=64):
    tally = pairs.Tally()
    return list(pairs.pairs_in(path, source, resolution, tally)), tally


@pytest.fixture
def tars(tmp_path):
    """Two shards of twelve pairs."""
    for shard in range(2):
        tiny.write_pairs(tmp_path / f"{shard:05d}.tar", range(12 * shard, 12 * shard + 12))
    return PairSource("tar", (str(tmp_path / "*.tar"),))


def encoded(source, folder, order=None):
    paths = pairs.shard_paths(source)
    for number in order or range(len(paths)):
        pairs.encode_shard(paths[number], number, source, 64, encode, folder)
    return pairs.close_latents(source, folder)


def test_a_tar_gives_its_pairs(tars):
    found, tally = tally_of(pairs.shard_paths(tars)[1], tars)
    assert [key for key, _, _ in found] == [f"{k:09d}" for k in range(12, 24)]
    assert [c for _, c, _ in found] == [f"a picture of number {k}" for k in range(12, 24)]
    assert all(x.shape == (64, 64, 3) and x.dtype == np.uint8 for _, _, x in found) and (tally.good, tally.bad) == (12, 0)


def test_the_middle_square_is_kept_at_the_right_scale():
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = 255  # the middle square is white
    Image.fromarray(wide).save(file := io.BytesIO(), "PNG")
    shown = streams._decoded(file.getvalue(), 20)
    assert shown.shape == (20, 20, 3) and shown[:, 2:-2].min() > 250
    Image.fromarray(wide.transpose(1, 0, 2)).save(file := io.BytesIO(), "PNG")
    np.testing.assert_array_equal(streams._decoded(file.getvalue(), 20), shown.transpose(1, 0, 2))


def test_what_cannot_be_used_is_counted_by_reason(tmp_path):
    tiny.write_pairs(path := tmp_path / "00000.tar", range(20), corrupt=(3, 5), captionless=(7,))
    with tarfile.open(path, "a") as tar:  # a pair whose download failed, as img2dataset leaves it; and an empty caption
        for name, content in (("x.json", b'{"caption": "c"}'), ("y.txt", b" "), ("y.jpg", tiny.as_jpeg(tiny.picture(0)))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    source = PairSource("tar", (str(path),))
    found, tally = tally_of(path, source)
    assert [key for key, _, _ in found][:5] == ["000000000", "000000001", "000000002", "000000004", "000000006"]
    # number 7 has no txt, but a caption in its json
    assert (tally.good, tally.corrupt, tally.missing, tally.captionless) == (18, 2, 1, 1)
    with pytest.raises(ValueError) as error:
        tally.check(0.1)
    assert str(error.value) == (
        "4 of 22 pairs cannot be used (corrupt image 2, no image 1, no caption 1; the first is 000000003 in "
        f"{path}): expected at most 10.00%; fetch the shards again, or raise pairs.corrupt_limit"
    )
    tally.check(0.2)
    with pytest.raises(ValueError, match="0 of 0 pairs"):
        pairs.Tally().check(0.5)


@pytest.mark.parametrize("nested", [True, False])
def test_parquet_gives_the_same_images_as_tar(tars, tmp_path, nested):
    with tarfile.open(pairs.shard_paths(tars)[0]) as tar:
        files = [tar.extractfile(m).read() for m in tar if m.name.endswith("jpg")]
    images = [{"bytes": f, "path": None} for f in files] if nested else files
    table = pa.table({"image": images, "TEXT": [f"a picture of number {k}" for k in range(11)] + [None]})
    pq.write_table(table, path := tmp_path / "a.parquet")
    source = PairSource("parquet", (str(path),), caption_column="TEXT")
    found, tally = tally_of(path, source)
    theirs, _ = tally_of(pairs.shard_paths(tars)[0], tars)
    assert tally.captionless == 1 and len(found) == 11
    for mine, other in zip(found, theirs, strict=False):
        assert mine[1] == other[1]
        np.testing.assert_array_equal(mine[2], other[2])
    with pytest.raises(ValueError, match=r"has no column 'caption': set .* to one of image, TEXT"):
        tally_of(path, PairSource("parquet", (str(path),)))


def test_missing_and_broken_shards_are_named(tars, tmp_path):
    tiny.write_pairs(tmp_path / "00003.tar", range(2))
    with pytest.raises(FileNotFoundError, match=r"/00002.tar is missing between its neighbours: fetch it, or list"):
        pairs.shard_paths(tars)
    listed = PairSource("tar", tuple(str(tmp_path / f"0000{k}.tar") for k in (0, 1, 3)))
    assert len(pairs.shard_paths(listed)) == 3
    with pytest.raises(FileNotFoundError, match=r"no shard of pre-training pairs at .*/b/\*.tar: fetch it, or correct"):
        pairs.shard_paths(PairSource("tar", (str(tmp_path / "b" / "*.tar"),)))
    with pytest.raises(FileNotFoundError, match=r"no shard .*/00009.tar"):
        pairs.shard_paths(PairSource("tar", (str(tmp_path / "00009.tar"),)))
    whole = (tmp_path / "00000.tar").read_bytes()
    (tmp_path / "00000.tar").write_bytes(whole[: len(whole) // 2 - 700])
    with pytest.raises(ValueError, match=r"00000.tar is not a whole tar file \(.*\): fetch it again"):
        tally_of(tmp_path / "00000.tar", listed)
    (tmp_path / "a.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"a.parquet is not a Parquet file \(.*\): fetch it again"):
        tally_of(tmp_path / "a.parquet", PairSource("parquet", ("a",)))


def test_latents_are_those_of_the_pairs_whatever_the_order_of_work(tars, tmp_path):
    tally = encoded(tars, tmp_path / "one")
    encoded(tars, tmp_path / "two", order=[1, 0])
    one, two = pairs.PairLatents(tmp_path / "one"), pairs.PairLatents(tmp_path / "two")
    assert len(one) == tally.good == 24
    images = [x for path in pairs.shard_paths(tars) for _, _, x in tally_of(path, tars)[0]]
    rows = [23, 0, 12, 11, 0]
    wanted = encode(np.stack([images[r] for r in rows])).half().float()
    assert torch.equal(one.latents(rows), wanted) and torch.equal(two.latents(rows), wanted)
    assert one.captions(rows) == [f"a picture of number {r}" for r in rows]
    for row in (24, -1):
        with pytest.raises(IndexError, match=rf"pair {row} of 24: expected 0 to 23"):
            one.latents([row])


def test_a_killed_process_loses_one_shard(tars, tmp_path):
    calls = []

    def dies(images):
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(images)

    paths = pairs.shard_paths(tars)
    with pytest.raises(KeyboardInterrupt):
        for number, path in enumerate(paths):
            pairs.encode_shard(path, number, tars, 64, dies, tmp_path / "l")
    with pytest.raises(FileNotFoundError, match=r"the latents of .*/00001.tar are missing in .*: encode every shard first"):
        pairs.close_latents(tars, tmp_path / "l")
    with pytest.raises(FileNotFoundError, match=r"pairs.json is missing"):
        pairs.PairLatents(tmp_path / "l")
    before = (tmp_path / "l" / "00000.safetensors").stat().st_mtime_ns
    assert encoded(tars, tmp_path / "l").good == 24
    assert (tmp_path / "l" / "00000.safetensors").stat().st_mtime_ns == before


def test_a_shard_without_a_usable_pair_counts_and_the_limit_holds(tmp_path):
    tiny.write_pairs(tmp_path / "00000.tar", range(4), corrupt=range(4))
    tiny.write_pairs(tmp_path / "00001.tar", range(4, 12))
    paths = (str(tmp_path / "*.tar"),)
    with pytest.raises(ValueError, match=r"4 of 12 pairs cannot be used"):
        encoded(PairSource("tar", paths), tmp_path / "l")
    assert encoded(PairSource("tar", paths, corrupt_limit=0.5), tmp_path / "l").good == 8
    assert pairs.PairLatents(tmp_path / "l").captions([0, 7]) == ["a picture of number 4", "a picture of number 11"]


MEASURE = """
import io, os, resource, sys, tarfile
from pathlib import Path
import numpy as np, torch
from lib.ground.setups import PairSource
from lib.scale import pairs
folder, each, side = Path(sys.argv[1]), 2_500, 24
for shard in range(40):  # the same shard under 40 names
    if shard:
        os.link(folder / "00000.tar", folder / f"{shard:05d}.tar")
        continue
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for k in range(each):
            image = np.random.default_rng(k).bytes(3 * side**2)
            for kind, content in (("jpg", b"P6 24 24 255 " + image), ("txt", b"a caption of some length, as captions are")):
                member = tarfile.TarInfo(f"{k:09d}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        tar.members = []
for part in ("0000[0-3].tar", "*.tar"):
    source, latents = PairSource("tar", (str(folder / part),)), folder / f"latents-{len(part)}"
    for number, path in enumerate(pairs.shard_paths(source)):
        pairs.encode_shard(path, number, source, side, lambda x: torch.zeros(len(x), 4, 1, 1), latents)
    pairs.close_latents(source, latents)
    found = pairs.PairLatents(latents)
    order = np.random.default_rng(0).permutation(len(found))
    for rows in np.split(order, len(found) // each):
        assert len(found.captions(rows.tolist())) == len(found.latents(rows.tolist())) == each
    print(len(found), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_a_run_over_100_000_pairs_takes_no_more_memory_than_one_over_10_000(tmp_path):
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert said[::2] == ["10000", "100000"]
    assert int(said[3]) <= 1.1 * int(said[1]), said  # 173 MB of pixels, and less than half of that is allowed
