"""Eight bits a number, with a scale for each vector: tensors in, tensors out."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST = 127
# Bounds of a scale in half precision: below the first it loses digits, above the second it is infinite.
SCALES = (2.0**-14, 65504.0)


def quantize(values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scale of each vector, so that values ≈ codes · scale (absmax quantisation, 2208.07339 section 2.1).

    Args:
        values: (..., n).

    Returns:
        Codes (..., n) in int8, and scales (...) in half precision, s = max |value| / 127 and at least 2⁻¹⁴. No value is
        further than s / 2 from codes · scale, up to values of 8 million, which are cut.
    """
    values = values.float()
    scale = (values.abs().amax(-1) / LARGEST).clamp(*SCALES).half()
    codes = (values / scale.float()[..., None]).round().clamp(-LARGEST, LARGEST)
    return codes.to(torch.int8), scale


def dequantize(codes: Tensor, scale: Tensor) -> Tensor:
    """Codes (..., n) times scale (...), in fp32."""
    return codes.float().mul_(scale.float()[..., None])


def quantize_gram(products: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines in 8 bits and norms of the vectors that a Gram matrix is of, so that g_ij ≈ n_i · n_j · cosine_ij / 127.

    Args:
        products: (..., t, t), positive semidefinite, so symmetric.

    Returns:
        Codes (..., t (t - 1) / 2) in int8, those below the diagonal row after row, and norms (..., t) in half
        precision. No g_ij is further than n_i · n_j / 254 from what they give, and on the diagonal than 2⁻¹⁰ of itself.
    """
    products = products.float()
    norms = products.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt().clamp(*SCALES).half()
    row, column = torch.tril_indices(products.shape[-1], products.shape[-1], -1)
    sizes = norms.float()[..., row] * norms.float()[..., column]
    codes = (products[..., row, column] / sizes * LARGEST).round().clamp(-LARGEST, LARGEST)
    return codes.to(torch.int8), norms


def dequantize_gram(codes: Tensor, norms: Tensor) -> Tensor:
    """The Gram matrices of `square` codes (..., t, t) and norms (..., t), in fp32."""
    norms = norms.float()
    return codes.float().mul_(norms[..., None] / LARGEST).mul_(norms[..., None, :])


def square(codes: Tensor, t: int) -> Tensor:
    """Codes of cosines, (..., t (t - 1) / 2), as the symmetric (..., t, t) with ones (127) on the diagonal."""
    found: Tensor = F.pad(codes, (0, 1), value=LARGEST)[..., _places(t)].unflatten(-1, (t, t))
    return found


@lru_cache(maxsize=256)
def _places(t: int) -> Tensor:
    """Where each entry of a (t, t) matrix stands among the codes below its diagonal; the one after them is for that."""
    found = torch.full((t, t), t * (t - 1) // 2)
    row, column = torch.tril_indices(t, t, -1)
    found[row, column] = found[column, row] = torch.arange(len(row))
    return found.flatten()
