"""Images made to agree with an LR image: MATLAB's bicubic reduces them to it.

Reducing an image is a linear map A, along columns and along rows (`ops.resize`). An image x becomes

    x + A^+ (r - A x),    r = what is nearest to A x within a tolerance of the LR image,

where `A^+ = A^T (A A^T)^-1` is the pseudo-inverse: of all changes that make the reduction r, the
smallest one. The map is that of Y. Bahat and T. Michaeli, "Explorable Super Resolution", 2020. Each
axis has its own factor of A, whose `A A^T` is a band matrix, so the time grows with the pixels.

Images have no values outside [0, 1]. Where the change leads out of that, values are clipped and the
change is computed again: alternating projections onto two convex sets, which approach a common
point if there is one (L. Bregman, 1965). MATLAB clips too, after each of its two passes: what lies
beyond white counts as white. So `A x` is clipped after the first pass, and may be anything beyond
where LR is black or white.
"""

import functools

import numpy as np
import scipy.linalg

from srflow_jax.ops.resize import resize_matrix

# Half a level is the largest difference that rounds to the LR image. Rounding the result to 8 bits,
# and MATLAB's rounding between its two passes, add an error whose standard deviation is about 0.1
# levels; four times that is left to them.
TOLERANCE = (0.5 - 0.4) / 255

_MAX_ROUNDS = 50  # of clipping and changing; without saturated pixels, one is enough
_CLOSE = 1e-6


class _Axis:
  """The reduction of one axis, and its pseudo-inverse."""

  def __init__(self, size: int, scale: int) -> None:
    """Takes the pixels of the large image along the axis."""
    self._matrix = resize_matrix(size, 1 / scale)
    gram = (self._matrix @ self._matrix.T).tocoo()
    width = int(np.max(gram.col - gram.row)) + 1
    band = np.zeros((width, gram.shape[0]))
    upper = gram.col >= gram.row
    rows, columns = gram.row[upper], gram.col[upper]
    band[width - 1 + rows - columns, columns] = gram.data[upper]
    self._factor = scipy.linalg.cholesky_banded(band)

  def reduce(self, values: np.ndarray) -> np.ndarray:
    """Reduces the first axis of two."""
    return self._matrix @ values

  def spread(self, values: np.ndarray) -> np.ndarray:
    """The pseudo-inverse, along the first axis of two."""
    return self._matrix.T @ scipy.linalg.cho_solve_banded((self._factor, False), values)


_axis = functools.lru_cache(16)(_Axis)


def make_consistent(
  image: np.ndarray, lr: np.ndarray, scale: int, tolerance: float = TOLERANCE
) -> np.ndarray:
  """Moves an image so that its bicubic reduction is an LR image, up to a tolerance.

  Args:
    image: float `[h * scale, w * scale, C]`, finite; clipped to [0, 1].
    lr: float `[h, w, C]` in [0, 1].
    scale: By how much the image is larger.
    tolerance: How far the reduction may be from `lr`. The default is for results that are then
      rounded to 8 bits; without rounding it could be half a level, 0.5 / 255.

  Returns:
    float32, of the image's shape, in [0, 1]. An image that is consistent is only clipped.
  """
  if image.shape != (lr.shape[0] * scale, lr.shape[1] * scale, lr.shape[2]):
    raise ValueError(f"an image of shape {image.shape} is not {scale} times an LR of {lr.shape}")
  vertical, horizontal = (_axis(side, scale) for side in image.shape[:2])
  result = np.empty(image.shape, np.float32)
  for channel in range(image.shape[2]):  # one by one, which takes a third of the memory
    x = np.clip(image[..., channel].astype(np.float64), 0, 1)
    wanted = lr[..., channel].astype(np.float64)
    low = np.where(wanted <= 0, -np.inf, wanted - tolerance)
    high = np.where(wanted >= 1, np.inf, wanted + tolerance)
    for _ in range(_MAX_ROUNDS):
      reduced = horizontal.reduce(np.clip(vertical.reduce(x), 0, 1).T).T
      change = np.clip(reduced, low, high) - reduced
      if np.abs(change).max() < _CLOSE:
        break
      x += vertical.spread(horizontal.spread(change.T).T)
      np.clip(x, 0, 1, out=x)
    result[..., channel] = x
  return result
