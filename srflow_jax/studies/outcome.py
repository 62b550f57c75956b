"""What a study's rows say of each variant: the numbers that tables and plots are made of."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from srflow_jax.model.srflow import SRFlow, SuperResolver
from srflow_jax.studies import receptive_field
from srflow_jax.studies.results import FAILED, SEVERAL, Row
from srflow_jax.studies.statistics import Comparison, Scores, compare
from srflow_jax.studies.study import BICUBIC


class Metric(NamedTuple):
  """A metric of images, as tables show it.

  Attributes:
    name: in the rows.
    heading: in tables.
    form: how a value is written.
    better: 1 if more is better, -1 if less is; 0 if neither.
  """

  name: str
  heading: str
  form: str
  better: int


METRICS = (
  Metric("nll", "nll", "{:.3f}", -1),
  Metric("bits_per_dim", "bits/dim", "{:.3f}", -1),
  Metric("lr_psnr", "LR-PSNR", "{:.2f}", 1),
  Metric("psnr", "PSNR", "{:.2f}", 1),
  Metric("ssim", "SSIM", "{:.4f}", 1),
  Metric("lpips_mean", "LPIPS mean", "{:.3f}", -1),
  Metric("lpips_global", "global", "{:.3f}", -1),
  Metric("lpips_local", "local", "{:.3f}", -1),
  Metric("diversity", "diversity", "{:.2f}", 1),
)

# Of these losses a run has one: a flow's, or that of an encoder alone.
LOSSES = tuple(f"validation/{model.loss_name}" for model in (SRFlow, SuperResolver))
DONE_BY = "psnr"  # every run that was evaluated has it
_SAME_IMAGE = 0.01  # dB of PSNR: far above rounding errors, far below what another image makes


class StudyResults:
  """A study's rows, in order.

  Attributes:
    base: the base's name.
    variants: all variants' names, the base first.
    seeds: of the study.
    rates: the learning rate that each variant is shown with.
  """

  def __init__(
    self, rows: Sequence[Row], record: Mapping[str, Any], common_rate: bool = False
  ) -> None:
    """Takes the rows.

    Args:
      rows: of `runs.csv`.
      record: of `study.json`.
      common_rate: whether all variants are shown with the one learning rate that is best for all
        of them, in place of the best of each.
    """
    self.base: str = record["base_name"]
    self.variants: list[str] = list(record["variants"])
    self.seeds: list[int] = list(record["seeds"])
    self._rows = rows
    self._grid: list[float] = list(record["learning_rates"])
    self._by_key: dict[tuple[str, float, str], list[Row]] = {}
    for row in rows:
      self._by_key.setdefault((row.variant, row.learning_rate, row.metric), []).append(row)
    self._own = {row.variant: row.learning_rate for row in rows if row.variant != BICUBIC}
    losses = {
      name: {rate: self._selection(name, rate) for rate in self._rates(name)}
      for name in self.variants
    }
    self.rates = {name: min(own, key=own.__getitem__) for name, own in losses.items() if own}
    if common_rate and self._grid:
      # A variant that no rate suits has no say.
      able = [own for own in losses.values() if any(map(math.isfinite, own.values()))]
      sums = {rate: sum(own.get(rate, math.inf) for own in able) for rate in self._grid}
      best = min(sums, key=sums.__getitem__)
      self.rates = dict.fromkeys(self.rates, best)

  def _rates(self, name: str) -> list[float]:
    own = [self._own[name]] if name in self._own else []
    return self._grid if self._grid and own else own

  def _selection(self, name: str, rate: float) -> float:
    """The mean over seeds of the last validation loss; infinite if a run failed."""
    if self._by_key.get((name, rate, FAILED)):
      return math.inf
    curves = [curve for loss in LOSSES for curve in self._curves(name, rate, loss).values()]
    last = [max(curve.items())[1] for curve in curves]
    mean = float(np.mean(last)) if last else math.inf
    return mean if math.isfinite(mean) else math.inf

  @property
  def has_grid(self) -> bool:
    """Whether several learning rates were tried."""
    return len(self._grid) > 1

  @property
  def at_edge(self) -> list[str]:
    """The variants whose best learning rate is the least or the largest that was tried."""
    edges = (min(self._grid), max(self._grid)) if self.has_grid else ()
    return [name for name, rate in self.rates.items() if rate in edges]

  @property
  def device(self) -> str | None:
    """The one kind of device that all runs were measured on, None if there are several."""
    kinds = {row.device for row in self._rows}
    return None if len(kinds) != 1 or SEVERAL in (kind := kinds.pop()) else kind

  @property
  def commits(self) -> list[str]:
    """The commits of the code that measured."""
    return list(dict.fromkeys(row.commit for row in self._rows))

  @property
  def images_changed(self) -> list[str]:
    """The images that were not the same for all runs: their bicubic enlargements are not."""
    found: dict[str, list[float]] = {}
    for row in self._rows:
      if (row.variant, row.metric) == (BICUBIC, "psnr"):
        found.setdefault(row.image, []).append(float(row.value))
    return sorted(image for image, values in found.items() if np.ptp(values) > _SAME_IMAGE)

  def failures(self) -> list[Row]:
    """The runs that failed, and why."""
    return [row for row in self._rows if row.metric == FAILED]

  @property
  def not_done(self) -> list[str]:
    """The runs that have neither been evaluated nor failed."""
    ended = {
      (row.variant, row.seed, row.learning_rate)
      for row in self._rows
      if row.metric in (FAILED, DONE_BY)
    }
    return [
      f"{name} (seed {seed})" if rate is None else f"{name} (seed {seed}, rate {rate:g})"
      for seed in self.seeds
      for name in self.variants
      for rate in (self._grid or [None])
      if not any((n, s) == (name, seed) and rate in (None, r) for n, s, r in ended)
    ]

  def of_images(self, name: str, metric: str) -> Scores:
    """A variant's scores, by seed and image."""
    rate = self.rates.get(name, math.nan)
    if name == BICUBIC:  # it is measured beside every run, always alike
      rate = next((row.learning_rate for row in self._rows if row.variant == BICUBIC), math.nan)
    found: Scores = {}
    for row in self._by_key.get((name, rate, metric), ()):
      found.setdefault(row.seed, {})[row.image] = float(row.value)
    return found

  def of_runs(self, name: str, metric: str) -> dict[int, float]:
    """What a variant's runs have but one number of, or a mean over images of, by seed."""
    return {
      seed: float(np.mean(list(images.values())))
      for seed, images in self.of_images(name, metric).items()
    }

  def mean(self, name: str, metric: str) -> float | None:
    """The mean over seeds, and images if there are; None if there is none."""
    values = list(self.of_runs(name, metric).values())
    return float(np.mean(values)) if values else None

  def fastest(self, name: str, metric: str) -> float | None:
    """The median over images of the seed that has the least: other work only adds to times."""
    medians = [np.median(list(by.values())) for by in self.of_images(name, metric).values()]
    return float(min(medians)) if medians else None

  def of_all_rates(self, name: str, metric: str) -> float | None:
    """The least over seeds, summed over all learning rates that were tried: what it took."""
    by_rate = [
      [float(row.value) for row in self._by_key.get((name, rate, metric), ())]
      for rate in self._rates(name)
    ]
    return sum(map(min, by_rate)) if by_rate and all(by_rate) else None

  def curves(self, name: str, metric: str) -> dict[int, dict[int, float]]:
    """What was measured while a variant trained, by seed and step."""
    return self._curves(name, self.rates.get(name, math.nan), metric)

  def _curves(self, name: str, rate: float, metric: str) -> dict[int, dict[int, float]]:
    found: dict[int, dict[int, float]] = {}
    for row in self._by_key.get((name, rate, metric), ()):
      found.setdefault(row.seed, {})[row.step] = float(row.value)
    return found

  def comparisons(self) -> dict[str, dict[str, Comparison | None]]:
    """How each variant differs from the base, by metric and variant."""
    others = [name for name in self.variants if name != self.base]
    return {
      metric.name: compare(
        self.of_images(self.base, metric.name),
        {name: self.of_images(name, metric.name) for name in others},
      )
      for metric in METRICS
    }

  def rises(self, name: str, hidden: str) -> dict[int, float]:
    """The mean rise of a variant's nll where what `hidden` says is hidden, by radius."""
    means = {r: self.mean(name, f"rise_{hidden}/{r}") for r in receptive_field.RADII}
    return {radius: mean for radius, mean in means.items() if mean is not None}
