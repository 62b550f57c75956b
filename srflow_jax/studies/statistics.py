"""Intervals and tests for differences between variants that are paired by seed and by image.

Seeds are few, so their interval is Student's t on paired differences, which is exact for normal
ones; a percentile bootstrap over three seeds would cover 75 % at best. Images are many and their
differences skewed, so theirs is the BCa bootstrap (Efron 1987). Several variants are compared with
one base, so their p-values are Holm's (1979).
"""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

LEVEL = 0.95  # of intervals
POWER = 0.8  # of what counts as detectable
_RESAMPLES = 9999
_BOOTSTRAP_SEED = 0


class Interval(NamedTuple):
  """A mean and its interval; the bounds are NaN where there is none."""

  mean: float
  low: float
  high: float


def t_interval(values: Sequence[float]) -> Interval:
  """Student's interval of a mean; of paired differences, the paired one.

  Args:
    values: finite; of one value there is no interval.
  """
  mean = float(np.mean(values))
  if len(values) < 2:
    return Interval(mean, math.nan, math.nan)
  half = _quantile((1 + LEVEL) / 2, len(values) - 1) * _standard_error(values)
  return Interval(mean, float(mean - half), float(mean + half))


def t_p_value(differences: Sequence[float]) -> float:
  """The two-sided p-value of a mean of zero; NaN for fewer than two differences."""
  if len(differences) < 2:
    return math.nan
  if np.ptp(differences) == 0:  # the statistic would be 0/0 or infinite
    return 1.0 if differences[0] == 0 else 0.0
  t = np.mean(differences) / _standard_error(differences)
  return 2 * float(scipy.special.stdtr(len(differences) - 1, -abs(t)))


def _standard_error(values: Sequence[float]) -> float:
  return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _quantile(share: float, freedom: int) -> float:
  """Of Student's t."""
  return float(scipy.special.stdtrit(freedom, share))


def bca_interval(differences: Sequence[float]) -> Interval:
  """The BCa bootstrap interval of the mean of paired differences over images.

  Args:
    differences: finite; of one value, or of equal ones, there is no interval.
  """
  mean = float(np.mean(differences))
  if len(differences) < 2 or np.ptp(differences) == 0:
    return Interval(mean, math.nan, math.nan)
  with warnings.catch_warnings():
    # Of very few images the interval is degenerate, and its bounds come out as NaN.
    warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
    found = scipy.stats.bootstrap(
      (np.asarray(differences),),
      np.mean,
      confidence_level=LEVEL,
      n_resamples=_RESAMPLES,
      method="BCa",
      vectorized=True,
      rng=np.random.default_rng(_BOOTSTRAP_SEED),
    ).confidence_interval
  return Interval(mean, float(found.low), float(found.high))


def holm(p_values: Sequence[float]) -> list[float]:
  """Holm's adjusted p-values of a family; NaN, for what was not tested, stays and does not count.

  The i-th smallest of m is multiplied by m - i + 1, and none is smaller than those before it.
  """
  adjusted, largest = list(p_values), 0.0
  tested = [i for i, p in enumerate(p_values) if not math.isnan(p)]
  for rank, i in enumerate(sorted(tested, key=lambda i: p_values[i])):
    largest = max(largest, min(1.0, p_values[i] * (len(tested) - rank)))
    adjusted[i] = largest
  return adjusted


def least_detectable(groups: Sequence[Sequence[float]]) -> float:
  """The least difference of two variants' means that so many seeds would show, unpaired.

  That is `(t.975 + t.8) * sd * sqrt(2 / n)`, with the standard deviation over seeds pooled over
  all variants (equal ones are assumed), and the degrees of freedom of that. The study's own runs
  are the pilot. It knows nothing of pairs and of several variants: `shown_by_test` does.

  Args:
    groups: of each variant, its value for each seed.

  Returns:
    The difference; NaN if no variant has two seeds.
  """
  groups = [group for group in groups if len(group) > 1]
  if not groups:
    return math.nan
  freedom = sum(len(group) - 1 for group in groups)
  variance = sum((len(group) - 1) * float(np.var(group, ddof=1)) for group in groups) / freedom
  quantiles = _quantile((1 + LEVEL) / 2, freedom) + _quantile(POWER, freedom)
  seeds = min(len(group) for group in groups)
  return quantiles * math.sqrt(variance * 2 / seeds)


