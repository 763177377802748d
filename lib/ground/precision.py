"""The device, and bfloat16 where that is fast.

An NVIDIA GPU is used when PyTorch finds one. Apple's (MPS) is not used: the study is untested there, and networks as small
as these run well on a CPU.
"""

import os
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_bfloat16(wanted: str = "") -> bool:
    """Whether to use bfloat16: as `wanted` (STUDY_BFLOAT16) says, 1 or 0; if empty, where the machine supports it natively.

    bfloat16 halves the time where the processor has instructions for it; elsewhere it takes seven times as long. A build of
    PyTorch that cannot tell (macOS has no oneDNN, and lacks the operator) counts as no support. Raises ValueError on any
    other `wanted`.
    """
    if wanted not in ("", "0", "1"):
        raise ValueError(f"STUDY_BFLOAT16={wanted!r}: expected 1 (bfloat16), 0 (float32), or nothing for the default")
    if wanted:
        return wanted == "1"
    if DEVICE.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.backends.mkldnn.is_available():
        return False
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # private to PyTorch: may disappear
    return bool(supported and supported())


FAST_BFLOAT16 = fast_bfloat16(os.environ.get("STUDY_BFLOAT16", ""))


def at_once(on_cpu: int) -> int:
    """How many images go through a network at once: `on_cpu` on a CPU; on a GPU 2,048, fewer below 16 GB of memory.

    An H100 draws 470 images per second in batches of 64, 2,604 in batches of 512 and 3,643 in batches of 2,048.
    """
    if DEVICE.type != "cuda":
        return on_cpu
    return max(on_cpu, min(2048, torch.cuda.get_device_properties(DEVICE).total_memory // 2**23))


@contextmanager
def drawing(full: bool = False):
    """bfloat16 on a CPU where that is fast, else, or if `full`, float32; for drawing images, which takes half to two thirds
    of the time in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16, enabled=FAST_BFLOAT16 and DEVICE.type == "cpu" and not full):
        yield


@contextmanager
def autocast():
    """bfloat16 where that is fast, else float32; for training.

    On a CPU attention is not fused: the fused kernel's backward pass in bfloat16 takes 55 % of a U-Net's update.
    """
    with ExitStack() as stack:
        on_cpu = DEVICE.type == "cpu"  # on a GPU, cached casts of the weights would not survive a CUDA graph
        stack.enter_context(torch.autocast(DEVICE.type, torch.bfloat16, enabled=FAST_BFLOAT16, cache_enabled=on_cpu))
        if on_cpu:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
