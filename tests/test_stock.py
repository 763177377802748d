"""A setup's paces stand beside those of the stock ways, which do the same work."""

from pathlib import Path

import pytest
import tiny

from lib.desk import stock
from lib.ground.setups import Setup, setup_named
from lib.scale.worker import accelerator_of


@pytest.fixture(scope="module")
def setup(tmp_path_factory) -> Setup:
    return setup_named(tiny.write_tiny(tmp_path_factory.mktemp("tiny")))


def test_each_part_has_a_pace_and_a_stock_way_beside_it(setup, monkeypatch, capsys):
    monkeypatch.setattr(stock, "matrix_rate", lambda dtype: 1e12)
    path = str(Path(setup.model.source).parent / "tiny.toml")
    stock.main(["--setup", path, "--images", "2", "--batch", "3", "--steps", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tiny on ") and lines[1] == "2 steps of pndm at 64 px" and "1,000 GFLOP/s" in lines[2]
    names = ["images drawn, 2 at once", "images drawn, 2 at once by the stock pipeline (pixels differ by ",
             "updates of 3 in micro-batches of 2", "updates of 3 in micro-batches of 2 by a plain loop",
             "images encoded", "images embedded"]  # fmt: skip
    assert [line[66:].startswith(name) for line, name in zip(lines[4:], names, strict=True)] == [True] * 6
    assert float(lines[5].split("differ by ")[1].split()[0]) < 0.01


def test_ours_is_compared_with_the_stock_way_that_follows():
    found = [stock.Pace("a", 6.0, 5e10, 2_000_000_000), stock.Pace("a by b", 4.0, 1e11, None), stock.Pace("c", 1.0, 0, None)]
    lines = list(stock.table(found, 1e12))
    assert lines[1].split() == ["6", "50", "30%", "2.0", "a"]
    assert lines[2].split() == ["4", "100", "40%", "1.50", "a", "by", "b"] and lines[3].split() == ["1", "0", "c"]


def test_both_ways_to_train_take_the_same_items_in_the_same_micro_batches(setup, monkeypatch, tmp_path):
    pipeline, seen = stock.pipeline, []

    def watched(*args):
        pipe = pipeline(*args)
        pipe.unet.register_forward_hook(lambda network, args, out: seen.append(len(args[0])))
        return pipe

    monkeypatch.setattr(stock, "pipeline", watched)
    accelerator = accelerator_of(setup)
    for update in (stock.ours_update(setup, accelerator, 3, tmp_path), stock.plain_update(setup, accelerator, 3)):
        update()
    assert seen == [2, 1] * 2
