"""How an image that does not fit in memory is cut into overlapping tiles."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Span:
  """A tile along one axis, in pixels.

  Attributes:
    start: The tile's first pixel.
    low: The first pixel that is taken from this tile.
    high: The pixel after the last that is taken from it.
  """

  start: int
  low: int
  high: int


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
  def tiles(self) -> list[tuple[Span, Span]]:
    """All tiles as (row, column)."""
    return [(row, column) for row in self.rows for column in self.columns]


def spans(size: int, tile: int, overlap: int) -> tuple[Span, ...]:
  """Covers an axis: a pixel is taken from a tile where it lies at least `overlap` inside it.

  Args:
    size: Pixels of the axis.
    tile: Pixels of a tile, more than twice the overlap; one of `size` or more covers all.
    overlap: How far inside a tile pixels must lie, but at the image's own borders.

  Returns:
    Tiles whose kept parts follow one another; the last is moved inwards to end where the axis does.
  """
  if tile >= size:
    return (Span(0, 0, size),)
  if tile <= 2 * overlap:
    raise ValueError(f"a tile of {tile} pixels has nothing inside an overlap of {overlap}")
  step = tile - 2 * overlap
  starts = [min(start, size - tile) for start in range(0, size - 2 * overlap, step)]
  cuts = [0, *(start + overlap for start in starts[1:]), size]
  return tuple(map(Span, starts, cuts, cuts[1:]))


def tiling(size: tuple[int, int], max_pixels: float, overlap: int, multiple: int) -> Tiling | None:
  """Cuts an image into the fewest tiles of at most so many pixels, all as even as can be.

  Args:
    size: Height and width, multiples of `multiple`.
    max_pixels: The most that a tile may have.
    overlap: See `spans`; a multiple of `multiple`.
    multiple: What tiles begin at and measure multiples of.

  Returns:
    The tiles; one alone where the image fits. None if no tile has so few pixels.
  """
  if size[0] * size[1] <= max_pixels:
    return Tiling(size, spans(size[0], size[0], 0), spans(size[1], size[1], 0))
  best, smallest = None, 2 * overlap + multiple
  # Of all heights, the one that computes the fewest pixels: overlaps are computed twice.
  for height in range(min(smallest, size[0]), size[0] + 1, multiple):
    width = min(int(max_pixels / height) // multiple * multiple, size[1])
    if width < min(smallest, size[1]):
      continue
    tile = tuple(_even(*axis, overlap, multiple) for axis in ((size[0], height), (size[1], width)))
    made = Tiling(tile, *(spans(*axis, overlap) for axis in zip(size, tile, strict=True)))
    work = len(made.tiles) * tile[0] * tile[1]
    if best is None or work < best[0]:
      best = work, made
  return best[1] if best else None


def _even(size: int, tile: int, overlap: int, multiple: int) -> int:
  """The smallest tile that needs no more tiles than a given one."""
  count = len(spans(size, tile, overlap))
  if count == 1:
    return size
  inner = -(-(size - 2 * overlap) // count)
  return 2 * overlap + -(-inner // multiple) * multiple
