"""How an image that does not fit in memory is cut into overlapping tiles."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

Window = tuple[slice, slice]  # rows and columns


@dataclasses.dataclass(frozen=True)
class Span:
  """A tile along one axis, in pixels.

  Attributes:
    start: The tile's first pixel.
    stop: The pixel after its last.
    low: The first pixel that is taken from this tile.
    high: The pixel after the last that is taken from it.
  """

  start: int
  stop: int
  low: int
  high: int


@dataclasses.dataclass(frozen=True)
class Tile:
  """A window of an image, and the part of it that is taken from it.

  Attributes:
    rows: Along the vertical axis.
    columns: Along the horizontal one.
    sign: What a sum over the window counts as in the image's sum; see `Tiling.signed_tiles`.
  """

  rows: Span
  columns: Span
  sign: int = 1

  @property
  def window(self) -> Window:
    """All of its pixels."""
    return slice(self.rows.start, self.rows.stop), slice(self.columns.start, self.columns.stop)

  @property
  def kept(self) -> Window:
    """The pixels that are taken from it."""
    return slice(self.rows.low, self.rows.high), slice(self.columns.low, self.columns.high)

  @property
  def size(self) -> tuple[int, int]:
    """Height and width of the window."""
    return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


@dataclasses.dataclass(frozen=True)
class Tiling:
  """Tiles of one size whose kept parts cover an image once.

  Attributes:
    size: Height and width of the tiles.
    rows: The tiles along the vertical axis.
    columns: Along the horizontal one.
  """

  size: tuple[int, int]
  rows: tuple[Span, ...]
  columns: tuple[Span, ...]

  @property
  def tiles(self) -> list[Tile]:
    """All tiles, row by row."""
    return [Tile(rows, columns) for rows in self.rows for columns in self.columns]

  def signed_tiles(self) -> list[Tile]:
    """Tiles with signs such that each pixel counts once in the sum over all windows.

    They are the tiles and, subtracted, the parts that neighbours share (in two dimensions by
    inclusion and exclusion). Inside the image, each border of a tile is also a border of a shared
    part, which has the other sign. So errors that a sum over a window has near such a border cancel
    if they reach no further than the overlap.
    """
    axes = map(_signed, (self.rows, self.columns))
    return [
      Tile(rows, columns, sign * other)
      for (sign, rows), (other, columns) in itertools.product(*axes)
    ]


def _signed(tiles: Sequence[Span]) -> list[tuple[int, Span]]:
  """Tiles along an axis, and the parts that neighbours share, of which no pixel is taken."""
  shared = [
    Span(right.start, left.stop, right.start, right.start)
    for left, right in itertools.pairwise(tiles)
  ]
  return [(1, span) for span in tiles] + [(-1, span) for span in shared]


def tile_side(size: int, count: int, overlap: int, multiple: int = 1) -> int | None:
  """Pixels of each of `count` equal tiles along an axis; None if they would have no inside."""
  if count == 1:
    return size
  # A tile is what it shares with a neighbour and (size - shared) / count more.
  shared = 2 * overlap + (size - 2 * overlap) % (count * multiple)
  return shared + (size - shared) // count if shared < size else None


def spans(size: int, count: int, overlap: int, multiple: int = 1) -> tuple[Span, ...]:
  """Covers an axis with tiles and says which pixels are taken from which.

  Args:
    size: Pixels of the axis, a multiple of `multiple`.
    count: How many tiles.
    overlap: How many pixels from a tile's border are not taken from it, unless that border is the
      image's own; a multiple of `multiple`.
    multiple: All numbers of the result are multiples of it.

  Returns:
    Tiles of one size, each of which shares as many pixels with the next.
  """
  side = tile_side(size, count, overlap, multiple)
  if side is None:
    raise ValueError(f"{size} pixels in {count} tiles have nothing inside an overlap of {overlap}")
  step = (size - side) // max(count - 1, 1)
  starts = [step * i for i in range(count)]
  cut = (side - step) // 2 // multiple * multiple
  cuts = [0, *(start + cut for start in starts[1:]), size]
  return tuple(
    Span(a, a + side, low, high) for a, low, high in zip(starts, cuts[:-1], cuts[1:], strict=True)
  )


def cut(size: tuple[int, int], counts: tuple[int, int], overlap: int, multiple: int = 1) -> Tiling:
  """Cuts an image of `size` (height, width) into `counts` tiles along its axes; see `spans`."""
  rows, columns = (spans(*axis, overlap, multiple) for axis in zip(size, counts, strict=True))
  return Tiling((rows[0].stop, columns[0].stop), rows, columns)


def tiling(size: tuple[int, int], max_pixels: float, overlap: int, multiple: int) -> Tiling | None:
  """Cuts an image into tiles of limited size so that few pixels are computed more than once.

  Args:
    size: Height and width, multiples of `multiple`.
    max_pixels: How many pixels a tile may have.
    overlap: See `spans`.
    multiple: Tiles begin at multiples of it, and their sides are multiples too.

  Returns:
    The tiles, which are a single one if the image fits; None if no tile has so few pixels.
  """
  heights, widths = (_sides(side, overlap, multiple) for side in size)
  best = None
  for rows, height in heights:
    columns, width = next(((n, side) for n, side in widths if side * height <= max_pixels), (0, 0))
    work = rows * height * columns * width
    if columns and (best is None or work < best[0]):
      best = work, (rows, columns)
  return cut(size, best[1], overlap, multiple) if best else None


def smallest_tile(size: tuple[int, int], overlap: int, multiple: int) -> int:
  """Pixels of the smallest tiles that an image can be cut into; see `tiling`."""
  return math.prod(min(side for _, side in _sides(axis, overlap, multiple)) for axis in size)


def _sides(size: int, overlap: int, multiple: int) -> list[tuple[int, int]]:
  """For each number of tiles that an axis can be cut into: that number, and a tile's pixels."""
  counts = range(1, max(2, size // multiple))
  sides = ((count, tile_side(size, count, overlap, multiple)) for count in counts)
  return [(count, side) for count, side in sides if side]
