"""Images as bytes: lossless PNG with the digest of its pixels, and whatever image a campaign brings, as RGB pixels."""

import io
import warnings

import numpy as np
from PIL import Image

from lib.images.sampling import image_digest

LARGEST = 4096  # pixels a side


def png_of(digest: str, pixels: np.ndarray) -> bytes:
    """PNG of an image, uint8 [height, width, 3]; raises ValueError unless `digest` is the SHA-256 of these pixels."""
    pixels = np.asarray(pixels)
    shape = pixels.shape
    if pixels.dtype != np.uint8 or shape[2:] != (3,) or not 0 < min(shape) <= max(shape) <= LARGEST:
        wanted = f"uint8 [height, width, 3], at most {LARGEST} pixels a side"
        raise ValueError(f"an image is {wanted}, got {pixels.dtype} {list(shape)}")
    if (found := image_digest(pixels)) != digest:
        raise ValueError(f"the image of digest {digest!r} has other pixels: want {found!r}")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=9)
    return file.getvalue()


def pixels_of(digest: str, png: bytes) -> np.ndarray:
    """Pixels of an archived image, uint8 [height, width, 3]; raises ValueError if they are not those of the digest."""
    pixels = decoded(png, f"image {digest[:12]}")
    if image_digest(pixels) != digest:
        raise ValueError(f"image {digest[:12]} is damaged: its pixels have another digest")
    return pixels


def decoded(content: bytes, what: str) -> np.ndarray:
    """Pixels of a PNG, JPEG or WebP file's content, uint8 [height, width, 3]; raises ValueError that begins with `what`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a decompression bomb
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as image:
                if max(image.size) > LARGEST:
                    raise ValueError(f"{image.size[0]} x {image.size[1]} pixels")
                return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError) as error:
        raise ValueError(f"{what} cannot be read as an image: want PNG, JPEG or WebP, at most {LARGEST} a side") from error
