"""Gradients of convolutions that are fast on CPUs; on other devices JAX's own are used.

They exist for one reason. XLA's CPU compiler has fast code for convolutions of one layout of their
arrays. It brings convolutions of other layouts into that one, but not within a scan, and this
package runs equal layers as scans (`ops.repeated`). There the gradients that JAX derives, which
have other layouts, are thirty times slower than these, which are convolutions of the fast layout.
"""

import functools

import jax
import jax.numpy as jnp

Array = jax.Array
Padding = tuple[tuple[int, int], tuple[int, int]]

_STRIPE_BYTES = 2**21  # about a core's second-level cache


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_with_gradients(x: Array, kernel: Array, padding: Padding) -> Array:
  """Convolves x with kernel; differentiable in reverse mode.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[ky, kx, C, O]`, of x's type.
    padding: zeros before and after x's rows and columns.
  """
  return _xla_conv(x, kernel, padding)


def _xla_conv(x: Array, kernel: Array, padding: Padding) -> Array:
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _conv_forward(x: Array, kernel: Array, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
  return _xla_conv(x, kernel, padding), (x, kernel)


def _conv_backward(
  padding: Padding, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
  def of_jax(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
    return jax.vjp(lambda x, kernel: _xla_conv(x, kernel, padding), x, kernel)[1](grad)

  def of_ours(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
    return input_gradient(kernel, grad, padding), kernel_gradient(x, grad, padding)

  return jax.lax.platform_dependent(*saved, grad, cpu=of_ours, default=of_jax)


conv_with_gradients.defvjp(_conv_forward, _conv_backward)


def input_gradient(kernel: Array, grad: Array, padding: Padding) -> Array:
  """The gradient of a convolution's input, as a convolution of the output's gradient.

  Args:
    kernel: `[ky, kx, C, O]`.
    grad: of the output, `[B, h, w, O]`.
    padding: of the input.
  """
  turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  (height, width), ((top, bottom), (left, right)) = kernel.shape[:2], padding
  pads = (height - 1 - top, height - 1 - bottom), (width - 1 - left, width - 1 - right)
  return _xla_conv(grad, turned, pads)


def kernel_gradient(
  x: Array, grad: Array, padding: Padding, num_stripes: int | None = None
) -> Array:
  """The gradient of a convolution's kernel, as a sum over horizontal stripes of the image.

  Each stripe gives its convolution with the gradient of the output there, in which the input's
  channels take the batch's place. If x and grad do not fit a core's cache, computing the whole
  image at once is up to five times slower on a CPU.

  Args:
    x: the convolution's input `[B, H, W, C]`.
    grad: of its output `[B, h, w, O]`.
    padding: of x.
    num_stripes: how many stripes there are; by default as many as let each fit the cache.

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
    return total + _xla_conv(stripe, by, ((0, 0), padding[1])), None

  kernel_width = x.shape[2] + sum(padding[1]) - grad.shape[2] + 1
  total = jnp.zeros((x.shape[3], beyond + 1, kernel_width, grad.shape[3]), grad.dtype)
  total, _ = jax.lax.scan(add, total, height * jnp.arange(num_stripes), unroll=2)
  return total.transpose(1, 2, 0, 3)  # from [C, ky, kx, O]
