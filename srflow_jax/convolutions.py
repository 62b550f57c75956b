"""Convolutions and what they need: initial kernels, nearest-neighbour enlargement."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array
Initializer = Callable[..., Array]


def normal_init(stddev: float) -> Initializer:
  """Kernels from N(0, stddev²), drawn flat, which on a CPU compiles many times faster."""

  def init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    return stddev * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

  return init


def conv(x: Array, kernel: Array, padding: str | tuple = "SAME") -> Array:
  """Convolves x `[B, H, W, C]` with kernel `[ky, kx, C, O]`, by default zero-padded to its size."""
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def upsample_nearest(x: Array, factor: int) -> Array:
  """Enlarges `[B, h, w, C]` to `[B, h*factor, w*factor, C]` by repeating pixels."""
  if factor == 1:
    return x
  b, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, factor, w, factor, c))
  return x.reshape(b, h * factor, w * factor, c)


def conv_upsampled(x: Array, kernel: Array, factor: int) -> Array:
  """`conv(upsample_nearest(x, factor), kernel)` for a 3x3 kernel, without enlarging x.

  In an enlarged image, the three taps of a row of the kernel fall on at most two pixels of x: an
  output on a pixel's first copy sees the pixel before it through the first entry and its own
  through the other two, one on its last copy likewise the pixel after, one in between only its own.
  So every output phase is a convolution of x with at most 2x2 sums of the kernel's entries: for a
  factor of 2, 4 products where there were 9.

  Args:
    x: `[B, h, w, C]`.
    kernel: `[3, 3, C, O]`.
    factor: the enlargement.

  Returns:
    `[B, h*factor, w*factor, O]`, equal up to round-off.
  """
  if factor == 1:
    return conv(x, kernel)
  rows = [
    jnp.stack([conv(x, part, (pad_y, pad_x)) for part, pad_x in _phases(row, factor, axis=1)], 3)
    for row, pad_y in _phases(kernel, factor, axis=0)
  ]  # each [B, h, w, factor, O]
  b, h, w, _ = x.shape
  return jnp.stack(rows, 2).reshape(b, h * factor, w * factor, kernel.shape[-1])


def _phases(kernel: Array, factor: int, axis: int) -> list[tuple[Array, tuple[int, int]]]:
  """For each output phase along an axis, the summed kernel and the padding that x needs."""
  before, at, after = jnp.split(kernel, 3, axis)
  first = (jnp.concatenate([before, at + after], axis), (1, 0))
  between = (before + at + after, (0, 0))
  last = (jnp.concatenate([before + at, after], axis), (0, 1))
  return [first, *[between] * (factor - 2), last]
