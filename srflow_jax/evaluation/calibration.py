"""Whether samples differ as much as they should: HR against the samples, by band of frequency.

If samples come from the right posterior, HR is one more sample of it. Then, for N samples,

* the mean squared error of their mean is `(1 + 1/N)` times their variance (V. Fortin et al., "Why
  Should Ensemble Spread Match the RMSE of the Ensemble Mean?", 2014);
* the rank of HR among them is uniform on 0, ..., N (T. Hamill, "Interpretation of Rank Histograms
  for Verifying Ensemble Forecasts", 2001), so the interval from the k-th smallest to the k-th
  largest sample holds HR with probability `(N + 1 - 2k) / (N + 1)`.

Samples that differ too little have more error than spread, and HR lies outside them too often, at
ranks 0 and N; samples that differ too much, the reverse. Ranks that lean to one side tell a bias.

Both are looked at pixel by pixel after a filter for a band, since LR says nearly all of the low
frequencies of HR and nothing of the high ones. Neighbouring pixels are not independent, so the
histograms are no test of significance.

The energy score sums up the whole posterior in one number, less being better (T. Gneiting and
A. Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation", 2007); for few samples in
the fair form of C. Ferro, "Fair scores for ensemble forecasts", 2014.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.fft

MIN_SAMPLES = 2  # for a variance

_BLOCK = 256  # pixels a side, at most, of what is filtered at a time
_BIASED = 0.1  # of the mean rank from 1/2
_AS_LARGE = 0.1  # by how much spread over error may differ from 1


@dataclasses.dataclass(frozen=True)
class Band:
  """HR against samples, in a band of frequency; all values of an image's pixels and channels.

  Attributes:
    low: Cycles per pixel of HR, along whatever direction.
    high: The first that are not in the band; 1 where the band has no end.
    spread: Grey levels: the root of `(1 + 1/N)` times the mean variance of the samples.
    error: Grey levels: the root mean square of HR less the samples' mean.
    ranks: The shares of values at which 0, 1, ..., N samples lie below HR. Where samples equal it
      the value counts for the ranks that it may have in equal parts.
  """

  low: float
  high: float
  spread: float
  error: float
  ranks: tuple[float, ...]

  @property
  def ratio(self) -> float:
    """Spread over error, 1 if samples differ as they should; NaN if both are 0."""
    if self.error:
      return self.spread / self.error
    return math.inf if self.spread else math.nan

  @property
  def mean_rank(self) -> float:
    """From 0, where HR is below all samples, to 1, where it is above them; 1/2 without bias."""
    count = len(self.ranks) - 1
    return sum(rank * share for rank, share in enumerate(self.ranks)) / count

  @property
  def coverage(self) -> list[tuple[float, float]]:
    """Of central intervals, the widest first: how often HR should lie inside, and does."""
    size = len(self.ranks)
    return [
      ((size - 2 * k) / size, sum(self.ranks[k : size - k])) for k in range(1, (size + 1) // 2)
    ]

  @property
  def reading(self) -> str:
    """In a word or two; "biased" says nothing of the width, which a bias makes look too narrow."""
    if abs(self.mean_rank - 0.5) > _BIASED:
      return "biased"
    if abs(self.ratio - 1) <= _AS_LARGE:
      return "calibrated"
    return "too narrow" if self.ratio < 1 else "too wide"

  def to_dict(self) -> dict[str, Any]:
    """All of it, for JSON."""
    derived = ("ratio", "mean_rank", "coverage", "reading")
    return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}


@dataclasses.dataclass(frozen=True)
class Calibration:
  """How the samples of an image, or of several, go together with HR.

  Attributes:
    energy_score: Grey levels: `mean_i |x_i - hr| - mean_{i<j} |x_i - x_j| / 2`, where `|.|` is the
      root mean square over all values.
    psnr_of_mean: dB, of the samples' mean before it is rounded.
    bands: All frequencies first, then bands from low to high.
  """

  energy_score: float
  psnr_of_mean: float
  bands: tuple[Band, ...]

  def to_dict(self) -> dict[str, Any]:
    """All of it, for JSON."""
    return dataclasses.asdict(self) | {"bands": [band.to_dict() for band in self.bands]}


def band_edges(scale: int) -> list[float]:
  """Where bands begin, in cycles per pixel of HR: octaves about LR's limit, 1 / (2 * scale)."""
  edges = [0.0, 1 / (4 * scale)]
  while 2 * edges[-1] < 0.5:
    edges.append(2 * edges[-1])
  return edges


