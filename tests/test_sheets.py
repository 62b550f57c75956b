import numpy as np
import pytest

from srflow_jax.evaluation import sheets


def test_crop_is_where_there_is_something_to_see():
  side = 96
  image = np.zeros((200, 300, 3), np.uint8)
  assert sheets.busiest_crop(image) == (52, 102, side)
  assert sheets.busiest_crop(image[:20]) == (0, 140, 20)
  image[120:130, 250:260] = 255
  top, left, size = sheets.busiest_crop(image)
  assert size == side
  assert top < 120 and top + side > 130 and left < 250 and left + side > 260
  corner = np.zeros((110, 100, 3), np.uint8)
  corner[-1, -1] = 255
  assert sheets.busiest_crop(corner) == (14, 4, side)


def test_crop_of_a_large_image():
  image = np.zeros((3000, 9000, 3), np.uint8)
  image[2990:, 8900:] = 255
  top, left, side = sheets.busiest_crop(image)
  assert 2885 < top <= 2904 and 8875 < left <= 8904 and side == 96


def test_cells_of_samples():
  samples = np.zeros((4, 40, 50, 3), np.uint8)
  samples[2:] = 100
  cells = list(sheets.sample_cells(samples))
  assert [label for label, _ in cells[:3]] == ["sample 1", "sample 2", "mean of 4"]
  assert (cells[2][1] == 50).all()
  assert cells[3][0] == "std (white: 50.0 of 255)" and (cells[3][1] == 255).all()
  assert [label for label, _ in sheets.sample_cells(samples[:1], "m")] == ["m sample"]


@pytest.mark.parametrize("size", [(40, 300), (9000, 20), (100, 100), (1000, 400)])
@pytest.mark.parametrize("count", [1, 2, 6, 7])
def test_sheet_shows_every_cell(size, count):
  shades = np.linspace(30, 220, count).astype(np.uint8)
  page = sheets.Sheet()
  for i, shade in enumerate(shades):
    page.add(f"cell {i}", np.full((*size, 3), shade))
  sheet = page.draw()
  for shade in shades:
    assert (sheet == shade).all(-1).sum() >= sheets.PANEL**2
