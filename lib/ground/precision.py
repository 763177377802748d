"""Where training runs, and bfloat16 where that is fast.

An NVIDIA GPU is used when PyTorch sees one. Apple's (MPS) is left alone: nobody has tried the study there, and networks as
small as these do well on a processor.
"""

import os
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_bfloat16(wanted: str = "") -> bool:
    """Whether this machine computes in bfloat16 natively, unless `wanted` (STUDY_BFLOAT16) decides: 1, 0, or empty.

    It halves the time where the processor has instructions for it, and multiplies it by seven where not. A build of PyTorch
    that cannot say so (macOS has no oneDNN, and lacks the operator) counts as a machine without. Raises ValueError on any
    other `wanted`.
    """
    if wanted not in ("", "0", "1"):
        raise ValueError(f"STUDY_BFLOAT16={wanted!r}: give 1 (bfloat16), 0 (float32), or nothing to leave it to the machine")
    if wanted:
        return wanted == "1"
    if DEVICE.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.backends.mkldnn.is_available():
        return False
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # PyTorch's own, private: may be gone
    return bool(supported and supported())


FAST_BFLOAT16 = fast_bfloat16(os.environ.get("STUDY_BFLOAT16", ""))


def at_once(on_cpu: int) -> int:
    """How many images go through a network together: `on_cpu` of them there; on a GPU 2,048, fewer below 16 GB of memory.

    An H100 draws 470 images a second 64 at a time, 2,604 by 512 and 3,643 by 2,048.
    """
    if DEVICE.type != "cuda":
        return on_cpu
    return max(on_cpu, min(2048, torch.cuda.get_device_properties(DEVICE).total_memory // 2**23))


@contextmanager
def autocast():
    """bfloat16 where that is fast, else float32; for training, not for sampling.

    On a CPU attention is spelt out: the fused kernel's backward pass in bfloat16 takes 55 % of a U-Net's update.
    """
    with ExitStack() as stack:
        on_cpu = DEVICE.type == "cpu"  # elsewhere weights that were cast would not outlive a CUDA graph
        stack.enter_context(torch.autocast(DEVICE.type, torch.bfloat16, enabled=FAST_BFLOAT16, cache_enabled=on_cpu))
        if on_cpu:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
