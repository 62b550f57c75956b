"""Convolutions and what they need: initial kernels, nearest-neighbour enlargement."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from srflow_jax.ops.cpu_convolutions import Padding, conv_with_gradients

Array = jax.Array
AnyArray = jax.Array | np.ndarray  # outside of `jit`, NumPy's serve as well
Initializer = Callable[..., Array]


def normal_init(stddev: float) -> Initializer:
  """Kernels from N(0, stddev²), drawn flat, which on a CPU compiles many times faster."""

  def init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    return stddev * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

  return init


def conv(
  x: Float[AnyArray, "B H W C"],
  kernel: Float[AnyArray, "ky kx C O"],
  padding: Padding | None = None,
) -> Float[Array, "B h w O"]:
  """Convolves x with kernel, in x's type. Differentiable in reverse mode.

  Args:
    x: images.
    kernel: the kernel, of any floating type.
    padding: zeros before and after x's rows and columns. By default there are so many of them that
      a kernel of odd size leaves x's size as it is.
  """
  if padding is None:
    rows, columns = (side // 2 for side in kernel.shape[:2])
    padding = ((rows, rows), (columns, columns))
  return conv_with_gradients(x, jnp.asarray(kernel), padding)


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
  def weights(self, channels: int) -> tuple[Array, Array | float]:
    """The kernel `[size, size, channels, features]` and the bias `[features]`, 0 without one."""
    kernel = self.param("kernel", self.kernel_init, (self.size, self.size, channels, self.features))
    if not self.use_bias:
      return kernel, 0.0
    return kernel, self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)

  def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W {self.features}"]:
    """Applies the layer."""
    kernel, bias = self.weights(x.shape[-1])
    y = conv(x, kernel)
    return y + jnp.asarray(bias, y.dtype) if self.use_bias else y


@jax.custom_vjp
def relu(x: Array) -> Array:
  """`max(x, 0)`. Its gradient needs the result alone, which a convolution after it keeps anyway."""
  return jnp.maximum(x, 0)


def _relu_forward(x: Array) -> tuple[Array, Array]:
  y = jnp.maximum(x, 0)
  return y, y


relu.defvjp(_relu_forward, lambda y, grad: (jnp.where(y > 0, grad, 0),))


@jax.custom_vjp
def leaky_relu(x: Array) -> Array:
  """ESRGAN's activation, slope 0.2. As `relu`'s, its gradient needs the result alone."""
  return nn.leaky_relu(x, 0.2)


def _leaky_relu_forward(x: Array) -> tuple[Array, Array]:
  y = leaky_relu(x)
  return y, y


leaky_relu.defvjp(_leaky_relu_forward, lambda y, grad: (jnp.where(y >= 0, grad, 0.2 * grad),))


def upsample_nearest(
  x: Float[Array, "B h w C"], factor: int
) -> Float[Array, "B h*{factor} w*{factor} C"]:
  """Enlarges by repeating pixels."""
  if factor == 1:
    return x
  b, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, factor, w, factor, c))
  return x.reshape(b, h * factor, w * factor, c)


def conv_upsampled(
  x: Float[Array, "B h w C"], kernel: Float[AnyArray, "3 3 C O"], factor: int
) -> Float[Array, "B h*{factor} w*{factor} O"]:
  """`conv(upsample_nearest(x, factor), kernel)` for a 3x3 kernel, without enlarging x.

  In an enlarged image, the three taps of a row of the kernel fall on at most two pixels of x: an
  output on a pixel's first copy sees the pixel before it through the first entry and its own
  through the other two, one on its last copy likewise the pixel after, one in between only its own.
  So every output phase is a convolution of x with at most 2x2 sums of the kernel's entries: for a
  factor of 2, 4 products where there were 9. Equal phases are computed once.

  Args:
    x: images.
    kernel: of 3x3 pixels.
    factor: the enlargement.

  Returns:
    The same up to round-off.
  """
  if factor == 1:
    return conv(x, kernel)
  rows = []
  for row, pad_y in _phases(jnp.asarray(kernel), factor, axis=0):
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
