"""A measured step does what the arithmetic says."""

import gc
import json
import weakref

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lib.scale import measure


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


def test_operations_are_those_of_pytorch_s_counter_and_no_activation_outlives_its_update():
    network, x, kept = torch.nn.Sequential(torch.nn.Linear(9, 9), torch.nn.Linear(9, 9)), torch.ones(2, 9), []
    x.requires_grad_()
    for layer in network:
        layer.register_forward_hook(lambda module, args, out: kept.append(weakref.ref(out)))

    def update() -> None:
        checkpoint(network, x, use_reentrant=False).sum().backward()

    gc.disable()
    try:
        with measure.Operations() as counter:
            update()
            assert {ref() for ref in kept} == {None}
    finally:
        gc.enable()
    with FlopCounterMode(display=False) as theirs:
        update()
    assert counter.total == theirs.get_total_flops() > 0
    assert measure.timed(update)["operations"] == counter.total


def test_what_was_measured_at_true_size_fits_the_arithmetic_and_20_gb():
    found = json.loads((measure.FOLDER / "measured" / "true.json").read_text())
    beside = measure.beside(found)
    assert (found["shape"], found["batch"], found["device"]) == ("true", 4, "cpu") and beside["GB"] < 20
    assert beside["update counted"] == pytest.approx(1, rel=0.1) and beside["image counted"] == pytest.approx(1, rel=0.1)
