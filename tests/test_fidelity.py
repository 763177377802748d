"""FID on COCO: the captions, the resizes, the network and the distance are what the card says they are."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from PIL import Image

from lib.ground.cache import file_digest
from lib.ground.setups import FidelitySource
from lib.images.metrics import frechet_distance
from lib.scale import fidelity, inception


@pytest.fixture
def source(tmp_path):
    """Ten COCO-like images, and a network of six features."""
    tiny.write_coco(tmp_path / "coco")
    tiny.write_inception(tmp_path / "inception.pt")
    captions = tmp_path / "coco" / "annotations" / "captions_val2014.json"
    return FidelitySource(
        "coco", str(tmp_path / "coco" / "val2014"), str(captions), 10, 64, weights=str(tmp_path / "inception.pt"),
    )  # fmt: skip


def generated(count=10):
    return [tiny.picture(3000 + k) for k in range(count)]


# ---- captions -----------------------------------------------------------------------------------------------------


def test_each_image_has_one_of_its_captions_by_chance(source):
    pairs = fidelity.coco_pairs(source)
    assert [p.id for p in pairs] == sorted(p.id for p in pairs) and len(pairs) == 10
    assert all(p.caption.startswith(f"Picture {i}, caption") and p.path.exists() for i, p in enumerate(pairs))
    assert pairs == fidelity.coco_pairs(source) != fidelity.coco_pairs(source, seed=1)
    assert len({p.caption[-2] for p in pairs}) > 2
    assert fidelity.coco_pairs(replace(source, count=4)) == pairs[:4]


def edited(source, change):
    path = Path(source.captions)
    whole = json.loads(path.read_text())
    change(whole)
    path.write_text(json.dumps(whole))


def test_missing_captions_images_and_files_are_named(source):
    with pytest.raises(ValueError, match=r"lists 10 images: expected at least fidelity.count = 11"):
        fidelity.coco_pairs(replace(source, count=11))
    (gone := fidelity.coco_pairs(source)[3].path).unlink()
    with pytest.raises(FileNotFoundError, match=rf"1 of 10 images of fidelity.images are missing, such as .*{gone.name}"):
        fidelity.coco_pairs(source)
    edited(source, lambda x: x.update(annotations=[a for a in x["annotations"] if a["image_id"] != 42]))
    with pytest.raises(ValueError, match=r"1 of 10 images have no caption in .*, such as COCO_val2014_000000000042.jpg"):
        fidelity.coco_pairs(source)
    edited(source, lambda x: x.pop("images"))
    with pytest.raises(ValueError, match=r"is not COCO's list of captions \(KeyError: 'images'\): fetch it again"):
        fidelity.coco_pairs(source)
    with pytest.raises(FileNotFoundError, match=r"there are no captions at .*x.json: fetch COCO's annotations"):
        fidelity.coco_pairs(replace(source, captions="x.json"))


# ---- images -------------------------------------------------------------------------------------------------------


def card(**changes):
    return replace(fidelity.Card("pytorch-fid", "w", 1, "c", 20, "stretch", 0, 50), **changes)


def test_images_become_square_as_the_card_says():
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = 255
    image = Image.fromarray(wide)
    stretched, cropped = fidelity.at_size(image, card()), fidelity.at_size(image, card(shape="crop"))
    assert stretched.shape == cropped.shape == (20, 20, 3)
    assert cropped.min() == 255 and stretched[:, :5].max() == 0 and stretched[:, 9:11].min() > 240
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))
    np.testing.assert_array_equal(fidelity.at_size(noisy, card()), np.asarray(noisy))  # nothing to resize
    assert abs(fidelity.at_size(noisy, card(jpeg_quality=50)).astype(int) - np.asarray(noisy)).max() > 20


def test_each_resize_is_that_of_its_implementation():
    images = np.stack([tiny.picture(k, 40, 40) for k in range(2)])
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    ready = {name: inception.prepared(images, name) for name in inception.IMPLEMENTATIONS}
    assert all(r.shape == (2, 3, 299, 299) and r.abs().max() <= 1.2 for r in ready.values())
    theirs = 2 * F.interpolate(x / 255, (299, 299), mode="bilinear", align_corners=False) - 1  # as pytorch-fid writes it
    torch.testing.assert_close(ready["pytorch-fid"], theirs, atol=1e-5, rtol=0)
    by_hand = np.asarray(Image.fromarray(images[1, :, :, 2].astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(ready["clean-fid"][1, 2].numpy(), (by_hand - 128) / 128, atol=1e-6)
    noise = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3), np.uint8)  # whose bicubic curve leaves [0, 255]
    assert inception.prepared(noise, "clean-fid").min() == -1 and inception.prepared(noise, "clean-fid").max() == 127 / 128
    for one, other in (("pytorch-fid", "torch-fidelity"), ("torch-fidelity", "clean-fid"), ("clean-fid", "torchmetrics")):
        assert (ready[one] - ready[other]).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"unknown implementation 'tf': expected one of pytorch-fid, torch-fidelity, "):
        inception.prepared(images, "tf")


def test_antialiasing_matters_only_where_images_shrink():
    small, large = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 512, 512)
    torch.testing.assert_close(inception.bilinear(small), inception.bilinear(small, antialias=True), atol=1e-5, rtol=0)
    assert (inception.bilinear(large) - inception.bilinear(large, antialias=True)).abs().max() > 0.1


def test_tensorflows_resize_is_its_formula():
    ramp = torch.arange(26.0).expand(1, 1, 13, 26) ** 2
    for name, y, x in (("corner", 0, 0), ("inside", 100, 77), ("last", 298, 298)):
        at = x * 26 / 299
        low = int(at)
        wanted = low**2 + (at - low) * (min(low + 1, 25) ** 2 - low**2)
        assert inception.like_tensorflow(ramp)[0, 0, y, x] == pytest.approx(wanted, rel=1e-6), name
    same = torch.rand(1, 2, 299, 299)
    assert torch.equal(inception.like_tensorflow(same), same)


# ---- network ------------------------------------------------------------------------------------------------------


def convolved(layer, x):
    """A convolution with batch normalisation, without hooks."""
    return F.relu(layer.bn(layer.conv(x)))


def test_the_networks_pooling_is_tensorflows():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = inception.Layers().eval()
        x = torch.rand(1, 192, 5, 5)
        y = torch.rand(1, 2048, 3, 3)
    with torch.no_grad():
        block = network.network.Mixed_5b
        inside = F.avg_pool2d(F.pad(x, [1] * 4), 3, 1) * 9 / F.avg_pool2d(F.pad(torch.ones_like(x), [1] * 4), 3, 1) / 9
        torch.testing.assert_close(block(x)[:, -32:], convolved(block.branch_pool, inside))
        last = network.network.Mixed_7c
        most = F.max_pool2d(y, 3, 1, 1)
        torch.testing.assert_close(last(y)[:, -192:], convolved(last.branch_pool, most))
    assert sum(p.numel() for p in network.parameters()) == 21_785_568  # Inception-v3 without its last layer


def test_the_published_state_fits_and_others_are_refused(tmp_path):
    from torchvision.models.inception import Inception3

    state = Inception3(
        num_classes=1008, aux_logits=False, init_weights=False
    ).state_dict()  # the names of the published file
    torch.save(state, path := tmp_path / "pt_inception.pth")
    network = inception.load_inception(path, file_digest(path))
    assert torch.equal(network.network.Mixed_7c.branch1x1.conv.weight, state["Mixed_7c.branch1x1.conv.weight"])
    with pytest.raises(ValueError, match=r"pt_inception.pth has SHA-256 [0-9a-f]{64}, but fidelity.sha256 says 0000"):
        inception.load_inception(path, "0" * 64)
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"does not contain the Inception network \(.*\): fetch it again") as error:
        inception.load_inception(path)
    assert "\n" not in str(error.value)
    (tmp_path / "x.pt").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"x.pt does not contain the Inception network"):
        inception.load_inception(tmp_path / "x.pt")
    with pytest.raises(FileNotFoundError, match=r"there are no Inception weights at .*/y.pt: fetch them, or correct"):
        inception.load_inception(tmp_path / "y.pt")


# ---- distance -----------------------------------------------------------------------------------------------------


def test_streamed_moments_give_the_distance_of_whole_feature_sets(source):
    pairs = fidelity.coco_pairs(source)
    network = inception.load_inception(Path(source.weights))
    mine, shown = fidelity.coco_distance(source, generated(), pairs, batch=4)

    def features(images):
        with torch.no_grad():
            return network(inception.prepared(np.stack(images), "pytorch-fid")).double().numpy()

    real = [fidelity.at_size(image, shown) for image in fidelity.real_images(pairs)]
    assert mine == pytest.approx(frechet_distance(features(real), features(generated())), rel=1e-4)
    assert mine > 0 and shown.count == 10 and shown.weights == file_digest(Path(source.weights))


def test_real_images_are_measured_once_and_are_at_no_distance_from_themselves(source, monkeypatch):
    pairs = fidelity.coco_pairs(source)
    images = [np.asarray(image) for image in fidelity.real_images(pairs)]
    measured = []
    whole = fidelity.moments
    monkeypatch.setattr(fidelity, "moments", lambda *a: measured.append(1) or whole(*a))
    monkeypatch.setattr("lib.ground.cache.refuse_changes", lambda modules: None)
    assert fidelity.coco_distance(source, images, pairs)[0] == pytest.approx(0, abs=1e-6)
    assert len(measured) == 2
    fidelity.coco_distance(source, images, pairs)
    assert len(measured) == 3  # the generated side only
    fidelity.coco_distance(replace(source, jpeg_quality=90), images, pairs)
    assert len(measured) == 5


def test_the_batch_does_not_matter_and_parts_add_up(source):
    pairs = fidelity.coco_pairs(source)
    network = inception.load_inception(Path(source.weights))
    one, other = (fidelity.moments(generated(), fidelity.card_of(source, pairs, batch), network) for batch in (3, 50))
    parts = [fidelity.moments(generated()[a:b], fidelity.card_of(source, pairs), network) for a, b in ((0, 4), (4, 10))]
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5)
        np.testing.assert_allclose(fidelity.merged(parts)[name], other[name], rtol=1e-5)


def test_a_distance_that_means_nothing_is_refused(source):
    pairs = fidelity.coco_pairs(source)
    with pytest.raises(ValueError, match=r"on 6 features needs more images than that, .*, got 10 and 8"):
        fidelity.coco_distance(source, generated(8), pairs)
    few = replace(source, count=6)
    with pytest.raises(ValueError, match=r"got 6 and 6"):
        fidelity.coco_distance(few, generated(6), fidelity.coco_pairs(few))
    with pytest.raises(ValueError, match=r"no images: a Fréchet distance needs some on each side"):
        fidelity.coco_distance(source, [], pairs)
    pairs[2].path.write_bytes(b"no")
    with pytest.raises(ValueError, match=rf"{pairs[2].path.name} is not an image that can be decoded: fetch it again"):
        list(fidelity.real_images(pairs))


def test_cards_say_everything_and_tell_apart(source):
    pairs = fidelity.coco_pairs(source)
    one = fidelity.card_of(source, pairs)
    for word in (
        "10 images",
        "stretched to a square at 64 px",
        "no JPEG",
        "pytorch-fid's resize to 299 px",
        one.weights[:12],
    ):
        assert word in str(one)
    other = fidelity.card_of(replace(source, jpeg_quality=95), fidelity.coco_pairs(source, seed=1))
    assert fidelity.differences([one, other]) == ["captions", "jpeg_quality"] and fidelity.differences([one, one]) == []
