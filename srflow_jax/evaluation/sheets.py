"""Comparison sheets: the same image by several methods, whole and enlarged, side by side."""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import uniform_filter

PANEL = 288  # pixels a panel's side
_ZOOM = 3  # screen pixels a pixel of the enlarged crop
_GAP = 8
_LABEL_HEIGHT = 24
_COLUMNS = 3
_MAX_SEARCHED = 2048  # pixels a side of what is searched for edges
_BACKGROUND, _INK, _FRAME = "white", "black", (255, 48, 48)


def sample_cells(samples: np.ndarray, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
  """Makes the pictures that show a set of samples, one after the other.

  Args:
    samples: uint8 `[N, H, W, 3]`.
    name: Stands before each label.

  Yields:
    Labels and pictures, uint8 `[H, W, 3]`: the first two samples, their mean, and their standard
    deviation at each pixel (averaged over channels; its label says what white stands for). A
    single sample is the only picture.
  """
  prefix = f"{name} " if name else ""
  if len(samples) == 1:
    yield f"{prefix}sample", samples[0]
    return
  yield f"{prefix}sample 1", samples[0]
  yield f"{prefix}sample 2", samples[1]
  mean = np.empty(samples.shape[1:], np.uint8)
  deviation = np.empty(samples.shape[1:3], np.float32)
  for row in range(len(mean)):  # all rows at once take 8 bytes for each number of each sample
    rows = samples[:, row].astype(np.float32)
    mean[row] = np.rint(rows.mean(0))
    deviation[row] = rows.std(0).mean(-1)
  yield f"{prefix}mean of {len(samples)}", mean
  white = max(float(np.percentile(deviation, 99.5)), 1.0)
  grey = np.rint(np.clip(deviation / white, 0, 1) * 255).astype(np.uint8)
  yield f"{prefix}std (white: {white:.1f} of 255)", np.repeat(grey[..., None], 3, axis=2)


def busiest_crop(image: np.ndarray) -> tuple[int, int, int]:
  """Finds where an enlargement shows most: where edges are strongest.

  Args:
    image: uint8 `[H, W, 3]`.

  Returns:
    Top, left and side of a square that an enlargement fills; the middle if there are no edges.
  """
  # A large image is averaged over blocks of pixels, which shows edges just as well.
  block = -(-max(image.shape[:2]) // _MAX_SEARCHED)
  small = np.asarray(Image.fromarray(image).reduce(block))
  height, width = small.shape[:2]
  side = min(-(-PANEL // (_ZOOM * block)), height, width)
  grey = small.mean(-1)
  # An image of one pixel along an axis has no gradient along it.
  edges = np.hypot(*(np.gradient(grey, axis=a) if grey.shape[a] > 1 else 0 * grey for a in (0, 1)))
  if edges.any():
    sums = uniform_filter(edges, side, mode="constant")
    # The filter's value at c covers [c - side // 2, c - side // 2 + side).
    low, rows, columns = side // 2, height - side + 1, width - side + 1
    inner = sums[low : low + rows, low : low + columns]
    top, left = np.unravel_index(np.argmax(inner), inner.shape)
  else:
    top, left = (height - side) // 2, (width - side) // 2
  side = min(PANEL // _ZOOM, *image.shape[:2])
  top, left = (
    min(int(at) * block, whole - side)
    for at, whole in zip((top, left), image.shape[:2], strict=True)
  )
  return top, left, side


class Sheet:
  """A sheet: each picture whole, and under it the crop where the first has most edges.

  Pictures, uint8 `[H, W, 3]` of one size, are shrunk when they are added, and not kept.
  """

  def __init__(self) -> None:
    """Begins an empty one."""
    self._panels: list[tuple[str, Image.Image, Image.Image]] = []
    self._crop = (0, 0, 0)

  def add(self, label: str, image: np.ndarray) -> None:
    """Adds a picture under a label."""
    if not self._panels:
      self._crop = busiest_crop(image)
    factor = min(PANEL / side for side in image.shape[:2])
    whole = tuple(max(1, round(side * factor)) for side in image.shape[1::-1])
    self._panels.append(
      (label, _whole_with_frame(image, whole, self._crop), _enlarged(image, self._crop))
    )

  def draw(self, columns: int = _COLUMNS) -> np.ndarray:
    """Puts the pictures together, row by row: uint8 `[H, W, 3]`."""
    whole = self._panels[0][1].size
    cell_height = _LABEL_HEIGHT + whole[1] + _GAP // 2 + PANEL + _GAP
    columns = min(columns, len(self._panels))
    rows = -(-len(self._panels) // columns)
    size = (columns * (PANEL + _GAP) + _GAP, rows * cell_height + _GAP)
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for number, (label, picture, enlarged) in enumerate(self._panels):
      row, column = divmod(number, columns)
      x, y = _GAP + column * (PANEL + _GAP), _GAP + row * cell_height
      draw.text((x, y), label, fill=_INK, font=font)
      y += _LABEL_HEIGHT
      sheet.paste(picture, (x + (PANEL - whole[0]) // 2, y))
      sheet.paste(enlarged, (x, y + whole[1] + _GAP // 2))
    return np.asarray(sheet)


def _whole_with_frame(
  image: np.ndarray, size: tuple[int, int], crop: tuple[int, int, int]
) -> Image.Image:
  """Fits an image into a panel and marks the crop."""
  picture = Image.fromarray(image)
  shrinks = size[0] < picture.width
  picture = picture.resize(size, Image.Resampling.LANCZOS if shrinks else Image.Resampling.NEAREST)
  top, left, side = crop
  factor = size[0] / image.shape[1]
  x, y, extent = round(left * factor), round(top * factor), max(1, round(side * factor))
  ImageDraw.Draw(picture).rectangle((x, y, x + extent - 1, y + extent - 1), outline=_FRAME)
  return picture


def _enlarged(image: np.ndarray, crop: tuple[int, int, int]) -> Image.Image:
  """Shows the crop's own pixels, each as a square."""
  top, left, side = crop
  picture = Image.fromarray(np.ascontiguousarray(image[top : top + side, left : left + side]))
  return picture.resize((PANEL, PANEL), Image.Resampling.NEAREST)
