"""MATLAB's bicubic `imresize`, exactly, on the host and on the device.

The kernel is Keys' cubic with a = -0.5 (R. Keys, "Cubic convolution interpolation for digital image
processing", 1981). An image that shrinks by n gets the kernel n times wider, which removes what the
small image cannot hold. Pixels beyond a border mirror those within (`c b a | a b c`), the weights
of an output pixel sum to one, and the output has `ceil(factor * size)` pixels.

Factors are whole numbers n and their inverses 1/n, so every weight is a multiple of `1 / (16 n^4)`
(shrinking) or `1 / (16 n^3)`. For uint8 images both sides compute in such integers: the sums are
exact, and so is the rounding after each of the two passes, vertical first.

Where a sum lies half-way between two integers, two roundings are in use:

* `"half_away"`, away from zero, is MATLAB's own conversion to uint8 (MATLAB's documentation of
  `uint8`). The LR images that papers on Set5 and Set14 share are reproduced by it bit for bit.
* `"half_even"`, to the even neighbour, is NumPy's. The NTIRE 2021 challenge on learning the
  super-resolution space measures LR-PSNR by a port of `imresize` to NumPy, which rounds so.
"""

import fractions
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Float64, Shaped

Rounding = Literal["half_away", "half_even"]
MATLAB_ROUNDING: Rounding = "half_away"
NUMPY_ROUNDING: Rounding = "half_even"

_MAX_WHOLE = 16  # beyond it, the sums of integer weights times 255 leave int32


def resize_weights(in_size: int, factor: float) -> Float64[np.ndarray, "out_size {in_size}"]:
  """The matrix that resizes one axis.

  Args:
    in_size: Pixels of the input along the axis.
    factor: A whole number n up to 16, or 1/n.

  Returns:
    `ceil(factor * in_size)` rows, each of which sums to one.
  """
  return resize_matrix(in_size, factor).toarray()


def resize_matrix(in_size: int, factor: float) -> scipy.sparse.csr_array:
  """As `resize_weights`, as a sparse matrix; it is shared, so it must not be changed."""
  return _sparse_weights(in_size, factor, np.float64)


def output_size(size: int, factor: float) -> int:
  """`ceil(factor * size)`, free of round-off.

  Args:
    size: Pixels of the input along an axis.
    factor: A whole number n up to 16, or 1/n.

  Returns:
    Pixels of the output.
  """
  return math.ceil(_exact(factor) * size)


def bicubic_resize(
  image: Shaped[np.ndarray, "H W C"], factor: float, rounding: Rounding = MATLAB_ROUNDING
) -> Shaped[np.ndarray, "h w C"]:
  """Resizes an image on the host.

  Args:
    image: uint8, float32 or float64.
    factor: A whole number n up to 16, or 1/n.
    rounding: Of halves, for uint8.

  Returns:
    `[ceil(factor * H), ceil(factor * W), C]` of the same dtype. uint8 is rounded and clipped after
    each pass, as MATLAB does; floats are neither.
  """
  height, width = (output_size(size, factor) for size in image.shape[:2])
  return bicubic_window(image, factor, 0, 0, height, width, rounding)


def bicubic_window(
  image: Shaped[np.ndarray, "H W C"],
  factor: float,
  top: int,
  left: int,
  height: int,
  width: int,
  rounding: Rounding = MATLAB_ROUNDING,
) -> Shaped[np.ndarray, "{height} {width} C"]:
  """Computes a window of a resized image, and no more of it than that.

  Args:
    image: uint8, float32 or float64: the whole image.
    factor: A whole number n up to 16, or 1/n.
    top: First row of the window, in pixels of the output.
    left: First column.
    height: Rows of the window.
    width: Columns.
    rounding: Of halves, for uint8.

  Returns:
    `bicubic_resize(image, factor, rounding)[top:top + height, left:left + width]`, bit for bit.
  """
  out_size = [output_size(size, factor) for size in image.shape[:2]]
  if min(top, left) < 0 or top + height > out_size[0] or left + width > out_size[1]:
    raise ValueError(
      f"window {height}x{width} at ({top}, {left}) leaves the output of {out_size[0]}x{out_size[1]}"
    )
  dtype = np.dtype(np.int32) if image.dtype == np.uint8 else image.dtype
  vertical, rows = _window_weights(image.shape[0], factor, dtype, top, height)
  horizontal, columns = _window_weights(image.shape[1], factor, dtype, left, width)
  image = image[rows, columns]
  image = _host_pass(vertical, image, factor, rounding)
  # A sparse matrix acts on the first axis alone.
  image = _host_pass(horizontal, image.swapaxes(0, 1), factor, rounding).swapaxes(0, 1)
  return np.ascontiguousarray(image)


