"""A measured step does what the arithmetic says."""

import gc
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lib.scale import blank, measure


def test_a_measured_step_has_the_operations_of_the_arithmetic():
    found = measure.measured("tiny", batch=3)
    beside = measure.beside(json.loads(json.dumps(found)))
    assert beside["update counted"] == pytest.approx(1, rel=0.1)
    assert beside["image counted"] == pytest.approx(1, rel=0.1)
    assert beside["GFLOP/s"] > 0 and 0.1 < beside["GB"] < 4


def test_ours_gives_way_to_the_readers(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "PLACES", (tmp_path / "theirs", tmp_path / "ours"))
    with pytest.raises(FileNotFoundError, match=r"nothing was measured in .*theirs: run `python -m lib.scale.measure`"):
        measure.kept()
    for place, shapes in (("ours", ("tiny", "true")), ("theirs", ("tiny",))):
        (tmp_path / place).mkdir()
        for shape in shapes:
            (tmp_path / place / f"{shape}.json").write_text(json.dumps({"shape": shape, "by": place}))
    assert [(f["shape"], f["by"]) for f in measure.kept()] == [("true", "ours"), ("tiny", "theirs")]


def live() -> int:
    """Numbers in all tensors that Python holds."""
    return sum(x.numel() for x in gc.get_objects() if type(x) is torch.Tensor)


def test_operations_are_those_of_pytorch_s_counter_which_keeps_activations():
    unet = blank.blank_parts("tiny")["unet"].train()
    unet.enable_gradient_checkpointing()
    weights = sum(p.numel() for p in unet.parameters())
    counters, more = [measure.Operations(), FlopCounterMode(display=False)], []
    for counter in counters:
        gc.collect()
        gc.disable()
        before = live()
        with counter:
            unet(torch.randn(8, 4, 8, 8), torch.tensor(1), torch.randn(8, 77, 32)).sample.sum().backward()
            more.append(live() - before)
        gc.enable()
    assert counters[0].total == counters[1].get_total_flops() > 0
    assert more[0] < 1.1 * weights < 2 * weights < more[1]  # gradients


def test_what_was_measured_at_true_size_fits_the_arithmetic_and_20_gb():
    found = json.loads((measure.FOLDER / "measured" / "true.json").read_text())
    beside = measure.beside(found)
    assert (found["shape"], found["batch"], found["device"]) == ("true", 4, "cpu") and beside["GB"] < 20
    assert beside["update counted"] == pytest.approx(1, rel=0.1) and beside["image counted"] == pytest.approx(1, rel=0.1)
