"""The measures of protocol `ntire21`, as functions of 8-bit images.

The protocol: samples and HR are uint8 RGB, HR is cropped to a multiple of 8, no border is cut. All
values are per image; averages over images come last. Definitions in the functions' docstrings.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from skimage.metrics import structural_similarity

from srflow_jax.evaluation.lpips import lpips_maps
from srflow_jax.ops.resize import (
  MATLAB_ROUNDING,
  NUMPY_ROUNDING,
  Rounding,
  bicubic_window,
  output_size,
)

PROTOCOL = "ntire21"
PROTOCOL_VERSION = 1  # raised whenever a definition here changes a value
CROP_MULTIPLE = 8  # of HR's sides, in pixels

UINT8_MODES = ("round", "truncate")

SSIM_WINDOW = 7  # pixels a side

_STRIP = 512  # rows that are computed at a time: 8K images would take gigabytes otherwise
_LPIPS_ROUND_OFF = 1e-9  # LPIPS of an image with itself is of the order of 1e-16


@dataclasses.dataclass(frozen=True)
class LpipsScores:
  """LPIPS of the samples of one image.

  Attributes:
    per_sample: Mean over pixels of each sample's map.
    mean: Mean over samples.
    global_best: The smallest of `per_sample`.
    local_best: Mean over pixels of the smallest value among samples.
    diversity: `100 * (global_best - local_best) / global_best`, in per cent; 0 if a sample is HR.
    local_curve: What `local_best` is of the first 1, 2, ... samples.
  """

  per_sample: tuple[float, ...]
  mean: float
  global_best: float
  local_best: float
  diversity: float
  local_curve: tuple[float, ...] = ()

  def curves(self) -> dict[str, list[float]]:
    """`global`, `local` and `diversity` of the first 1, 2, ... samples."""
    best = [min(self.per_sample[: n + 1]) for n in range(len(self.local_curve))]
    pairs = list(zip(best, self.local_curve, strict=True))
    return {
      "global": best,
      "local": list(self.local_curve),
      "diversity": [_diversity(*pair) for pair in pairs],
    }


def to_uint8(image: np.ndarray, mode: Literal["round", "truncate"] = "round") -> np.ndarray:
  """Converts to 8 bits.

  Args:
    image: Floats, nominally in [0, 1]; clipped to that.
    mode: `round` to the nearest level (half to even), or `truncate` as the published scripts do.

  Returns:
    uint8 of the same shape.

  Raises:
    ValueError: The image has a value that is not finite, or the mode is unknown.
  """
  if mode not in UINT8_MODES:
    raise ValueError(f"unknown mode {mode!r}: one of {', '.join(UINT8_MODES)}")
  image = np.asarray(image)
  if not np.isfinite(image).all():
    raise ValueError("the image has values that are not finite")
  levels = np.clip(image, 0, 1) * 255
  return (np.rint(levels) if mode == "round" else levels).astype(np.uint8)


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
  """Peak signal-to-noise ratio of uint8 images over all pixels and channels.

  Args:
    image: uint8, any shape.
    reference: uint8, the same shape.

  Returns:
    `10 log10(255^2 / MSE)` in dB; infinity for equal images.
  """
  _require_uint8(image, reference)
  squares = sum(
    int(np.square(image[rows].astype(np.int32) - reference[rows]).sum(dtype=np.int64))
    for rows in strips(len(image))
  )
  mean = squares / image.size
  return 10 * math.log10(255**2 / mean) if mean else math.inf


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
  """Structural similarity of uint8 images by scikit-image's default.

  Args:
    image: uint8 `[H, W, 3]`, at least 7 pixels a side.
    reference: uint8 `[H, W, 3]`.

  Returns:
    The mean over pixels (uniform 7x7 window) and channels, at most 1.
  """
  _require_uint8(image, reference)
  border = SSIM_WINDOW - 1  # a strip's windows reach so far into the next
  total = 0.0
  for rows in strips(len(image) - border):
    parts = (x[rows.start : rows.stop + border] for x in (image, reference))
    mean = structural_similarity(*parts, channel_axis=-1, data_range=255, win_size=SSIM_WINDOW)
    total += (rows.stop - rows.start) * float(mean)
  return total / (len(image) - border)


def lr_psnr(samples: Sequence[np.ndarray], hr: np.ndarray, scale: int) -> list[float]:
  """How well samples agree with the LR image: PSNR after shrinking both by bicubic.

  The challenge that the protocol is named after shrinks by a port of MATLAB's `imresize` to NumPy,
  which rounds halves to even where MATLAB rounds them away from zero. So does this.

  Args:
    samples: uint8 `[H, W, 3]` each.
    hr: uint8 `[H, W, 3]`; its LR is computed here, as the protocol has it.
    scale: By how much HR is larger than LR.

  Returns:
    dB for each sample.
  """
  lr = shrunk(hr, scale, NUMPY_ROUNDING)
  return [psnr(shrunk(sample, scale, NUMPY_ROUNDING), lr) for sample in samples]


def shrunk(image: np.ndarray, scale: int, rounding: Rounding = MATLAB_ROUNDING) -> np.ndarray:
  """MATLAB's bicubic of an image `[H, W, 3]`, `1 / scale` of its size, with little memory."""
  height, width = (output_size(side, 1 / scale) for side in image.shape[:2])
  parts = (
    bicubic_window(image, 1 / scale, rows.start, 0, rows.stop - rows.start, width, rounding)
    for rows in strips(height)
  )
  return np.concatenate(list(parts))


def lpips_scores(samples: np.ndarray, hr: np.ndarray) -> LpipsScores:
  """LPIPS of all samples of an image, and how much they differ to its benefit.

  Args:
    samples: uint8 `[N, H, W, 3]`, at least 31 pixels a side.
    hr: uint8 `[H, W, 3]`.

  Returns:
    The scores.
  """
  _require_uint8(samples, hr[None])
  return scores_of_maps(lpips_maps(samples, hr))


def scores_of_maps(maps: Iterable[np.ndarray]) -> LpipsScores:
  """Sums up the LPIPS maps of an image's samples.

  Args:
    maps: `[H, W]` each, one after the other.

  Returns:
    The scores.
  """
  per_sample, local_curve, smallest = [], [], np.inf
  for m in maps:
    per_sample.append(float(m.mean(dtype=np.float64)))
    smallest = np.minimum(smallest, m)
    local_curve.append(float(smallest.mean(dtype=np.float64)))
  best = min(per_sample)
  return LpipsScores(
    per_sample=tuple(per_sample),
    mean=float(np.mean(per_sample)),
    global_best=best,
    local_best=local_curve[-1],
    diversity=_diversity(best, local_curve[-1]),
    local_curve=tuple(local_curve),
  )


def _diversity(best: float, local: float) -> float:
  return 100 * (best - local) / best if best > _LPIPS_ROUND_OFF else 0.0


def strips(rows: int) -> Iterator[slice]:
  """Cuts so many rows into strips that can be computed one after the other."""
  for start in range(0, rows, _STRIP):
    yield slice(start, min(start + _STRIP, rows))


def _require_uint8(image: np.ndarray, reference: np.ndarray) -> None:
  """Refuses floats, whose scale is ambiguous, and shapes that would broadcast."""
  if image.dtype != np.uint8 or reference.dtype != np.uint8:
    raise ValueError(f"not uint8: {image.dtype} and {reference.dtype}")
  if image.shape[-3:] != reference.shape[-3:]:
    raise ValueError(f"different sizes: {image.shape} and {reference.shape}")
