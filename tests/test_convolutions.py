"""Convolutions: the short way around an enlargement equals the long one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srflow_jax.model.residual_encoders import DenseBlock
from srflow_jax.ops.convolutions import (
  conv,
  conv_upsampled,
  normal_init,
  upsample_nearest,
)
from srflow_jax.ops.costs import count_flops
from srflow_jax.ops.cpu_convolutions import kernel_gradient

PADDINGS = [((1, 1), (1, 1)), ((1, 0), (0, 1)), ((0, 0), (0, 0))]


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_convolving_an_enlarged_image_without_enlarging_it(factor):
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 3, 5, 4)))
    kernel = jnp.asarray(rng.standard_normal((3, 3, 4, 6)))
    plain = conv(upsample_nearest(x, factor), kernel)
    np.testing.assert_allclose(conv_upsampled(x, kernel, factor), plain, atol=1e-12)


def library_conv(x, kernel, padding):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(3, 3), (2, 2), (1, 1)])
@pytest.mark.parametrize("channels", [(4, 6), (6, 4)])
def test_gradients_are_the_library_s(channels, size, padding):
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 7, 5, channels[0])))
    kernel = jnp.asarray(rng.standard_normal((*size, *channels)))
    y, plain = jax.vjp(lambda *args: library_conv(*args, padding), x, kernel)
    grad = jnp.asarray(rng.standard_normal(y.shape))
    np.testing.assert_array_equal(conv(x, kernel, padding), y)
    gradients = jax.vjp(lambda *args: conv(*args, padding), x, kernel)[1](grad)
    for ours, theirs in zip(gradients, plain(grad), strict=True):
      np.testing.assert_allclose(ours, theirs, atol=1e-12)
    for num_stripes in (2, 3, y.shape[1]):
      ours = kernel_gradient(x, grad, padding, num_stripes)
      np.testing.assert_allclose(ours, plain(grad)[1], atol=1e-12)


def test_a_large_image_takes_stripes_within_the_step():
  """Round-off aside, what a CPU sums over stripes is the gradient of the whole."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((1, 150, 70, 64), np.float32))
  kernel = jnp.ones((3, 3, 64, 24))
  with jax.enable_x64(True):
    exact = jax.grad(lambda k: jnp.sum(library_conv(x.astype(float), k, PADDINGS[0]) ** 2))(
      kernel.astype(float)
    )
  ours = kernel_gradient(x, 2 * library_conv(x, kernel, PADDINGS[0]), PADDINGS[0])
  np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max())


@pytest.mark.parametrize("height", range(1, 10))  # the last group of four rows is full, or is not
@pytest.mark.parametrize("columns", [1, 3])
def test_half_of_the_products_give_the_same(height, columns, always_winograd):
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, height, 5, 4)))
    kernel = jnp.asarray(rng.standard_normal((3, columns, 4, 6)))
    padding = ((1, 1), (columns // 2,) * 2)
    y, plain = jax.vjp(lambda *args: library_conv(*args, padding), x, kernel)
    ours, gradients = jax.vjp(conv, x, kernel)
    np.testing.assert_allclose(ours, y, atol=1e-12)
    grad = jnp.asarray(rng.standard_normal(y.shape))
    for gradient, theirs in zip(gradients(grad), plain(grad), strict=True):
      np.testing.assert_allclose(gradient, theirs, atol=1e-12)


def test_half_of_the_products_have_three_times_the_round_off(always_winograd):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((1, 16, 16, 64))
  kernel = rng.standard_normal((3, 3, 64, 64))
  with jax.enable_x64(True):
    exact = np.asarray(library_conv(jnp.asarray(x), jnp.asarray(kernel), PADDINGS[0]))
  x, kernel = x.astype(np.float32), kernel.astype(np.float32)
  plain = np.std(np.asarray(library_conv(x, kernel, PADDINGS[0])) - exact)
  assert plain < np.std(np.asarray(conv(x, kernel)) - exact) < 3 * plain


@pytest.mark.parametrize(
  ("platform", "width", "dtype", "number"),
  [
    ("cpu", 128, np.float32, 6),
    ("cpu", 64, np.float32, 1),
    ("cpu", 128, jnp.bfloat16, 1),
    ("cuda", 128, np.float32, 1),
  ],
)
def test_large_convolutions_of_a_cpu_take_half_of_the_products(platform, width, dtype, number):
  x = jax.ShapeDtypeStruct((1, 64, 64, width), dtype)
  kernel = jax.ShapeDtypeStruct((3, 3, width, width), dtype)
  traced = jax.jit(conv).trace(x, kernel)
  lowered = traced.lower(lowering_platforms=(platform,)).as_text()
  assert lowered.count("stablehlo.convolution") == number
  assert count_flops(traced.jaxpr) == 2 * 9 * 64 * 64 * width**2


def test_nearest_neighbour():
  x = np.arange(12.0).reshape(1, 2, 3, 2)
  np.testing.assert_array_equal(upsample_nearest(jnp.asarray(x), 2), x.repeat(2, 1).repeat(2, 2))


def test_initial_kernels_have_their_spread():
  kernel = normal_init(0.05)(jax.random.key(0), (3, 3, 64, 64))
  np.testing.assert_allclose(np.std(kernel), 0.05, rtol=0.02)
  np.testing.assert_allclose(np.mean(kernel), 0, atol=0.001)


def test_a_dense_block_is_five_convolutions_of_all_maps_so_far():
  with jax.enable_x64(True):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 5, 8)))
    block = DenseBlock(8, 4)
    variables = block.init(jax.random.key(0), method="weights")
    variables = jax.tree.map(lambda leaf: leaf.astype(float) + 0.1, variables)
    layers = [variables["params"][f"convs_{i}"] for i in range(5)]
    maps = x
    for layer in layers:
      new = conv(maps, layer["kernel"]) + layer["bias"]
      maps = jnp.concatenate([maps, jnp.where(new > 0, new, 0.2 * new)], -1)
    weights = block.apply(variables, method="weights")
    np.testing.assert_allclose(block.apply(variables, x, weights), x + 0.2 * new, rtol=1e-12)
