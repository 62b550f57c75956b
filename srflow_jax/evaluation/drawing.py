"""Draws a system's samples of an image, and makes of them what a recipe asks for."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from srflow_jax.evaluation import metrics
from srflow_jax.evaluation.estimates import mean_image, medoid_index
from srflow_jax.evaluation.recipes import Recipe
from srflow_jax.evaluation.systems import System
from srflow_jax.ops.consistency import make_consistent
from srflow_jax.sampling.sampler import Seconds

# Values that a sample has beyond these have exploded: they are not just clipped highlights.
OUTSIDE = -1.0, 2.0


@dataclasses.dataclass(frozen=True)
class Drawn:
  """Samples of an image; values that are not finite are black.

  Attributes:
    levels: By kind of 8 bits, uint8 `[N, H, W, 3]`.
    floats: float32 of the same shape, in [0, 1] nominally; None if they were not to be kept.
    not_finite: How many values of each sample are not finite.
    outside: How many are finite and outside of `OUTSIDE`.
    seconds: What it took.
  """

  levels: dict[str, np.ndarray]
  floats: np.ndarray | None
  not_finite: tuple[int, ...]
  outside: tuple[int, ...]
  seconds: Seconds


@dataclasses.dataclass(frozen=True)
class Made:
  """Images that a recipe makes of samples.

  Attributes:
    levels: By kind of 8 bits, uint8 `[N, H, W, 3]`.
    seconds: What each took on average, beside the context; for an estimate that of all samples.
    marks: The counts of `Drawn`, as fields of `Scores`; none for an estimate.
  """

  levels: dict[str, np.ndarray]
  seconds: float
  marks: dict[str, tuple[int, ...]]


def draw(
  system: System,
  prepared: Any,
  size: tuple[int, int],
  recipes: Sequence[Recipe],
  seed: int,
  count: int,
  modes: Sequence[str],
  on_pixels: Callable[[int], object],
) -> Drawn:
  """Draws samples.

  Args:
    system: The system.
    prepared: Of its `prepare`.
    size: Height and width of the samples.
    recipes: What is to be made of the samples; all of one `Recipe.drawn`.
    seed: Of the noise.
    count: How many.
    modes: The kinds of 8 bits to keep, of `metrics.UINT8_MODES`.
    on_pixels: Called with the number of pixels drawn, for progress.

  Returns:
    The samples.
  """
  seconds, shape = Seconds(), (count, *size, 3)
  levels = {mode: np.empty(shape, np.uint8) for mode in modes}
  keeps = any(recipe.consistent for recipe in recipes)
  floats = np.empty(shape, np.float32) if keeps else None
  not_finite, outside = [0] * count, [0] * count
  windows = system.draw(prepared, seed, count, recipes[0], seconds)
  for index, (rows, columns), pixels in windows:
    if pixels.dtype != np.uint8:
      finite = np.isfinite(pixels)
      not_finite[index] += int(np.count_nonzero(~finite))
      pixels = np.where(finite, pixels, 0)
      outside[index] += int(np.count_nonzero((pixels < OUTSIDE[0]) | (pixels > OUTSIDE[1])))
    for mode, images in levels.items():
      images[index, rows, columns] = (
        pixels if pixels.dtype == np.uint8 else metrics.to_uint8(pixels, mode)
      )
    if floats is not None:
      floats[index, rows, columns] = pixels
    on_pixels(math.prod(pixels.shape[:2]))
  return Drawn(levels, floats, tuple(not_finite), tuple(outside), seconds)


def make(recipe: Recipe, drawn: Drawn, lr: np.ndarray, mode: str) -> Made:
  """Makes the images of a recipe.

  Args:
    recipe: The recipe.
    drawn: The samples, drawn for it among others.
    lr: The LR image, uint8 `[h, w, 3]`.
    mode: The kind of 8 bits by which a medoid is chosen.

  Returns:
    The images. They share memory with `drawn` where they are its samples.
  """
  begin = time.perf_counter()
  levels, count = dict(drawn.levels), len(drawn.outside)
  if recipe.consistent:
    assert drawn.floats is not None  # they were drawn for this recipe
    levels = _consistent(drawn.floats, lr, list(levels))
  seconds = drawn.seconds.samples + time.perf_counter() - begin
  if recipe.estimate == "mean":
    return Made({kind: mean_image(samples)[None] for kind, samples in levels.items()}, seconds, {})
  if recipe.estimate == "medoid":
    index = medoid_index(levels[mode])
    return Made({kind: samples[index][None] for kind, samples in levels.items()}, seconds, {})
  marks = {"not_finite": drawn.not_finite, "outside": drawn.outside}
  return Made(levels, seconds / count, marks)


def _consistent(samples: np.ndarray, lr: np.ndarray, modes: Sequence[str]) -> dict[str, np.ndarray]:
  levels = {mode: np.empty(samples.shape, np.uint8) for mode in modes}
  scale = samples.shape[1] // lr.shape[0]
  for index, sample in enumerate(samples):
    sample = make_consistent(sample, lr / 255, scale)
    for mode, images in levels.items():
      images[index] = metrics.to_uint8(sample, mode)
  return levels
