"""Convolutions and their gradients that are fast on CPUs; other devices have XLA's and JAX's.

Large convolutions by kernels of three rows are computed with half of the products (`ops.winograd`).

Gradients are of another form than JAX derives, for one reason. XLA's CPU compiler has fast code for
convolutions of one layout of their arrays. It brings convolutions of other layouts into that one,
but not within a scan, and this package runs equal layers as scans (`ops.repeated`). There the
gradients that JAX derives, which have other layouts, are some fifteen times slower than these: a
convolution of the fast layout for the input, products of matrices for the kernel.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from srflow_jax.ops import winograd

Array = jax.Array
Padding = tuple[tuple[int, int], tuple[int, int]]

# Multiply-adds from which on a convolution takes half of the products. Smaller ones gain too, but
# each that does takes two cores 0.13 s more to compile; with this number the first ten samples of a
# size take about as long as without (docs/speed.md).
WINOGRAD_PRODUCTS = 250_000_000
# And from which on for a pixel, as of 3x3 kernels from 64 to 64 channels: a model of 16 to 48
# channels took longer to compile and was no faster.
WINOGRAD_PRODUCTS_OF_PIXEL = 9 * 64 * 64
_STRIPE_BYTES = 1.5e6  # of patches at a time: a fifth to ten times as many bytes were slower


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_with_gradients(x: Array, kernel: Array, padding: Padding) -> Array:
  """Convolves x with kernel, in x's type; differentiable in reverse mode.

  The backward pass keeps the kernel as it is given. If that is a parameter of a layer in a scan,
  the scan then stacks no copy of it in x's type.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[ky, kx, C, O]`.
    padding: zeros before and after x's rows and columns.
  """
  kernel = kernel.astype(x.dtype)
  if not _by_winograd(x, kernel.shape, padding):
    return _xla_conv(x, kernel, padding)
  return jax.lax.platform_dependent(
    x,
    kernel,
    cpu=functools.partial(winograd.conv_three_rows, columns=padding[1]),
    default=functools.partial(_xla_conv, padding=padding),
  )


def _by_winograd(x: Array, kernel_shape: Sequence[int], padding: Padding) -> bool:
  """Whether a CPU convolves x with half of the products."""
  of_pixel = math.prod(kernel_shape)
  known = kernel_shape[0] == 3 and padding[0] == (1, 1) and x.dtype != jnp.bfloat16
  large = of_pixel * x[..., 0].size >= WINOGRAD_PRODUCTS
  return known and large and of_pixel >= WINOGRAD_PRODUCTS_OF_PIXEL


def _xla_conv(x: Array, kernel: Array, padding: Padding) -> Array:
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _conv_forward(x: Array, kernel: Array, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
  return conv_with_gradients(x, kernel, padding), (x, kernel)


def _conv_backward(
  padding: Padding, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
  def of_jax(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
    of_x = jax.linear_transpose(lambda x: _xla_conv(x, kernel, padding), x)
    of_kernel = jax.linear_transpose(lambda kernel: _xla_conv(x, kernel, padding), kernel)
    return *of_x(grad), *of_kernel(grad)

  def of_ours(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
    if _by_winograd(x, kernel.shape, padding):
      of_row = functools.partial(kernel_gradient, padding=((0, 0), padding[1]))
      of_kernel = winograd.kernel_gradient_three_rows(x, grad, of_row)
    else:
      of_kernel = kernel_gradient(x, grad, padding)
    return input_gradient(kernel, grad, padding), of_kernel

  x, kernel = saved
  of_x, of_kernel = jax.lax.platform_dependent(
    x, kernel.astype(x.dtype), grad, cpu=of_ours, default=of_jax
  )
  return of_x, of_kernel.astype(kernel.dtype)


conv_with_gradients.defvjp(_conv_forward, _conv_backward)


def input_gradient(kernel: Array, grad: Array, padding: Padding) -> Array:
  """The gradient of a convolution's input, as a convolution of the output's gradient.

  Args:
    kernel: `[ky, kx, C, O]`.
    grad: of the output, `[B, h, w, O]`.
    padding: of the input.
  """
  turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  return conv_with_gradients(grad, turned, _pads_of_gradient(kernel.shape[:2], padding))


def _pads_of_gradient(kernel_size: Sequence[int], padding: Padding) -> Padding:
  """The zeros around the output's gradient, so that every output that saw a pixel is there."""
  pads = [
    (size - 1 - before, size - 1 - after)
    for size, (before, after) in zip(kernel_size, padding, strict=True)
  ]
  return pads[0], pads[1]


def kernel_gradient(
  x: Array, grad: Array, padding: Padding, num_stripes: int | None = None
) -> Array:
  """The gradient of a convolution's kernel, as products of matrices over stripes of the image.

  It is a sum over pixels: of the products of what the kernel saw there with the output's gradient,
  or of a pixel of the input with the gradients of the outputs that saw it. What is multiplied with
  a pixel of the one array is a patch of the other; patches are made of the one with fewer channels,
  for as many rows at a time as let them fit a core's cache.

  Args:
    x: the convolution's input `[B, H, W, C]`.
    grad: of its output `[B, h, w, O]`.
    padding: of x.
    num_stripes: how many stripes there are; by default as many as let each fit the cache.

  Returns:
    `[ky, kx, C, O]`.
  """
  height, width = (x.shape[axis] + sum(padding[axis - 1]) - grad.shape[axis] + 1 for axis in (1, 2))
  offsets = [(row, column) for row in range(height) for column in range(width)]
  of_input = x.shape[-1] < grad.shape[-1]  # are the patches
  if of_input:
    seen, pixels, pads = x, grad, padding
  else:
    seen, pixels, pads = grad, x, _pads_of_gradient((height, width), padding)
    offsets.reverse()
  _, num_rows, num_columns, num_channels = pixels.shape
  if num_stripes is None:
    num_bytes = seen.shape[-1] * len(offsets) * pixels[..., 0].size * seen.dtype.itemsize
    num_stripes = min(max(1, round(num_bytes / _STRIPE_BYTES)), num_rows)
  rows = -(-num_rows // num_stripes)
  below = rows * num_stripes - num_rows
  seen = _pad(seen, ((pads[0][0], pads[0][1] + below), pads[1]))
  pixels = _pad(pixels, ((0, below), (0, 0)))

  def add(total: Array, top: Array) -> tuple[Array, None]:
    stripe = jax.lax.dynamic_slice_in_dim(seen, top, rows + height - 1, 1)
    patches = [stripe[:, y : y + rows, x : x + num_columns] for y, x in offsets]
    by = jax.lax.dynamic_slice_in_dim(pixels, top, rows, 1)
    # The sum over images, rows and columns is one product of matrices.
    return total + jnp.tensordot(by, jnp.concatenate(patches, -1), ((0, 1, 2), (0, 1, 2))), None

  total = jnp.zeros((num_channels, len(offsets) * seen.shape[-1]), grad.dtype)
  total, _ = jax.lax.scan(add, total, rows * jnp.arange(num_stripes))
  total = total.reshape(num_channels, height, width, -1)
  return total.transpose(1, 2, 3, 0) if of_input else total.transpose(1, 2, 0, 3)


def _pad(x: Array, pads: Padding) -> Array:
  """Puts zeros around images, or cuts off as many rows and columns as a number is below zero."""
  rows, columns = ((before, after, 0) for before, after in pads)
  return jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), rows, columns, (0, 0, 0)))
