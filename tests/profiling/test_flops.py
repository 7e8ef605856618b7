"""Counted operations, against the numbers of rows, columns and steps."""

import jax
import jax.numpy as jnp
import pytest

from dreamer_jax.profiling.flops import count_flops


def _shape(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_a_product():
    assert count_flops(jnp.matmul, _shape(3, 5), _shape(5, 7)) == 2 * 3 * 5 * 7
    assert count_flops(jnp.matmul, _shape(4, 3, 5), _shape(4, 5, 7)) == 4 * 2 * 3 * 5 * 7


def test_a_loop_counts_as_often_as_it_runs():
    def roll(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=11)[0]

    assert count_flops(jax.jit(roll), _shape(3, 5), _shape(5, 5)) == 11 * 2 * 3 * 5 * 5


def test_a_gradient_costs_two_more_products():
    """Of y = x w: dw = x^T dy and dx = dy w^T, each as large as the product itself."""
    both = jax.grad(lambda x, w: jnp.square(x @ w).sum(), argnums=(0, 1))
    assert count_flops(both, _shape(3, 5), _shape(5, 7)) == 3 * 2 * 3 * 5 * 7


@pytest.mark.parametrize(("channels", "filters"), [(3, 8), (8, 2)])
def test_a_convolution(channels, filters):
    """Stride 1 and SAME padding: every one of 16 x 12 outputs sees 5 x 5 x channels inputs."""

    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    once = 2 * 2 * 16 * 12 * filters * 5 * 5 * channels
    assert count_flops(convolve, _shape(2, 16, 12, channels), _shape(5, 5, channels, filters)) == once


def test_the_dearest_branch_counts():
    def choose(flag, x):
        return jax.lax.cond(flag, lambda x: x @ x, lambda x: x @ x @ x, x)

    assert count_flops(choose, True, _shape(4, 4)) == 2 * 2 * 4**3
