import numpy as np
import pytest

from srflow_jax.tiles import spans, tiling


@pytest.mark.parametrize(
  "size, tile, overlap", [(10, 10, 3), (11, 7, 3), (100, 20, 0), (97, 32, 8)]
)
def test_every_pixel_is_kept_once_from_well_inside_a_tile(size, tile, overlap):
  made = spans(size, tile, overlap)
  kept = [pixel for span in made for pixel in range(span.low, span.high)]
  assert kept == list(range(size))
  for span in made:
    assert span.start >= 0 and span.start + min(tile, size) <= size
    assert span.low == 0 or span.low - span.start >= overlap
    assert span.high == size or span.start + tile - span.high >= overlap


def test_what_fits_is_one_tile():
  assert len(tiling((40, 60), 2400, 8, 2).tiles) == 1
  assert len(tiling((40, 60), 2399, 8, 2).tiles) > 1


def test_tiles_keep_to_the_most_pixels_and_the_grid():
  for most in (400, 900, 5000):
    made = tiling((128, 256), most, 8, 4)
    assert np.prod(made.size) <= most
    starts = [span.start for span in (*made.rows, *made.columns)]
    assert not any(number % 4 for number in (*made.size, *starts))
  assert tiling((128, 256), 399, 8, 4) is None


def test_a_tile_needs_an_inside():
  with pytest.raises(ValueError, match="nothing inside"):
    spans(100, 16, 8)
