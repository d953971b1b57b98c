"""Laws of 8-bit numbers: no further than half a step from what they stand for, whatever the size of a vector."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.maths.quantization import SCALES, dequantize, dequantize_gram, quantize, quantize_gram, square

many = settings(max_examples=50, deadline=None)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@many
@given(st.integers(0, 10**6), st.floats(-12, 4))
def test_no_number_is_further_than_half_a_step_from_what_is_read(seed, power):
    values = draw(3, 5, 24, seed=seed) * 10**power
    values[0, 0, 0] *= 50  # an outlier costs its own vector and no other
    codes, scale = quantize(values)
    assert codes.dtype == torch.int8
    assert scale.dtype == torch.float16
    step = torch.maximum(values.abs().amax(-1) / 127 * (1 + 2**-10), torch.tensor(SCALES[0]))
    assert ((dequantize(codes, scale) - values).abs() <= step[..., None] / 2 * (1 + 1e-5)).all()


@many
@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(-2, 3))
def test_products_are_read_within_half_a_step_of_their_vectors_norms(seed, t, power):
    vectors = draw(2, 3, t, 8, seed=seed) * 10**power * draw(2, 3, t, 1, seed=seed + 1)
    products = vectors @ vectors.mT
    codes, norms = quantize_gram(products)
    assert codes.shape == (2, 3, t * (t - 1) // 2)
    found = dequantize_gram(square(codes, t), norms)
    sizes = norms.float()[..., None] * norms.float()[..., None, :]
    near = sizes / 254 * (1 + 1e-3) + sizes.diagonal(dim1=-2, dim2=-1).diag_embed() * 2**-9
    assert ((found - products).abs() <= near + 1e-7).all()
    torch.testing.assert_close(found, found.mT, rtol=1e-6, atol=0)


def test_nothing_is_nothing():
    zeros = torch.zeros(2, 4, 4)
    assert dequantize(*quantize(zeros)).equal(zeros)
    codes, norms = quantize_gram(zeros)
    assert dequantize_gram(square(codes, 4), norms).abs().max() < 1e-7


@pytest.mark.parametrize("value", [1e30, -1e30])
def test_what_is_too_large_is_the_largest_there_is(value):
    codes, scale = quantize(torch.tensor([[1.0, value]]))
    assert dequantize(codes, scale).isfinite().all()
    assert codes[0, 1].sign() == torch.tensor(value).sign()
