import numpy as np
import pytest

from srflow_jax.sampling.tiles import cut, smallest_tile, spans, tiling


@pytest.mark.parametrize(
  "size, count, overlap, multiple",
  [(10, 1, 3, 1), (11, 2, 3, 1), (100, 7, 0, 1), (97, 3, 8, 1), (96, 5, 8, 4), (64, 20, 20, 1)],
)
def test_every_pixel_is_kept_once_from_well_inside_a_tile(size, count, overlap, multiple):
  made = spans(size, count, overlap, multiple)
  kept = [pixel for span in made for pixel in range(span.low, span.high)]
  assert kept == list(range(size)) and len(made) == count
  assert len({span.stop - span.start for span in made}) == 1
  assert made[0].start == 0 and made[-1].stop == size
  for span in made:
    assert span.low == 0 or span.low - span.start >= overlap
    assert span.high == size or span.stop - span.high >= overlap
    assert not any(number % multiple for number in vars(span).values())


def test_signed_tiles_count_every_pixel_once_and_cancel_borders():
  made = cut((40, 96), (2, 5), 8, 2)
  count, borders = np.zeros((40, 96)), np.zeros((40, 97))
  for tile in made.signed_tiles():
    rows, columns = tile.window
    count[rows, columns] += tile.sign
    borders[rows, [columns.start, columns.stop]] += tile.sign
  assert (count == 1).all()
  assert (borders[:, [0, -1]] == 1).all() and (borders[:, 1:-1] == 0).all()
  assert len({tile.size for tile in made.signed_tiles()}) == 4


def test_what_fits_is_one_tile():
  assert len(tiling((40, 60), 2400, 8, 2).tiles) == 1
  assert len(tiling((40, 60), 2399, 8, 2).tiles) > 1


def test_tiles_keep_to_the_most_pixels_and_the_grid():
  for most in (450, 900, 5000):
    made = tiling((128, 256), most, 8, 4)
    assert np.prod(made.size) <= most
    starts = [span.start for span in (*made.rows, *made.columns)]
    assert not any(number % 4 for number in (*made.size, *starts))
  smallest = smallest_tile((128, 256), 8, 4)
  assert smallest < 450 and tiling((128, 256), smallest, 8, 4)
  assert tiling((128, 256), smallest - 1, 8, 4) is None


def test_a_tile_needs_an_inside():
  with pytest.raises(ValueError, match="nothing inside"):
    spans(16, 2, 8)