def shown_by_test(differences: Sequence[Sequence[float]]) -> float:
  """The mean difference that the paired test would find in four of five such studies.

  A t test of n paired differences at 5 % over m variants (Holm's first step: 5 % / m) finds a mean
  `delta` with the power of the noncentral t distribution at `delta sqrt(n) / sd`, with n - 1
  degrees of freedom. The standard deviation is pooled over the variants.

  Args:
    differences: of each variant, over seeds.

  Returns:
    The difference; NaN if no variant has two seeds.
  """
  groups = [group for group in differences if len(group) > 1]
  if not groups:
    return math.nan
  seeds = min(len(group) for group in groups)
  weights = [len(group) - 1 for group in groups]
  variance = float(np.average([np.var(group, ddof=1) for group in groups], weights=weights))
  critical = _quantile(1 - (1 - LEVEL) / 2 / len(groups), seeds - 1)

  def lacks(noncentrality: float) -> float:
    return POWER - float(scipy.stats.nct.sf(critical, seeds - 1, noncentrality))

  largest = 10 * critical  # there the power is nearly one, however few the seeds
  found = scipy.optimize.root_scalar(lacks, bracket=(0.0, largest))
  return float(found.root) * math.sqrt(variance / seeds)


class Comparison(NamedTuple):
  """How a variant differs from the base in one metric: variant less base.

  Attributes:
    seeds: how many seeds both have.
    over_seeds: the mean difference and its t interval.
    over_images: the same mean, over images, with its BCa interval.
    p_value: Holm's, over the variants of the study.
    least: the least detectable difference.
    shown: what the test would find in four of five studies, see `shown_by_test`.
  """

  seeds: int
  over_seeds: Interval
  over_images: Interval
  p_value: float
  least: float
  shown: float

  @property
  def called(self) -> bool:
    """Whether it counts as a difference: significant, and beyond what could be detected."""
    return self.p_value < 1 - LEVEL and abs(self.over_seeds.mean) > self.least


Scores = dict[int, dict[str, float]]  # by seed and image


def compare(base: Scores, variants: dict[str, Scores]) -> dict[str, Comparison | None]:
  """Compares variants with the base in one metric.

  Args:
    base: the base's scores.
    variants: each variant's, of the same seeds and images; those that one of a pair lacks, since a
      run failed, are left out of that pair.

  Returns:
    By variant; None where nothing is common, or a score is not finite.
  """
  groups = [_means(scores) for scores in (base, *variants.values())]
  least = least_detectable([g for g in groups if np.isfinite(g).all()])
  found: dict[str, Comparison | None] = {}
  by_seeds = []
  for name, scores in variants.items():
    seeds = sorted(base.keys() & scores.keys())
    common = [base[s].keys() & scores[s].keys() for s in seeds]
    images = sorted(set.intersection(*common)) if common else []
    table = np.array([[scores[s][i] - base[s][i] for i in images] for s in seeds])
    if not table.size or not np.isfinite(table).all():
      found[name] = None
      continue
    by_seed = table.mean(1)
    by_seeds.append(by_seed)
    found[name] = Comparison(
      len(seeds),
      t_interval(by_seed),
      bca_interval(table.mean(0)),
      t_p_value(by_seed),
      least,
      math.nan,
    )
  there = {name: c for name, c in found.items() if c is not None}
  adjusted = holm([c.p_value for c in there.values()])
  shown = shown_by_test(by_seeds)
  for (name, comparison), p_value in zip(there.items(), adjusted, strict=True):
    found[name] = comparison._replace(p_value=p_value, shown=shown)
  return found


def _means(scores: Scores) -> list[float]:
  """The mean over images of each seed."""
  return [float(np.mean(list(images.values()))) for images in scores.values()]
