"""Where bfloat16 is fast is asked of PyTorch in a way that every build answers."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from lib.ground import precision
from lib.ground.paths import ROOT

# Each makes PyTorch like another machine's before `lib` is imported.
OTHER_MACHINES = {
    "macOS, no operator": "import torch; torch.ops.mkldnn = type('Names', (), {})()",
    "no oneDNN": "import torch; torch.backends.mkldnn.is_available = lambda: False",
    "no oneDNN, and its operator would crash": (
        "import torch; torch.backends.mkldnn.is_available = lambda: False\n"
        "torch.ops.mkldnn = type('Names', (), {'__getattr__': lambda self, name: 1 / 0})()"
    ),
    "no CPU affinity, as on macOS and Windows": "import os; os.__dict__.pop('sched_getaffinity', None)",
    "no fcntl, as on Windows": "import filelock, sys; sys.modules['fcntl'] = None",
    "no fork": "import os; os.__dict__.pop('fork', None)",
    "number of cores unknown": "import os; os.cpu_count = lambda: None; os.__dict__.pop('sched_getaffinity', None)",
}


@pytest.mark.parametrize("machine", OTHER_MACHINES)
def test_everything_imports_on_other_machines(machine):
    files = [p.relative_to(ROOT / "lib").with_suffix("") for p in (ROOT / "lib").rglob("*.py")]
    names = sorted(".".join(p.parts) for p in files if p.stem not in ("__init__", "environment"))
    script = f"{OTHER_MACHINES[machine]}\n" + "\n".join(f"import lib.{name}" for name in names)
    script += "\nfrom lib.study import ahead\nahead.make(None, [])\nprint(lib.ground.precision.FAST_BFLOAT16)"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=os.environ | {"STUDY_BFLOAT16": ""}, capture_output=True, text=True
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    if "operator" in machine or "oneDNN" in machine:
        assert result.stdout == ("True\n" if torch.cuda.is_available() else "False\n")


def test_a_reader_may_decide():
    assert precision.fast_bfloat16("1") is True and precision.fast_bfloat16("0") is False
    assert precision.fast_bfloat16("") in (True, False)


@pytest.mark.parametrize("text", ["yes", "2", "True", "bfloat16"])
def test_a_reader_who_decides_otherwise_is_told_how(text):
    with pytest.raises(ValueError, match="^STUDY_BFLOAT16=.*: expected 1 .*, 0 .*, or nothing"):
        precision.fast_bfloat16(text)


@pytest.mark.parametrize("fast, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_training_is_in_the_precision_that_is_fast(fast, dtype, monkeypatch):
    monkeypatch.setattr(precision, "FAST_BFLOAT16", fast)
    with precision.autocast():
        assert torch.nn.Linear(2, 2).to(precision.DEVICE)(torch.ones(1, 2, device=precision.DEVICE)).dtype == dtype


@pytest.mark.parametrize("gigabytes, images", [(80, 2048), (16, 2048), (8, 1024), (0.5, 128)])
def test_a_gpu_takes_as_many_images_at_once_as_its_memory_allows(gigabytes, images, monkeypatch):
    memory = SimpleNamespace(total_memory=int(gigabytes * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    for device, expected in (("cuda", images), ("cpu", 128)):
        monkeypatch.setattr(precision, "DEVICE", torch.device(device))
        assert precision.at_once(128) == expected
