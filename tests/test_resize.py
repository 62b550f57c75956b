import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srflow_jax.images import read_image
from srflow_jax.ops import resize

FACTORS = [n for whole in (2, 3, 4, 8, 16) for n in (whole, 1 / whole)]

ROUNDINGS = (resize.MATLAB_ROUNDING, resize.NUMPY_ROUNDING)


def random_image(height, width, seed=0):
  """Half noise, half black and white, so that bicubic overshoots and is clipped."""
  image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
  image[::2] = np.where(image[::2] > 127, 255, 0)
  return image


def test_weights_by_hand():
  # Keys' kernel at 1/4, 3/4, 5/4, 7/4 is 111, 29, -9, -3 in 128ths.
  halved = resize.resize_weights(20, 1 / 2)[4] * 256
  np.testing.assert_allclose(halved[5:13], [-3, -9, 29, 111, 111, 29, -9, -3], atol=1e-12)
  assert np.count_nonzero(halved) == 8
  doubled = resize.resize_weights(20, 2)[10] * 128
  np.testing.assert_allclose(doubled[3:7], [-3, 29, 111, -9], atol=1e-12)
  assert np.count_nonzero(doubled) == 4


def test_border_mirrors_the_edge_pixel_too():
  # The first output of a halving reaches three pixels beyond the border: c b a | a b c d e.
  first = resize.resize_weights(20, 1 / 2)[0] * 256
  np.testing.assert_allclose(first[:5], [111 + 29, 111 - 9, 29 - 3, -9, -3], atol=1e-12)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 50])
def test_weights_sum_to_one_and_are_whole_multiples(size, factor):
  weights = resize.resize_weights(size, factor)
  assert weights.shape == (-(-size * factor // 1), size)
  np.testing.assert_allclose(weights.sum(1), 1, atol=1e-13)
  multiples = weights * resize._denominator(factor)
  np.testing.assert_allclose(multiples, np.rint(multiples), atol=1e-7)


def test_matches_matlab_on_a_photograph(golden_metrics):
  """The golden LR is the challenge's own `imresize` of the golden HR, which rounds as NumPy."""
  arrays, _ = golden_metrics
  lr = resize.bicubic_resize(arrays["gt"], 1 / 4, resize.NUMPY_ROUNDING)
  np.testing.assert_array_equal(lr, arrays["lr"])


def benchmark_files(benchmarks):
  """(HR, LR, scale) of all LR images that MATLAB made of Set5 and Set14."""
  for lr in sorted(benchmarks.glob("set*/LR_x*/*.png")):
    yield lr.parents[1] / "HR" / lr.name, lr, int(lr.parent.name.removeprefix("LR_x"))


def test_the_lr_images_of_the_fields_benchmarks_bit_for_bit(shared):
  """All 48 files, which MATLAB itself wrote, of HR images cropped to multiples of the scale."""
  found = list(benchmark_files(shared / "benchmarks"))
  if not found:
    pytest.skip("the benchmarks' LR images are not here")
  assert len(found) == 48
  halves = 0
  for hr_path, lr_path, scale in found:
    hr = read_image(hr_path)
    hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
    lr = read_image(lr_path)
    np.testing.assert_array_equal(resize.bicubic_resize(hr, 1 / scale), lr, err_msg=str(lr_path))
    halves += (resize.bicubic_resize(hr, 1 / scale, resize.NUMPY_ROUNDING) != lr).any()
  assert halves == 27  # files that the other rounding misses


@pytest.mark.parametrize("factor", FACTORS)
def test_constants_and_ramps(factor):
  constant = np.full((21, 35, 3), 137, np.uint8)
  assert (resize.bicubic_resize(constant, factor) == 137).all()
  ramp = np.broadcast_to(np.arange(400.0)[:, None, None], (400, 5, 3))
  out = resize.bicubic_resize(ramp, factor)[:, 0, 0]
  expected = (np.arange(len(out)) + 0.5) / factor - 0.5
  inner = slice(len(out) // 4, -(len(out) // 4))
  np.testing.assert_allclose(out[inner], expected[inner], atol=1e-9)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_window_is_a_crop_of_the_whole(factor, dtype):
  image = random_image(37, 50).astype(dtype)
  whole = resize.bicubic_resize(image, factor)
  height, width = whole.shape[:2]
  corners = [(0, 0, 1, 1), (height - 1, width - 2, 1, 2), (height // 3, width // 4, 2, 2)]
  for top, left, rows, columns in [*corners, (0, 1, height, width - 1)]:
    window = resize.bicubic_window(image, factor, top, left, rows, columns)
    np.testing.assert_array_equal(window, whole[top : top + rows, left : left + columns])
    assert window.dtype == dtype


def test_window_outside_is_refused():
  with pytest.raises(ValueError, match="leaves the output"):
    resize.bicubic_window(random_image(8, 8), 1 / 2, 0, 0, 5, 4)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("size", [(37, 50), (5, 3)])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_device_equals_host(factor, size, rounding):
  image = random_image(*size)
  device = jax.jit(lambda x: resize.bicubic_resize_on_device(x, factor, rounding))
  batch = np.stack([image, image[::-1]])
  expected = np.stack([resize.bicubic_resize(x, factor, rounding) for x in batch])
  out = device(batch)
  assert out.dtype == np.uint8
  np.testing.assert_array_equal(out, expected)
  # 2e-7 on [0, 1] but for overshoots beyond it, where a float32 is coarser.
  floats = batch.astype(np.float32) / 255
  expected = np.stack([resize.bicubic_resize(x.astype(float), factor) for x in floats])
  np.testing.assert_allclose(device(floats), expected, atol=2e-7, rtol=2e-7)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_rounding_of_halves_on_both_sides(rounding):
  # Rows 0 and 1 of every pair differ by one: a halved constant-in-x image sits on n + 1/2.
  rows = np.repeat(np.arange(0, 200, 2), 2) + np.tile([0, 1], 100)
  image = np.broadcast_to(rows[:, None, None], (200, 200, 3)).astype(np.uint8)
  exact = resize.resize_weights(200, 1 / 2) @ image[:, 0, 0]
  halves = exact % 1 == 0.5
  assert halves.sum() > 50
  expected = {"half_away": np.floor(exact + 0.5), "half_even": np.rint(exact)}[rounding]
  host = resize.bicubic_resize(image, 1 / 2, rounding)
  np.testing.assert_array_equal(host[:, 0, 0], expected)
  device = resize.bicubic_resize_on_device(jnp.asarray(image), 1 / 2, rounding)
  np.testing.assert_array_equal(device, host)


def test_unknown_roundings_are_refused():
  # Unwrapped: while tests run, the annotation refuses it first.
  with pytest.raises(ValueError, match="unknown rounding 'up'"):
    inspect.unwrap(resize._rounded)(np.zeros(1, int), 16, "up")


@pytest.mark.parametrize("factor", [0, -2, 1.5, 2 / 3, 17, 0.01])
def test_other_factors_are_refused(factor):
  with pytest.raises(ValueError, match="resize factor"):
    resize.bicubic_resize(random_image(8, 8), factor)
