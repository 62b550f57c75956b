"""Calibration: synthetic posteriors whose faults are known."""

import math

import numpy as np
import pytest

from srflow_jax.evaluation import calibration as cal
from srflow_jax.evaluation import metrics


def posterior(width=1.0, offset=0.0, count=9, size=(300, 68), high_width=None):
  """HR and samples about a smooth image: noise of deviation 12, of samples `width` times that."""
  rng = np.random.default_rng(0)
  mean = 128 + 40 * np.sin(np.arange(size[0]) / 9)[:, None, None]

  def noise(count):
    white = 12 * rng.standard_normal((count, *size, 3))
    if high_width is not None:  # the means of blocks of 4x4 are low, what is left is high
      blocks = white.reshape(count, size[0] // 4, 4, size[1] // 4, 4, 3).mean((2, 4))
      low = blocks.repeat(4, 1).repeat(4, 2)
      return low, white - low
    return white, 0 * white

  (hr_low, hr_high), (low, high) = noise(1), noise(count)
  hr = metrics.to_uint8((mean + hr_low[0] + hr_high[0]) / 255)
  samples = mean + offset + width * low + (high_width or 0) * high
  return metrics.to_uint8(samples / 255), hr


CASES = {
  "calibrated": ({}, "calibrated"),
  "too wide": ({"width": 1.4}, "too wide"),
  "too narrow": ({"width": 0.7}, "too narrow"),
}


@pytest.mark.parametrize("case", CASES)
def test_widths_are_told_apart_in_every_band(case):
  settings, expected = CASES[case]
  width = settings.get("width", 1.0)
  found = cal.calibration(*posterior(**settings), scale=4)
  assert [band.reading for band in found.bands] == [expected] * 5
  for band in found.bands:
    # For samples `width` times as wide, the mean of nine has the error of HR and a ninth of theirs.
    ratio = width * math.sqrt((1 + 1 / 9) / (1 + width**2 / 9))
    assert band.ratio == pytest.approx(ratio, rel=0.04)
    assert sum(band.ranks) == pytest.approx(1) and band.mean_rank == pytest.approx(0.5, abs=0.02)
    assert [nominal for nominal, _ in band.coverage] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    for nominal, actual in band.coverage:
      if expected == "calibrated":
        assert actual == pytest.approx(nominal, abs=0.03)
      else:
        assert (actual > nominal + 0.02) == (expected == "too wide")


def test_a_bias_shows_in_the_band_that_it_is_in():
  found = cal.calibration(*posterior(offset=6.0), scale=4)
  assert [band.reading for band in found.bands] == ["biased", "biased", *["calibrated"] * 3]
  assert found.bands[1].mean_rank < 0.1  # HR lies below nearly all samples


def test_bands_tell_apart_what_lr_says_and_what_it_does_not():
  found = cal.calibration(*posterior(width=1.0, high_width=0.5), scale=4)
  readings = [band.reading for band in found.bands]
  assert readings[1] == "calibrated" and readings[-1] == "too narrow"
  assert found.bands[-1].ratio == pytest.approx(0.5, abs=0.05)


def test_the_energy_score_is_least_for_the_right_width():
  scores = {
    width: cal.calibration(*posterior(width), scale=4).energy_score for width in (0.6, 1.0, 1.5)
  }
  assert scores[1.0] < min(scores[0.6], scores[1.5])
  # In many dimensions distances are what they are on average: sqrt(2) s - sqrt(2) s / 2.
  assert scores[1.0] == pytest.approx(12 / math.sqrt(2), rel=0.02)


def test_values_of_a_small_case_by_hand():
  hr = np.zeros((2, 2, 3), np.uint8)
  samples = np.stack([hr, hr + 2, hr + 4]).astype(np.uint8)
  found = cal.calibration(samples, hr, scale=2)
  everything = found.bands[0]
  assert everything.spread == pytest.approx(math.sqrt(4 / 3 * 4)) and everything.error == 2
  assert everything.ranks == (0.5, 0.5, 0, 0)  # equal to one sample, below the others
  assert everything.mean_rank == pytest.approx(1 / 6)
  assert everything.coverage == [(0.5, 0.5)]
  assert found.energy_score == pytest.approx(2 - (2 + 4 + 2) / 3 / 2)
  assert found.psnr_of_mean == pytest.approx(10 * math.log10(255**2 / 4))
  same = cal.calibration(np.stack([hr, hr]), hr, scale=2)
  assert same.energy_score == 0 and same.psnr_of_mean == math.inf
  assert same.bands[0].ranks == pytest.approx((1 / 3,) * 3) and math.isnan(same.bands[0].ratio)


@pytest.mark.parametrize("scale, edges", [(2, 3), (3, 4), (4, 4), (8, 5)])
def test_bands_are_octaves_about_the_limit_of_lr(scale, edges):
  found = cal.band_edges(scale)
  assert len(found) == edges and found[2] == 1 / (2 * scale) and 0.25 <= found[-1] < 0.5
  images = np.random.default_rng(0).uniform(0, 255, (1, 40, 52)).astype(np.float32)
  whole, *bands = cal._bands(images, found)
  np.testing.assert_allclose(sum(bands), whole, atol=1e-3)


def test_images_are_pooled_with_equal_weight():
  one, other = (cal.calibration(*posterior(width, count=4), scale=4) for width in (0.5, 1.5))
  both = cal.pooled([one, other])
  assert both.energy_score == (one.energy_score + other.energy_score) / 2
  squares = [each.bands[2].spread ** 2 for each in (one, other)]
  assert both.bands[2].spread == pytest.approx(math.sqrt(np.mean(squares)))
  assert both.bands[2].ranks[0] == (one.bands[2].ranks[0] + other.bands[2].ranks[0]) / 2
