"""The whole images of a data set; those of a prepared set are put together from their tiles."""

import dataclasses
import itertools
import math
import pathlib

import numpy as np

from srflow_jax.data.record_sets import open_set
from srflow_jax.data.records import RecordSource
from srflow_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class WholeImage:
  """An image of a data set.

  Attributes:
    name: of the image that was prepared; else its split and number.
    size: HR's height and width. A prepared image has lost up to a few rows and columns at the end,
      so that it is a whole number of LR pixels of every scale.
    source: the set.
    records: the numbers of its records: all its tiles, or the one image.
  """

  name: str
  size: tuple[int, int]
  source: RecordSource
  records: range

  def read(self) -> tuple[np.ndarray, np.ndarray | None]:
    """HR, uint8 [H, W, 3], and LR, uint8 [h, w, 3], or None if the set has none.

    Raises:
      InputError: a record is damaged, or the tiles are not those of the image.
    """
    if len(self.records) == 1:
      pair = self.source[self.records[0]]
      if pair.hr.shape[:2] == self.size:
        return pair.hr, pair.lr
    scale = self.source.scale
    hr = np.zeros((*self.size, 3), np.uint8)
    lr = np.zeros((*(side // scale for side in self.size), 3), np.uint8)
    is_covered = np.zeros(self.size, bool)
    for index in self.records:
      tile = self.source.tile(index)
      height, width = tile.pair.hr.shape[:2]
      rows, columns = (slice(tile.top, tile.top + height), slice(tile.left, tile.left + width))
      parts = [slice(axis.start // scale, axis.stop // scale) for axis in (rows, columns)]
      is_inside = min(tile.top, tile.left) >= 0 and rows.stop <= self.size[0]
      if tile.name != self.name or not is_inside or columns.stop > self.size[1]:
        raise InputError(f"{tile.pair.name}: not a tile of {self.name}")
      if lr[*parts].shape != tile.pair.lr.shape:
        raise InputError(f"{tile.pair.name}: its LR tile is not 1/{scale} of it")
      hr[rows, columns], lr[*parts] = tile.pair.hr, tile.pair.lr
      is_covered[rows, columns] = True
    if not is_covered.all():
      raise InputError(f"{self.source.folder}: tiles of {self.name} are missing")
    return hr, lr


def whole_images(folder: pathlib.Path, scale: int) -> list[WholeImage]:
  """The images of a set's split `validation`, or of its only split.

  Args:
    folder: the set.
    scale: HR pixels per LR pixel.

  Raises:
    InputError: it cannot be used, or has several splits of which none is called `validation`.
  """
  records = open_set(folder)
  split = "validation"
  if split not in records.splits:
    if len(records.splits) > 1:
      raise InputError(f"{folder}: no split validation, only {', '.join(records.splits)}")
    (split,) = records.splits
  source = RecordSource(folder, split, scale, patch=scale, cache_bytes=0)
  if records.metadata is None:
    return [
      WholeImage(f"{split}/{index:05d}", source.hr_size(index), source, range(index, index + 1))
      for index in range(len(source))
    ]
  unit = math.lcm(*records.metadata.scales)
  entries = records.metadata.images[split]
  ends = itertools.accumulate(entry.tiles for entry in entries)
  return [
    WholeImage(
      entry.name,
      (entry.size[0] // unit * unit, entry.size[1] // unit * unit),
      source,
      range(end - entry.tiles, end),
    )
    for entry, end in zip(entries, ends, strict=True)
  ]
