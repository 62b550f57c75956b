"""PSNR and SSIM on luma with a border left out: protocol `y_border`, as most papers report them.

Luma is the Y of ITU-R BT.601 in studio swing, as MATLAB's `rgb2ycbcr` computes it of uint8 images.
As many pixels as the scale are left out at each border. The field's scripts crop HR to a multiple
of the scale, an evaluation also to one of 8, for `ntire21`.
"""

from collections.abc import Iterator

import numpy as np
from skimage.metrics import structural_similarity

from srflow_jax.evaluation import metrics

PROTOCOL = "y_border"
PROTOCOL_VERSION = 1  # raised whenever a definition here changes a value

SSIM_WINDOW = 11  # pixels a side
_SSIM_SIGMA = 1.5
_WEIGHTS = np.array([65.481, 128.553, 24.966]) / 255


def luma(image: np.ndarray) -> np.ndarray:
  """The Y channel of an image, from 16 to 235.

  Args:
    image: uint8 RGB `[H, W, 3]`.

  Returns:
    uint8 `[H, W]`: `16 + (65.481 R + 128.553 G + 24.966 B) / 255`, rounded.
  """
  y = np.empty(image.shape[:2], np.uint8)
  for rows in metrics.strips(len(image)):
    y[rows] = np.floor(16.5 + image[rows] @ _WEIGHTS)
  return y


def psnr_and_ssim(image: np.ndarray, reference: np.ndarray, border: int) -> tuple[float, float]:
  """Compares the luma of two images.

  Args:
    image: uint8 RGB `[H, W, 3]`, at least `min_size(border)` pixels a side.
    reference: uint8 RGB `[H, W, 3]`.
    border: Pixels that are left out at each side.

  Returns:
    PSNR in dB with a peak of 255, and SSIM as in Z. Wang et al., "Image Quality Assessment: From
    Error Visibility to Structural Similarity", 2004: a Gaussian window of 11x11 pixels and
    deviation 1.5, constants 0.01 and 0.03, the mean over all windows inside the image.
  """
  inside = slice(border, -border or None)
  image, reference = (luma(x)[inside, inside] for x in (image, reference))
  return metrics.psnr(image, reference), _ssim(image, reference)


def min_size(border: int) -> int:
  """The fewest pixels a side that `psnr_and_ssim` can compare."""
  return SSIM_WINDOW + 2 * border


def _ssim(image: np.ndarray, reference: np.ndarray) -> float:
  overlap = SSIM_WINDOW - 1  # a strip's windows reach so far into the next
  windows = len(image) - overlap
  return sum(_strip_sums(image, reference, overlap, windows)) / windows


def _strip_sums(
  image: np.ndarray, reference: np.ndarray, overlap: int, windows: int
) -> Iterator[float]:
  for rows in metrics.strips(windows):
    mean = structural_similarity(
      *(x[rows.start : rows.stop + overlap] for x in (image, reference)),
      data_range=255,
      gaussian_weights=True,
      sigma=_SSIM_SIGMA,
      use_sample_covariance=False,
    )
    yield (rows.stop - rows.start) * float(mean)
