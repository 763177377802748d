"""An image set on disk is the same set: digests, embeddings, rewards and labels work on it, and memory does not grow."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny

from lib.ground.paths import ROOT
from lib.images.sampling import ImageSet, image_digest
from lib.scale import shards


def in_memory(count=10, height=16):
    pixels = np.stack([tiny.picture(k, height, 24) for k in range(count)])
    prompts = [tiny.PROMPTS[k % 3] for k in range(count)]
    return ImageSet(pixels, "evening", prompts, list(range(count)), [image_digest(x) for x in pixels])


@pytest.fixture
def both(tmp_path):
    """The same ten images in memory and in three shards."""
    images = in_memory()
    for k, start in enumerate((0, 4, 8)):
        part = images.part(list(range(start, min(start + 4, 10))))
        shards.write_shard(tmp_path, k, part.pixels, part.stream, part.prompts, part.numbers)
    shards.finish(tmp_path)
    return images, tmp_path


def test_the_set_on_disk_is_the_set_in_memory(both):
    images, folder = both
    found = shards.opened(folder, verify=True)
    assert len(found) == 10 and found.pixels.shape == images.pixels.shape and found.names == images.names
    assert (found.prompts, found.numbers, found.digests) == (images.prompts, images.numbers, images.digests)
    for key in (3, -1, slice(2, 7), slice(None), [9, 0, 5], np.arange(10) % 2 == 0, np.array([8, 8])):
        np.testing.assert_array_equal(found.pixels[key], images.pixels[key])
    np.testing.assert_array_equal(np.stack(list(found.pixels)), images.pixels)


def test_a_part_stays_on_disk(both):
    images, folder = both
    mask = np.arange(10) % 3 == 1
    for rows in ([7, 2, 9], mask):
        part = shards.opened(folder).part(rows)
        assert isinstance(part.pixels, shards.Pixels)
        assert part.digests == list(np.array(images.digests)[rows]) == [image_digest(x) for x in part.pixels]
    with pytest.raises(IndexError):
        shards.opened(folder).part([10])


def test_it_never_becomes_one_array_by_accident(both):
    with pytest.raises(TypeError, match=r"10 images on disk are no array: read some of them, as in pixels\[:64\]"):
        np.asarray(shards.opened(both[1]).pixels)


def test_any_tool_reads_the_shards(both):
    import io
    import tarfile

    from PIL import Image

    images, folder = both
    with tarfile.open(folder / "00001.tar") as tar:
        assert tar.getnames() == [f"{k:08d}.png" for k in range(4)]
        inside = np.asarray(Image.open(io.BytesIO(tar.extractfile("00000002.png").read())))
    np.testing.assert_array_equal(inside, images.pixels[6])


def test_the_same_images_give_the_same_bytes(both, tmp_path):
    images, folder = both
    shards.write_shard(tmp_path / "again", 0, images.pixels[:4], images.stream, images.prompts[:4], images.numbers[:4])
    for name in ("00000.tar", "00000.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_missing_shard_is_named(both):
    folder = both[1]
    (folder / "00001.tar").rename(folder / "away")
    for ask in (shards.opened, shards.finish):
        with pytest.raises(FileNotFoundError, match=r"00001"):
            ask(folder)
    (folder / "shards.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"shards.json is missing: expected a folder of image shards, closed by"):
        shards.opened(folder)


def test_a_changed_byte_is_noticed(both):
    folder = both[1]
    content = bytearray((folder / "00001.tar").read_bytes())
    at = int(shards.opened(folder).pixels.offset[5]) + 60
    content[at] ^= 1
    (folder / "00001.tar").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"image [0-9a-f]{12} in .*00001.tar is damaged: restore the shard, or draw it again"
    ):
        shards.opened(folder).pixels[:]
    np.testing.assert_array_equal(shards.opened(folder).pixels[4], both[0].pixels[4])  # its neighbour is sound
    with pytest.raises(ValueError, match=r"00001.tar is not the shard that shards.json describes"):
        shards.opened(folder, verify=True)


def test_an_image_in_anothers_place_is_noticed(both):
    pixels = shards.opened(both[1]).pixels
    with pytest.raises(ValueError, match=r"image [0-9a-f]{12} in .* is damaged"):
        replace(pixels, digests=pixels.digests[::-1])[0]


def test_a_killed_writer_leaves_no_shard(tmp_path):
    class Images:
        def __len__(self):
            return 2

        def __getitem__(self, row):
            if row:
                raise KeyboardInterrupt
            return tiny.picture(0)

    with pytest.raises(KeyboardInterrupt):
        shards.write_shard(tmp_path, 0, Images(), "s", ["a", "b"], [0, 1])
    assert not shards.written(tmp_path, 0) and not (tmp_path / "00000.tar").exists()


def test_judged_images_are_archived_once_and_keep_their_labels(both, tmp_path):
    from lib.feedback import labels

    images, folder = both
    table = tiny.write_labels(tmp_path / "labels.parquet", images.digests[:5], images.prompts[:5])
    judged = shards.archive(tmp_path / "judged", shards.opened(folder), table.image)
    assert judged.digests == images.digests[:5]
    labels.matched(labels.load(tmp_path / "labels.parquet"), judged.digests, judged.prompts, every=True)
    more = shards.archive(tmp_path / "judged", images, images.digests[3:8])
    assert more.digests == images.digests[:8] and len(list((tmp_path / "judged").glob("*.tar"))) == 2
    other = ImageSet(images.pixels, "morning", images.prompts, images.numbers, images.digests)
    with pytest.raises(ValueError, match=r"judged archives images of 'evening': keep those of 'morning' in another folder"):
        shards.archive(tmp_path / "judged", other, images.digests)
    with pytest.raises(ValueError, match=r"1 of 2 judged images are not there to archive, such as 'ffff"):
        shards.archive(tmp_path / "judged", images, ["f" * 64, images.digests[0]])


def test_what_a_killed_archive_left_is_not_in_the_next_one(both, tmp_path):
    images, folder = both
    shards.archive(tmp_path / "judged", images, images.digests[:3])
    for number in (1, 2):  # written, and killed before the folder was closed
        shards.write_shard(tmp_path / "judged", number, images.pixels[3:5], "evening", images.prompts[3:5], [3, 4])
    assert shards.archive(tmp_path / "judged", images, images.digests[:6]).digests == images.digests[:6]
    assert len(list((tmp_path / "judged").glob("*.tar"))) == 2


def test_embeddings_and_features_work_on_it(both, tmp_path):
    import open_clip

    from lib.images.embedding import embed_images

    images, folder = both
    tiny.write_clip(tmp_path / "clip")
    clip, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'clip'}")
    mine, theirs = (embed_images(clip.eval(), preprocess, x.pixels, batch=4) for x in (shards.opened(folder), images))
    np.testing.assert_array_equal(mine, theirs)


MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
from lib.scale import shards
for count in (200, 2_000):
    folder = Path(sys.argv[1]) / str(count)
    for k in range(count // 50):
        pixels = np.random.default_rng(k).integers(0, 256, (50, 128, 128, 3), np.uint8)
        shards.write_shard(folder, k, pixels, "s", [f"prompt {k}"] * 50, range(50))
    shards.finish(folder)
    images = shards.opened(folder)
    assert all(images.pixels[i : i + 50].max() for i in range(0, count, 50))
    print(len(images), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_ten_times_the_images_take_no_more_memory(tmp_path):
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert said[::2] == ["200", "2000"]
    assert int(said[3]) <= 1.1 * int(said[1]), said  # 98 MB of pixels, and about half of that is allowed
