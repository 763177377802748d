"""A measured step does what the arithmetic says."""

import json

import pytest

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
