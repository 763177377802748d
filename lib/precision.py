"""Where training runs, and bfloat16 where that is fast."""

from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# bfloat16 halves the time where the processor has instructions for it, and multiplies it by seven where not.
FAST_BFLOAT16 = DEVICE.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def autocast():
    """bfloat16 where that is fast, else float32; for training, not for sampling.

    On a CPU attention is spelt out: the fused kernel's backward pass in bfloat16 takes 55 % of a U-Net's update.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(DEVICE.type, torch.bfloat16, enabled=FAST_BFLOAT16))
        if DEVICE.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