def bicubic_resize_on_device(
  images: Shaped[jax.Array, "*batch H W C"], factor: float, rounding: Rounding = MATLAB_ROUNDING
) -> Shaped[jax.Array, "*batch h w C"]:
  """Resizes images on the device; works under `jit`, and for floats under `grad`.

  Args:
    images: uint8 or floating point.
    factor: A whole number n up to 16, or 1/n.
    rounding: Of halves, for uint8.

  Returns:
    `[..., ceil(factor * H), ceil(factor * W), C]` of the same dtype: for uint8 bit for bit what
    `bicubic_resize` gives; for floats the same within round-off.
  """
  for equation, axis in (("oi,...iwc->...owc", -3), ("oi,...hic->...hoc", -2)):
    in_size = images.shape[axis]
    if images.dtype == jnp.uint8:
      weights = _sparse_weights(in_size, factor, np.int32).toarray()
      sums = jnp.einsum(equation, weights, images.astype(jnp.int32))
      images = jnp.clip(_rounded(sums, _denominator(factor), rounding), 0, 255).astype(jnp.uint8)
    else:
      weights = jnp.asarray(resize_weights(in_size, factor), images.dtype)
      images = jnp.einsum(equation, weights, images, precision=jax.lax.Precision.HIGHEST)
  return images


def _exact(factor: float) -> fractions.Fraction:
  """Returns the factor as a fraction, refusing what is neither n nor 1/n."""
  exact = fractions.Fraction(factor).limit_denominator(_MAX_WHOLE)
  if (
    1 not in (exact.numerator, exact.denominator)
    or not 0 < exact <= _MAX_WHOLE
    or not math.isclose(exact, factor, rel_tol=1e-6)
  ):
    raise ValueError(f"resize factor {factor} is neither a whole number up to {_MAX_WHOLE} nor 1/n")
  return exact


def _denominator(factor: float) -> int:
  """Returns D such that every weight is a multiple of 1/D.

  The kernel's arguments are multiples of 1/(2n), its coefficients of 1/2, its powers at most the
  third; a shrinking kernel is also divided by n.
  """
  exact = _exact(factor)
  return 16 * exact.numerator**3 if exact >= 1 else 16 * exact.denominator**4


def _cubic(x: np.ndarray) -> np.ndarray:
  """Keys' kernel with a = -0.5, zero outside (-2, 2)."""
  x = np.abs(x)
  near = (1.5 * x - 2.5) * x**2 + 1
  far = ((-0.5 * x + 2.5) * x - 4) * x + 2
  return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


@functools.lru_cache(maxsize=256)
def _sparse_weights(in_size: int, factor: float, dtype: type) -> scipy.sparse.csr_array:
  """The weights of one axis as a sparse matrix, with integers as multiples of the denominator."""
  exact = _exact(factor)
  shrink = min(float(exact), 1.0)
  out_size = output_size(in_size, factor)
  # Pixel centres lie at whole coordinates; output pixel o covers the input around `centre`.
  centre = (np.arange(out_size) + 0.5) / float(exact) - 0.5
  first = np.floor(centre - 2 / shrink).astype(int)
  position = first[:, None] + np.arange(math.ceil(4 / shrink) + 2)
  weights = shrink * _cubic(shrink * (centre[:, None] - position))
  weights /= weights.sum(1, keepdims=True)

  mirrored = position % (2 * in_size)
  columns = np.minimum(mirrored, 2 * in_size - 1 - mirrored)
  rows = np.broadcast_to(np.arange(out_size)[:, None], columns.shape)
  if np.issubdtype(dtype, np.integer):
    weights = np.rint(weights * _denominator(factor))
  entries = (weights.astype(dtype).ravel(), (rows.ravel(), columns.ravel()))
  matrix = scipy.sparse.coo_array(entries, shape=(out_size, in_size)).tocsr()
  matrix.eliminate_zeros()
  return matrix


def _window_weights(
  in_size: int, factor: float, dtype: np.dtype, start: int, size: int
) -> tuple[scipy.sparse.csr_array, slice]:
  """Returns the weights of some outputs, and which inputs they act on."""
  weights = _sparse_weights(in_size, factor, dtype.type)
  if size == len(weights.indptr) - 1:
    return weights, slice(None)
  # Slicing by hand: scipy's own takes longer than a whole small window.
  starts = weights.indptr[start : start + size + 1]
  kept = slice(starts[0], starts[-1])
  columns = weights.indices[kept]
  low, high = columns.min(), columns.max() + 1
  entries = (weights.data[kept], columns - low, starts - starts[0])
  return scipy.sparse.csr_array(entries, shape=(size, high - low)), slice(low, high)


def _host_pass(
  weights: scipy.sparse.csr_array, image: np.ndarray, factor: float, rounding: Rounding
) -> np.ndarray:
  """Resizes the first axis; the result has the image's dtype."""
  flat = image.astype(weights.dtype, copy=False).reshape(image.shape[0], -1)
  sums = weights @ flat
  sums = sums.reshape(len(sums), *image.shape[1:])
  if image.dtype != np.uint8:
    return sums
  return np.clip(_rounded(sums, _denominator(factor), rounding), 0, 255).astype(np.uint8)


def _rounded(
  sums: np.ndarray | jax.Array, denominator: int, rounding: Rounding
) -> np.ndarray | jax.Array:
  """Divides integers by an even one and rounds; negative quotients, clipped later, to any side."""
  if rounding not in (MATLAB_ROUNDING, NUMPY_ROUNDING):
    raise ValueError(f"unknown rounding {rounding!r}: {MATLAB_ROUNDING} or {NUMPY_ROUNDING}")
  up = (sums + denominator // 2) // denominator
  if rounding == MATLAB_ROUNDING:
    return up
  is_half = up * denominator - sums == denominator // 2
  return up - (is_half & (up % 2 == 1))