def calibration(samples: np.ndarray, hr: np.ndarray, scale: int) -> Calibration:
  """Compares HR with samples.

  Args:
    samples: uint8 `[N, H, W, 3]`, N at least 2.
    hr: uint8 `[H, W, 3]`.
    scale: By how much HR is larger than LR.

  Returns:
    The calibration of this image.
  """
  count, edges = len(samples), band_edges(scale)
  limits = [(0.0, 1.0), *itertools.pairwise([*edges, 1.0])]
  squares = np.zeros((len(limits), 2))
  ranks = np.zeros((len(limits), count + 1))
  gram = np.zeros((count + 1, count + 1))
  for window in _blocks(hr.shape[:2]):
    for channel in range(hr.shape[2]):
      both = np.stack([hr[..., channel][window], *samples[..., channel][:, *window]])
      levels = both.astype(np.float32)
      flat = levels.reshape(count + 1, -1).astype(np.float64)
      gram += flat @ flat.T
      for number, filtered in enumerate(_bands(levels, edges)):
        _add(filtered, squares[number], ranks[number])
  variances, errors = (squares / hr.size).T
  bands = [
    Band(low, high, math.sqrt((1 + 1 / count) * variance), math.sqrt(error), tuple(shares.tolist()))
    for (low, high), variance, error, shares in zip(
      limits, variances, errors, ranks / hr.size, strict=True
    )
  ]
  return Calibration(_energy_score(gram / hr.size), _psnr(errors[0]), tuple(bands))


def pooled(calibrations: Sequence[Calibration]) -> Calibration:
  """Averages images, of as many samples each: scores, PSNR, squares and ranks, all alike."""
  bands = []
  for own in zip(*(each.bands for each in calibrations), strict=True):
    spread, error = (
      math.sqrt(np.mean([getattr(band, name) ** 2 for band in own])) for name in ("spread", "error")
    )
    ranks = np.mean([band.ranks for band in own], 0)
    bands.append(Band(own[0].low, own[0].high, spread, error, tuple(ranks.tolist())))
  return Calibration(
    float(np.mean([each.energy_score for each in calibrations])),
    float(np.mean([each.psnr_of_mean for each in calibrations])),
    tuple(bands),
  )


def _blocks(size: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
  """Windows that cover an image once, as equal as can be."""
  axes = []
  for side in size:
    cuts = np.linspace(0, side, -(-side // _BLOCK) + 1).astype(int).tolist()
    axes.append([slice(*pair) for pair in itertools.pairwise(cuts)])
  yield from itertools.product(*axes)


def _bands(images: np.ndarray, edges: Sequence[float]) -> Iterator[np.ndarray]:
  """Images `[N, h, w]`, then as they are in each band."""
  yield images
  cosines = scipy.fft.dctn(images, axes=(1, 2), norm="ortho")
  # The k-th cosine of n pixels has k / 2 periods along them.
  rows, columns = (np.arange(side) / (2 * side) for side in images.shape[1:])
  frequency = np.hypot(rows[:, None], columns)
  for low, high in itertools.pairwise([*edges, 1.0]):
    inside = (low <= frequency) & (frequency < high)
    yield scipy.fft.idctn(cosines * inside.astype(np.float32), axes=(1, 2), norm="ortho")


def _add(images: np.ndarray, squares: np.ndarray, ranks: np.ndarray) -> None:
  """Adds HR, the first of `[N + 1, h, w]`, against the rest to sums of squares and to ranks."""
  hr, samples = images[0], images[1:]
  count = len(samples)
  squares += (
    samples.var(0, ddof=1, dtype=np.float64).sum(),
    np.square(hr - samples.mean(0, dtype=np.float64)).sum(),
  )
  below, equal = (samples < hr).sum(0), (samples == hr).sum(0)
  pairs = np.bincount((below * (count + 1) + equal).ravel(), minlength=(count + 1) ** 2)
  for (low, ties), number in np.ndenumerate(pairs.reshape(count + 1, count + 1)):
    if number:
      ranks[low : low + ties + 1] += number / (ties + 1)


def _energy_score(gram: np.ndarray) -> float:
  """The score from the mean products of HR, which comes first, and samples."""
  norms = np.diag(gram)
  distances = np.sqrt(np.maximum(norms[:, None] + norms - 2 * gram, 0))
  count = len(gram) - 1
  return float(distances[0, 1:].mean() - distances[1:, 1:].sum() / (2 * count * (count - 1)))


def _psnr(mean_square: float) -> float:
  return 10 * math.log10(255**2 / mean_square) if mean_square else math.inf
