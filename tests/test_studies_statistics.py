"""Intervals and tests, against SciPy, tables, cases made by hand, and simulated studies."""

import math

import numpy as np
import pytest
import scipy.stats

from srflow_jax.studies import statistics
from srflow_jax.studies.statistics import Comparison, Interval, compare


def test_t_intervals_are_scipys_and_the_tables():
  values = np.random.default_rng(0).normal(3, 2, 7)
  found = statistics.t_interval(values)
  expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
  np.testing.assert_allclose(found[1:], expected)
  assert found.mean == pytest.approx(values.mean())
  # Half-widths in standard deviations: 2.48 for three seeds, 1.24 for five.
  for values, factor in (([-1.0, 0.0, 1.0], 2.484), ([-2.0, -1.0, 0.0, 1.0, 2.0], 1.2417)):
    half = statistics.t_interval(values).high
    assert half == pytest.approx(factor * np.std(values, ddof=1), rel=1e-3)
  assert np.isnan(statistics.t_interval([1.0])[1:]).all()


def test_p_values():
  values = [0.1, 0.3, 0.25, -0.05]
  assert statistics.t_p_value(values) == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue)
  assert math.isnan(statistics.t_p_value([1.0]))
  assert statistics.t_p_value([0.0, 0.0]) == 1 and statistics.t_p_value([0.5, 0.5]) == 0


def test_bca_intervals_are_scipys_and_the_same_every_time():
  values = np.random.default_rng(1).exponential(1.0, 30)
  found = statistics.bca_interval(values)
  reference = scipy.stats.bootstrap(
    (values,), np.mean, n_resamples=50_000, rng=np.random.default_rng(7)
  ).confidence_interval
  np.testing.assert_allclose(found[1:], reference, atol=0.01)
  assert found == statistics.bca_interval(values)
  middle = (found.low + found.high) / 2
  assert found.low < found.mean < middle < found.high  # skewed as the values are
  assert np.isnan(statistics.bca_interval([1.0, 1.0])[1:]).all()


def test_bca_intervals_cover_what_they_should():
  """Over 41 images whose differences are skewed: a normal interval would miss more at one side."""
  rng, covered, rounds = np.random.default_rng(2), 0, 100
  for _ in range(rounds):
    found = statistics.bca_interval(rng.exponential(1.0, 41))
    covered += found.low <= 1.0 <= found.high
  assert 0.88 <= covered / rounds <= 0.98


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 x 0.01, then 2 x 0.03, and no less after it
    ([0.5, 0.9], [1.0, 1.0]),
    ([0.02], [0.02]),
    ([], []),
    ([0.01, math.nan, 0.03], [0.02, math.nan, 0.03]),
  ],
)
def test_holm(given, expected):
  np.testing.assert_allclose(statistics.holm(given), expected)


def test_the_least_detectable_difference():
  # One variant of three seeds with standard deviation 1, two degrees of freedom.
  expected = (4.302653 + 1.060660) * math.sqrt(2 / 3)
  assert statistics.least_detectable([[-1.0, 0.0, 1.0]]) == pytest.approx(expected, rel=1e-5)
  pooled = statistics.least_detectable([[-1.0, 0.0, 1.0], [4.0, 5.0, 6.0]])
  assert pooled == pytest.approx((2.776445 + 0.940965) * math.sqrt(2 / 3), rel=1e-5)
  assert math.isnan(statistics.least_detectable([[1.0], []]))


def scores(table):
  return {seed: {f"i{j}": float(v) for j, v in enumerate(row)} for seed, row in enumerate(table)}


def test_comparisons_are_paired_by_seed_and_image():
  rng = np.random.default_rng(3)
  base = rng.normal(27, 3, (3, 12))  # images differ by far more than variants
  better = base + 0.5 + rng.normal(0, 0.01, (3, 12))
  found = compare(scores(base), {"better": scores(better), "same": scores(base + 1e-9)})
  comparison = found["better"]
  assert comparison.over_seeds.mean == pytest.approx(0.5, abs=0.02)
  assert 0.45 < comparison.over_seeds.low < comparison.over_seeds.high < 0.55
  assert 0.48 < comparison.over_images.low < comparison.over_images.high < 0.52
  assert comparison.seeds == 3
  # Significant, but seeds differ by more than that: two variants could not be told apart unpaired.
  assert comparison.p_value < 0.01 and comparison.least > 0.5 and not comparison.called
  by_seed = scores(base - base.mean(1, keepdims=True))
  assert compare(by_seed, {"b": scores(better - base.mean(1, keepdims=True))})["b"].called


def test_what_is_missing_or_not_finite_is_left_out_of_its_pair_alone():
  base = scores(np.arange(12.0).reshape(3, 4))
  lacking = {seed: images for seed, images in scores(np.ones((3, 4))).items() if seed}
  infinite = scores(np.full((3, 4), math.inf))
  found = compare(base, {"lacking": lacking, "infinite": infinite, "none": {}})
  assert found["lacking"].seeds == 2
  assert found["infinite"] is None is found["none"]


@pytest.mark.parametrize("variants", [1, 4])
def test_of_studies_without_a_difference_at_most_six_per_cent_call_one(variants, monkeypatch):
  """2000 studies of three seeds and twenty images; a seed's quality is shared by its images."""
  monkeypatch.setattr(statistics, "bca_interval", lambda d: Interval(float(np.mean(d)), 0, 0))
  rng, studies = np.random.default_rng(4), 2000
  significant = called = 0
  for _ in range(studies):
    images = rng.normal(27, 3, 20)
    tables = [
      images + rng.normal(0, 0.2, (3, 1)) + rng.normal(0, 0.3, (3, 20)) for _ in range(variants + 1)
    ]
    others = {str(i): scores(table) for i, table in enumerate(tables[1:])}
    found: list[Comparison] = list(compare(scores(tables[0]), others).values())
    significant += any(c.p_value < 0.05 for c in found)
    called += any(c.called for c in found)
  assert significant / studies <= 0.06
  assert called / studies <= 0.06


@pytest.mark.parametrize(("variants", "seeds"), [(1, 3), (4, 3), (4, 5)])
def test_a_difference_that_is_shown_in_four_of_five_studies(variants, seeds):
  """The power of a comparison at the first of Holm's steps, by simulation."""
  values = np.linspace(-1, 1, seeds)
  found = statistics.shown_by_test([list(values / np.std(values, ddof=1))] * variants)
  rng, studies = np.random.default_rng(5), 4000
  p_values = scipy.stats.ttest_1samp(rng.normal(found, 1, (studies, seeds)), 0, axis=1).pvalue
  assert np.mean(p_values < 0.05 / variants) == pytest.approx(0.8, abs=0.02)
  assert math.isnan(statistics.shown_by_test([[1.0], []]))
