"""Convolutions by kernels of three rows with half of the products: Winograd's F(4, 3) along rows.

Four outputs of a filter of three taps are parts of a product of polynomials, which takes six
multiplications in place of twelve: the product's values at as many points (Winograd, "Arithmetic
Complexity of Computations", 1980; for convolutional networks Lavin and Gray, CVPR 2016). A tap here
is a row of the kernel, an input a row of the image, and a multiplication a convolution of the two.
Only rows are treated so: F(2x2, 3x3), of both directions, with 16 products in place of 36, was no
faster on a CPU than a plain convolution, since XLA's programs spent the time on sums.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
_TAPS = 3
_OUTPUTS = 4
_POINTS = (0.0, 1.0, -1.0, 0.5, -0.5)  # and infinity


def _coefficients() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """What inputs, taps and products are multiplied with, to be summed.

  At a point, taps are summed to the value of their polynomial, at infinity to its highest
  coefficient. Inputs are summed by the coefficients of the polynomial that is zero at all other
  points, which is Lagrange's interpolation transposed; what that divides by is with the taps. An
  output is the sum of the products by a power of their points.

  Returns:
    Coefficients of inputs `[points, inputs]`, of taps `[points, taps]`, and of products `[outputs,
    points]`.
  """
  others = [[q for q in _POINTS if q != p] for p in _POINTS]
  of_inputs = [np.poly(roots)[::-1] for roots in (*others, _POINTS)]
  of_inputs = [np.append(row, [0] * (len(_POINTS) + 1 - len(row))) for row in of_inputs]
  of_taps = np.vander(_POINTS, _TAPS, increasing=True)
  of_taps /= [[np.prod(np.subtract(p, roots))] for p, roots in zip(_POINTS, others, strict=True)]
  of_products = np.vander(_POINTS, _OUTPUTS, increasing=True).T
  return (
    np.stack(of_inputs),
    np.concatenate([of_taps, np.eye(_TAPS)[-1:]]),
    np.concatenate([of_products, np.eye(_OUTPUTS)[:, -1:]], 1),
  )


_OF_INPUTS, _OF_TAPS, _OF_PRODUCTS = _coefficients()


def conv_three_rows(x: Array, kernel: Array, columns: tuple[int, int]) -> Array:
  """Convolves x with a kernel of three rows, with a row of zeros above and below x.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[3, kx, C, O]`, of x's type.
    columns: of zeros before and after x's.

  Returns:
    `[B, H, w, O]`. In float32 its round-off is two to three times that of the sum of all products.
  """
  # One product of matrices: as sums, the compiler takes twice as long.
  taps = jnp.split(jnp.tensordot(jnp.asarray(_OF_TAPS, x.dtype), kernel, 1), len(_OF_TAPS))
  products = [
    jax.lax.conv_general_dilated(
      rows, tap, (1, 1), ((0, 0), columns), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    for rows, tap in zip(_inputs(x), taps, strict=True)
  ]
  y = jnp.stack(_combine(products, _OF_PRODUCTS), 2)  # [B, groups, outputs, w, O]
  return y.reshape(len(y), -1, *y.shape[3:])[:, : x.shape[1]]


def kernel_gradient_three_rows(
  x: Array, grad: Array, of_one_row: Callable[[Array, Array], Array]
) -> Array:
  """The gradient of `conv_three_rows` with respect to its kernel.

  Args:
    x: its input, `[B, H, W, C]`.
    grad: of its output, `[B, H, w, O]`.
    of_one_row: the gradient `[1, kx, C, O]` of the kernel of a convolution by one row, from the
      convolution's input and the gradient of its output.

  Returns:
    `[3, kx, C, O]`.
  """
  grads = _combine(_groups(grad, 0, 0), _OF_PRODUCTS.T)
  of_taps = [of_one_row(*pair) for pair in zip(_inputs(x), grads, strict=True)]
  return jnp.tensordot(jnp.asarray(_OF_TAPS.T, x.dtype), jnp.concatenate(of_taps), 1)


def _inputs(x: Array) -> list[Array]:
  """What is multiplied with the taps: for each point `[B, groups, W, C]`."""
  return _combine(_groups(x, 1, 1), _OF_INPUTS)


def _groups(x: Array, above: int, below: int) -> list[Array]:
  """For groups of as many rows as there are outputs, their first rows, their second ones and so on.

  Args:
    x: `[B, H, W, C]`; zeros fill the last group.
    above: rows before a group that belong to it too.
    below: rows after a group that belong to it too.

  Returns:
    Arrays `[B, groups, W, C]`.
  """
  batch, height, width, channels = x.shape
  num_groups = -(-height // _OUTPUTS)
  whole = num_groups + (1 if above + below else 0)
  x = jnp.pad(x, ((0, 0), (above, whole * _OUTPUTS - height - above), (0, 0), (0, 0)))
  x = x.reshape(batch, whole, _OUTPUTS, width, channels)
  return [
    x[:, row // _OUTPUTS : row // _OUTPUTS + num_groups, row % _OUTPUTS]
    for row in range(_OUTPUTS + above + below)
  ]


def _combine(arrays: list[Array], coefficients: np.ndarray) -> list[Array]:
  """Sums of arrays, one for each row of coefficients `[sums, arrays]`."""
  return [_sum(arrays, row) for row in coefficients]


def _sum(arrays: list[Array], coefficients: np.ndarray) -> Array:
  terms = zip(arrays, coefficients, strict=True)
  first, *rest = [array if by == 1 else array * float(by) for array, by in terms if by]
  return sum(rest, first)
