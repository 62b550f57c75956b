import math

import numpy as np
import pytest

from srflow_jax.evaluation import metrics


def test_golden_lpips(golden_metrics):
  arrays, values = golden_metrics
  scores = metrics.lpips_scores(arrays["sr"], arrays["gt"])
  np.testing.assert_allclose(scores.per_sample, values["lpips_per_sample"], atol=1e-4)
  assert scores.mean == pytest.approx(values["LPIPS_mean"], abs=1e-4)
  assert scores.global_best == pytest.approx(values["lpips_global_best"], abs=1e-4)
  assert scores.local_best == pytest.approx(values["lpips_local_best"], abs=1e-4)
  assert scores.diversity == pytest.approx(values["diversity_score"], abs=0.01)


def test_golden_psnr_and_ssim(golden_metrics):
  arrays, values = golden_metrics
  hr, samples = arrays["gt"], arrays["sr"]
  lr_psnr = metrics.lr_psnr(samples, hr, int(arrays["scale"]))
  np.testing.assert_allclose(lr_psnr, values["lr_psnr"], atol=0.01)
  psnr = [metrics.psnr(sample, hr) for sample in samples]
  np.testing.assert_allclose(psnr, values["hr_psnr"], atol=0.01)
  ssim = [metrics.ssim(sample, hr) for sample in samples]
  np.testing.assert_allclose(ssim, values["ssim"], atol=1e-4)


def test_lr_psnr_rounds_halves_to_even_as_the_challenge_does():
  """Rows n and n + 1, halved, lie on n + 1/2: the roundings differ by one level there."""
  rows = np.repeat(np.arange(0, 200, 2), 2) + np.tile([0, 1], 100)
  image = np.broadcast_to(rows[:, None, None], (200, 40, 3)).astype(np.uint8)
  even = np.rint(np.arange(0.5, 200, 2)).astype(np.uint8)  # 0, 2, 4, 6 for 0.5, 2.5, 4.5, 6.5
  flat = np.zeros_like(image)
  inner = slice(4, -4)  # the rows whose window does not reach the border
  for rounding, expected in (("half_even", even), ("half_away", even + 1)):
    halved = metrics.shrunk(image, 2, rounding)[inner, 0, 0]
    np.testing.assert_array_equal(halved, expected[inner])
  exact = metrics.psnr(metrics.shrunk(flat, 2), metrics.shrunk(image, 2, "half_even"))
  assert metrics.lr_psnr([flat], image, 2) == [exact]
  assert exact != metrics.psnr(metrics.shrunk(flat, 2), metrics.shrunk(image, 2))


def test_psnr_by_hand():
  a = np.zeros((2, 2, 3), np.uint8)
  b = a.copy()
  b[0, 0, 0] = 6  # one of 12 values: the mean square is 3
  assert metrics.psnr(a, b) == pytest.approx(10 * math.log10(65025 / 3))
  assert metrics.psnr(b, a) == metrics.psnr(a, b)
  assert metrics.psnr(a, a + np.uint8(255)) == 0
  assert metrics.psnr(a, a) == math.inf


def test_diversity_by_hand():
  # Sample means 0.4 and 0.3; the better half of each: (0.2 + 0.1) / 2 = 0.15.
  maps = np.array([[[0.2, 0.6]], [[0.5, 0.1]]])
  scores = metrics.scores_of_maps(maps)
  np.testing.assert_allclose(scores.per_sample, [0.4, 0.3])
  assert scores.mean == pytest.approx(0.35)
  assert scores.global_best == pytest.approx(0.3)
  assert scores.local_best == pytest.approx(0.15)
  assert scores.diversity == pytest.approx(50)


def test_diversity_of_one_sample_and_of_a_perfect_one_is_zero():
  maps = np.random.default_rng(0).random((1, 9, 7), dtype=np.float32)
  assert metrics.scores_of_maps(maps).diversity == 0
  assert metrics.scores_of_maps(np.repeat(maps, 3, 0)).diversity == 0
  assert metrics.scores_of_maps(maps * 0).diversity == 0


def test_to_uint8():
  image = np.array([-0.5, 0, 0.5 / 255, 0.6 / 255, 1.5 / 255, 100.9 / 255, 1, 1.7])
  np.testing.assert_array_equal(metrics.to_uint8(image), [0, 0, 0, 1, 2, 101, 255, 255])
  truncated = metrics.to_uint8(image, "truncate")
  np.testing.assert_array_equal(truncated, [0, 0, 0, 0, 1, 100, 255, 255])
  levels = np.arange(256, dtype=np.uint8)
  np.testing.assert_array_equal(metrics.to_uint8(levels / np.float32(255)), levels)


def test_to_uint8_refuses():
  with pytest.raises(ValueError, match="not finite"):
    metrics.to_uint8(np.array([0.5, np.nan]))
  with pytest.raises(ValueError, match="ceil"):
    metrics.to_uint8(np.zeros(3), "ceil")


def test_floats_and_other_sizes_are_refused():
  image = np.zeros((40, 40, 3), np.uint8)
  for function in (metrics.psnr, metrics.ssim):
    with pytest.raises(ValueError, match="not uint8"):
      function(image / 255, image)
    with pytest.raises(ValueError, match="sizes"):
      function(image[:8], image)


def test_curves_over_the_number_of_samples():
  """By hand: two pixels, three samples."""
  maps = np.array([[[0.4, 0.2]], [[0.1, 0.3]], [[0.3, 0.0]]])
  scores = metrics.scores_of_maps(maps)
  assert scores.per_sample == pytest.approx((0.3, 0.2, 0.15))
  assert scores.mean == pytest.approx(0.65 / 3)
  curves = scores.curves()
  assert curves["global"] == pytest.approx([0.3, 0.2, 0.15])
  assert curves["local"] == pytest.approx([0.3, 0.15, 0.05])
  assert curves["diversity"] == pytest.approx([0, 25, 100 * 0.1 / 0.15])
  assert (curves["global"][-1], curves["diversity"][-1]) == (scores.global_best, scores.diversity)


def test_strips_change_nothing(monkeypatch):
  images = np.random.default_rng(0).integers(0, 256, (2, 75, 40, 3), dtype=np.uint8)

  def measured():
    exact = metrics.psnr(*images), metrics.lr_psnr(images[:1], images[1], 4)
    return *exact, metrics.ssim(*images)

  *whole, ssim = measured()
  monkeypatch.setattr(metrics, "_STRIP", 9)
  *strips, ssim_of_strips = measured()
  assert strips == whole and ssim_of_strips == pytest.approx(ssim, rel=1e-12)
