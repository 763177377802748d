"""Networks that do not learn, in half precision, seen from outside in float32: what calls them need not know."""

import torch
from accelerate.utils import convert_to_fp32
from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # a setup's `precision`


def halve(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast a network's weights; from now on its floating-point inputs are cast likewise, and its outputs to float32."""

    def cast(x):
        return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

    def before(_, args: tuple, named: dict) -> tuple[tuple, dict]:
        return tuple(map(cast, args)), {k: cast(v) for k, v in named.items()}

    if dtype != torch.float32:
        network.to(dtype).requires_grad_(False)
        network.register_forward_pre_hook(before, with_kwargs=True)
        network.register_forward_hook(lambda _, args, out: convert_to_fp32(out))


def halve_frozen(pipe, dtype: torch.dtype, unet: bool = False) -> None:
    """Halve a pipeline's text encoder and autoencoder and, where it only draws, its `unet`.

    The autoencoder is called through its parts. That of Stable Diffusion v1 bears float16; where one does not, decoding says
    that its pixels are not finite.
    """
    vae = pipe.vae
    parts = [pipe.text_encoder, vae.encoder, vae.decoder, vae.quant_conv, vae.post_quant_conv]
    for part in [*parts, *([pipe.unet] if unet else [])]:
        if part is not None:
            halve(part, dtype)
