"""Which temperatures are worth using: those that no other is better than in every respect.

A setting gives samples of some LPIPS, LR-PSNR and diversity. A point is dominated if another is at
least as good in all three and better in one; the rest is the frontier. The hypervolume of a set is
the volume of what it dominates above a reference (E. Zitzler and L. Thiele, "Multiobjective
Evolutionary Algorithms: A Comparative Case Study and the Strength Pareto Approach", 1999). Here the
reference is bicubic, whose diversity is 0.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from srflow_jax.sampling.temperatures import Temperature

Gains = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Point:
  """A setting and what it gives, means over images.

  Attributes:
    temperature: The setting.
    lpips: Mean over samples; less is better.
    lr_psnr: dB, likewise; more is better.
    diversity: Per cent; more is better.
    not_finite: How many values of all samples are not finite; with any, the setting is of no use.
  """

  temperature: Temperature
  lpips: float
  lr_psnr: float
  diversity: float
  not_finite: int = 0

  def gains(self, reference: "Point") -> Gains:
    """By how much it is better than a reference, in each respect."""
    return (
      reference.lpips - self.lpips,
      self.lr_psnr - reference.lr_psnr,
      self.diversity - reference.diversity,
    )


def frontier(points: Sequence[Point], reference: Point) -> list[Point]:
  """The points that are better than the reference in all respects and dominated by no other."""
  gains = {point: np.array(point.gains(reference)) for point in points}
  better = [point for point in points if (gains[point] > 0).all() and not point.not_finite]

  def dominated(point: Point) -> bool:
    return any(
      (gains[other] >= gains[point]).all() and (gains[other] > gains[point]).any()
      for other in better
    )

  return [point for point in better if not dominated(point)]


def hypervolume(points: Sequence[Point], reference: Point) -> float:
  """The volume between a reference and a set: LPIPS times dB times per cent.

  Args:
    points: The set.
    reference: What has no volume.

  Returns:
    The volume of the union of the boxes from the reference to each point that is better in all
    respects.
  """
  boxes = sorted((point.gains(reference) for point in frontier(points, reference)), reverse=True)
  volume = 0.0
  # Slices between neighbouring gains in LPIPS: all boxes that reach as far are cut by the slice.
  depths = [box[0] for box in boxes] + [0.0]
  for number in range(len(boxes)):
    thickness = depths[number] - depths[number + 1]
    volume += thickness * _area([box[1:] for box in boxes[: number + 1]])
  return volume


def best(points: Sequence[Point], reference: Point) -> Point | None:
  """The point with the largest hypervolume of its own; None if none is better than the reference.

  It weighs relative gains: ten per cent more in one respect are worth ten per cent in another.
  """
  return max(
    frontier(points, reference),
    key=lambda point: float(np.prod(point.gains(reference))),
    default=None,
  )


def _area(rectangles: Sequence[tuple[float, ...]]) -> float:
  """The area of the union of rectangles from the origin to each corner `(x, y)`."""
  area, height = 0.0, 0.0
  for x, y in sorted(rectangles, reverse=True):  # from the widest on
    if y > height:
      area += x * (y - height)
      height = y
  return area
