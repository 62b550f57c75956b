"""Comparison sheets: the same image by several methods, whole and enlarged, side by side."""

import dataclasses

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import uniform_filter

PANEL = 288  # pixels a panel's side
_ZOOM = 3  # screen pixels a pixel of the enlarged crop
_GAP = 8
_LABEL_HEIGHT = 24
_COLUMNS = 3
_BACKGROUND, _INK, _FRAME = "white", "black", (255, 48, 48)


@dataclasses.dataclass(frozen=True)
class Cell:
  """One picture of a sheet.

  Attributes:
    label: What stands above it.
    image: uint8 `[H, W, 3]`; all cells of a sheet are of one size.
  """

  label: str
  image: np.ndarray


def sample_cells(samples: np.ndarray, name: str = "") -> list[Cell]:
  """Makes the cells that show a set of samples.

  Args:
    samples: uint8 `[N, H, W, 3]`.
    name: Stands before each label.

  Returns:
    The first two samples, their mean, and their standard deviation at each pixel (averaged over
    channels; its label says what white stands for). Of one sample, itself alone.
  """
  prefix = f"{name} " if name else ""
  if len(samples) == 1:
    return [Cell(f"{prefix}sample", samples[0])]
  mean = np.rint(samples.mean(0)).astype(np.uint8)
  deviation = samples.std(0, dtype=np.float32).mean(-1)
  white = max(float(np.percentile(deviation, 99.5)), 1.0)
  grey = np.rint(np.clip(deviation / white, 0, 1) * 255).astype(np.uint8)
  return [
    Cell(f"{prefix}sample 1", samples[0]),
    Cell(f"{prefix}sample 2", samples[1]),
    Cell(f"{prefix}mean of {len(samples)}", mean),
    Cell(f"{prefix}std (white: {white:.1f} of 255)", np.repeat(grey[..., None], 3, axis=2)),
  ]


def busiest_crop(image: np.ndarray) -> tuple[int, int, int]:
  """Finds where an enlargement shows most: where edges are strongest.

  Args:
    image: uint8 `[H, W, 3]`.

  Returns:
    Top, left and side of a square that an enlargement fills; the middle if there are no edges.
  """
  height, width = image.shape[:2]
  side = min(PANEL // _ZOOM, height, width)
  edges = np.hypot(*np.gradient(image.mean(-1)))
  if not edges.any():
    return (height - side) // 2, (width - side) // 2, side
  sums = uniform_filter(edges, side, mode="constant")
  # The filter's value at c covers [c - side // 2, c - side // 2 + side).
  inner = sums[side // 2 : side // 2 + height - side + 1, side // 2 : side // 2 + width - side + 1]
  top, left = np.unravel_index(np.argmax(inner), inner.shape)
  return int(top), int(left), side


def comparison_sheet(cells: list[Cell], columns: int = _COLUMNS) -> np.ndarray:
  """Draws a sheet: each picture whole, and under it the crop where the first has most edges.

  Args:
    cells: The pictures, row by row.
    columns: Of the sheet.

  Returns:
    uint8 `[H, W, 3]`.
  """
  crop = busiest_crop(cells[0].image)
  height, width = cells[0].image.shape[:2]
  factor = min(PANEL / width, PANEL / height)
  whole = (max(1, round(width * factor)), max(1, round(height * factor)))
  cell_height = _LABEL_HEIGHT + whole[1] + _GAP // 2 + PANEL + _GAP
  columns = min(columns, len(cells))
  rows = -(-len(cells) // columns)
  size = (columns * (PANEL + _GAP) + _GAP, rows * cell_height + _GAP)
  sheet = Image.new("RGB", size, _BACKGROUND)
  draw = ImageDraw.Draw(sheet)
  font = ImageFont.load_default(size=15)
  for number, cell in enumerate(cells):
    row, column = divmod(number, columns)
    x, y = _GAP + column * (PANEL + _GAP), _GAP + row * cell_height
    draw.text((x, y), cell.label, fill=_INK, font=font)
    y += _LABEL_HEIGHT
    sheet.paste(_whole_with_frame(cell.image, whole, crop), (x + (PANEL - whole[0]) // 2, y))
    y += whole[1] + _GAP // 2
    sheet.paste(_enlarged(cell.image, crop), (x, y))
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
