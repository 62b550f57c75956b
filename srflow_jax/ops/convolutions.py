"""Convolutions and what they need: initial kernels, nearest-neighbour enlargement."""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array
Initializer = Callable[..., Array]
Padding = tuple[tuple[int, int], tuple[int, int]]

_STRIPE_BYTES = 2**21  # about a core's second-level cache


def normal_init(stddev: float) -> Initializer:
  """Kernels from N(0, stddev²), drawn flat, which on a CPU compiles many times faster."""

  def init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    return stddev * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

  return init


def conv(x: Array, kernel: Array, padding: Padding | None = None) -> Array:
  """Convolves x with kernel, in x's type. Differentiable in reverse mode.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[ky, kx, C, O]`.
    padding: zeros before and after x's rows and columns; None: so many that an odd kernel keeps the
      size.
  """
  if padding is None:
    padding = tuple((side // 2, side // 2) for side in kernel.shape[:2])
  return _conv(x, kernel.astype(x.dtype), padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, kernel: Array, padding: Padding) -> Array:
  return _plain_conv(x, kernel, padding)


def _plain_conv(x: Array, kernel: Array, padding: Padding) -> Array:
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _conv_forward(x: Array, kernel: Array, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
  return _plain_conv(x, kernel, padding), (x, kernel)


def _conv_backward(
  padding: Padding, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
  def plain(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
    return jax.vjp(lambda x, kernel: _plain_conv(x, kernel, padding), x, kernel)[1](grad)

  # XLA's CPU compiler has fast code for convolutions of one layout. It brings others there, but not
  # within a scan, where those that JAX derives are thirty times slower than these.
  def canonical(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
    return input_gradient(kernel, grad, padding), kernel_gradient(x, grad, padding)

  return jax.lax.platform_dependent(*saved, grad, cpu=canonical, default=plain)


_conv.defvjp(_conv_forward, _conv_backward)


def input_gradient(kernel: Array, grad: Array, padding: Padding) -> Array:
  """The gradient of a convolution's input, as a convolution of the output's gradient.

  Args:
    kernel: `[ky, kx, C, O]`.
    grad: of the output, `[B, h, w, O]`.
    padding: of the input.
  """
  turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  pads = zip(kernel.shape[:2], padding, strict=True)
  pads = tuple((side - 1 - before, side - 1 - after) for side, (before, after) in pads)
  return _plain_conv(grad, turned, pads)


def kernel_gradient(
  x: Array, grad: Array, padding: Padding, num_stripes: int | None = None
) -> Array:
  """The gradient of a convolution's kernel: the sum over horizontal stripes of the image.

  Of each it is the stripe convolved with the output's gradient, where the input's channels take the
  batch's place. Of the whole image at once that is up to five times slower on a CPU, if x and grad
  do not fit a core's cache.

  Args:
    x: the convolution's input `[B, H, W, C]`.
    grad: of its output `[B, h, w, O]`.
    padding: of x.
    num_stripes: how many; None: so many that each fits the cache.

  Returns:
    `[ky, kx, C, O]`.
  """
  if num_stripes is None:
    num_bytes = x.size * x.dtype.itemsize + grad.size * grad.dtype.itemsize
    num_stripes = min(max(1, round(num_bytes / _STRIPE_BYTES)), grad.shape[1])
  height = -(-grad.shape[1] // num_stripes)
  below = height * num_stripes - grad.shape[1]
  x = jnp.pad(x, ((0, 0), (padding[0][0], padding[0][1] + below), (0, 0), (0, 0)))
  grad = jnp.pad(grad, ((0, 0), (0, below), (0, 0), (0, 0)))
  beyond = x.shape[1] - grad.shape[1]

  def add(total: Array, top: Array) -> tuple[Array, None]:
    stripe = jax.lax.dynamic_slice_in_dim(x, top, height + beyond, 1).transpose(3, 1, 2, 0)
    by = jax.lax.dynamic_slice_in_dim(grad, top, height, 1).transpose(1, 2, 0, 3)
    return total + _plain_conv(stripe, by, ((0, 0), padding[1])), None

  kernel_width = x.shape[2] + sum(padding[1]) - grad.shape[2] + 1
  total = jnp.zeros((x.shape[3], beyond + 1, kernel_width, grad.shape[3]), grad.dtype)
  total, _ = jax.lax.scan(add, total, height * jnp.arange(num_stripes), unroll=2)
  return total.transpose(1, 2, 0, 3)  # from [C, ky, kx, O]


class Conv(nn.Module):
  """A convolution layer that keeps its input's size and computes in its input's type.

  Attributes:
    features: channels of the output.
    kernel_init: of the kernel `[size, size, C, features]`.
    size: of the kernel, odd.
    use_bias: adds one number a channel, 0 at first.
  """

  features: int
  kernel_init: Initializer
  size: int = 3
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps `[B, H, W, C]` to `[B, H, W, features]`."""
    shape = (self.size, self.size, x.shape[-1], self.features)
    y = conv(x, self.param("kernel", self.kernel_init, shape))
    if self.use_bias:
      y += self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(y.dtype)
    return y


@jax.custom_vjp
def relu(x: Array) -> Array:
  """`max(x, 0)`. Its gradient needs the result alone, which a convolution after it keeps anyway."""
  return jnp.maximum(x, 0)


def _relu_forward(x: Array) -> tuple[Array, Array]:
  y = jnp.maximum(x, 0)
  return y, y


relu.defvjp(_relu_forward, lambda y, grad: (jnp.where(y > 0, grad, 0),))


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
  factor of 2, 4 products where there were 9. Equal phases are computed once.

  Args:
    x: `[B, h, w, C]`.
    kernel: `[3, 3, C, O]`.
    factor: the enlargement.

  Returns:
    `[B, h*factor, w*factor, O]`, equal up to round-off.
  """
  if factor == 1:
    return conv(x, kernel)
  rows = []
  for row, pad_y in _phases(kernel, factor, axis=0):
    columns = [conv(x, part, (pad_y, pad_x)) for part, pad_x in _phases(row, factor, axis=1)]
    rows.append(jnp.stack(_all_phases(columns, factor), 3))  # [B, h, w, factor, O]
  b, h, w, _ = x.shape
  y = jnp.stack(_all_phases(rows, factor), 2)
  return y.reshape(b, h * factor, w * factor, kernel.shape[-1])


def _phases(kernel: Array, factor: int, axis: int) -> list[tuple[Array, tuple[int, int]]]:
  """For each different output phase along an axis, the summed kernel and the padding x needs."""
  before, at, after = jnp.split(kernel, 3, axis)
  first = (jnp.concatenate([before, at + after], axis), (1, 0))
  between = (before + at + after, (0, 0))
  last = (jnp.concatenate([before + at, after], axis), (0, 1))
  return [first, last] if factor == 2 else [first, between, last]


def _all_phases(different: list[Array], factor: int) -> list[Array]:
  """Those between the first and the last are equal."""
  first, *between, last = different
  return [first, *between * (factor - 2), last]
