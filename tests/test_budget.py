"""Counts by arithmetic agree with published ones, and with what PyTorch counts while a step runs."""

from dataclasses import replace

import pytest
import tiny

from lib.ground.setups import ClipSource, ModelSource, Setup, setup_named
from lib.ground.sizes import SIZES
from lib.scale import budget

FULL = SIZES["full"]


@pytest.fixture(scope="module")
def lee():
    return setup_named("lee-sd15")


def test_networks_are_as_large_as_published(lee):
    found = budget.networks()
    millions = {name: round(n.weights / 1e6, 1) for name, n in found.items()}
    assert millions["unet"] == 859.5 and millions["text"] == 123.1
    assert millions["encode"] + millions["decode"] == pytest.approx(83.7, abs=0.1)
    # multiplications with additions, billions: U-Net 339 without attention's products (Kim et al. 2023, BK-SDM, table 1),
    # ViT-L/14 81.0 (open_clip's profile: 162.03 operations), Inception-v3 5.71 (torchvision)
    assert (found["unet"].operations - found["unet"].attention) / 2e9 == pytest.approx(339, rel=0.005)
    assert budget.clip_image(lee.clip).operations / 2e9 == pytest.approx(81.0, rel=0.005)
    assert budget.inception_image().operations / 2e9 == pytest.approx(5.71, rel=0.005)


def test_each_stage_counts_what_it_runs(lee):
    n, table = budget.networks(), budget.stages(lee, FULL, runs=3, models=2)
    one = n["unet"].operations
    assert (
        budget.image_operations(n, lee.sampling) == 102 * one + n["text"].operations + n["decode"].operations
    )  # 51 steps, twice
    plain = replace(lee.sampling, sampler="ddim", guidance_scale=1.0)
    assert budget.image_operations(n, plain) == 50 * one + n["text"].operations + n["decode"].operations
    some = replace(lee.sampling, sampler="ddim", guided=20)
    assert budget.image_operations(n, some) == 70 * one + n["text"].operations + n["decode"].operations
    assert budget.update_operations(n, lee.training, 512) == 512 * (4 * one + n["text"].operations)
    assert table.loc["images to label", "items"] == 27_528 and table.loc["updates", "items"] == 30_000
    assert (table.total == table["items"].astype(float) * table.operations).all()
    assert table.total.idxmax() == "updates"
    wu = setup_named("wu-sd14")
    assert budget.update_operations(n, wu.training, 40) == 40 * (3 * one + n["text"].operations)
    assert budget.stages(wu, FULL).loc["updates", ["items", "operations"]].tolist() == [
        10_000, budget.update_operations(n, wu.training, 40)]  # fmt: skip


def test_memory_and_disk_are_sums(lee):
    memory = budget.training_memory(lee)
    assert sum(v for k, v in memory.items() if k != "frozen") == 20 * 859_520_964
    assert memory["frozen"] == pytest.approx(2 * (123_060_480 + 83_653_863), rel=1e-3)
    less = budget.training_memory(replace(lee, training=replace(lee.training, eight_bit_adam=True, ema_offload=True)))
    assert sum(less.values()) == sum(memory.values()) - 10 * 859_520_964
    assert budget.training_memory(setup_named("wu-sd14")) == {"frozen": memory["frozen"] + 2 * 859_520_964}
    assert budget.room_on_disk(lee, FULL)["latents"] == 32_768 * (625_000 + 27_528 + 16_000)


def test_a_folders_own_networks_are_counted(tmp_path):
    tiny.write_generator(tmp_path / "sd", safety=False)
    tiny.write_clip(tmp_path / "clip")
    own = replace(Setup(), model=ModelSource(str(tmp_path / "sd")), clip=ClipSource(str(tmp_path / "clip")))
    assert budget.networks(own.model.source, 64)["unet"].operations < budget.networks()["unet"].operations / 1000
    assert 0 < budget.stages(own, SIZES["smoke"]).loc["embeddings", "operations"] < 1e8


def test_mini_is_the_shipped_model():
    found = budget.networks_of(Setup())
    assert found["unet"].weights < 10_000_000 and found["unet"] != budget.networks()["unet"]
