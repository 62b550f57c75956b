"""The tables of a study's report, as cells of text."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from srflow_jax.evaluation.report import human_count, human_seconds
from srflow_jax.studies.outcome import DONE_BY, METRICS, Metric, StudyResults
from srflow_jax.studies.receptive_field import HIDDEN, RADII, radius_reached
from srflow_jax.studies.statistics import Comparison, Interval, t_interval
from srflow_jax.studies.study import BICUBIC

Comparisons = Mapping[str, Mapping[str, Comparison | None]]


class Table(NamedTuple):
  """A table.

  Attributes:
    title: what stands above it.
    cells: its lines, the heading first.
    styles: "bold" or "italic", by line and column.
    note: what stands under it.
  """

  title: str
  cells: list[list[str]]
  styles: Mapping[tuple[int, int], str]
  note: str


def results(
  outcome: StudyResults, comparisons: Comparisons, record: Mapping[str, Any], title: str = "Results"
) -> Table:
  """Means of all variants with 95 % intervals, in the columns of the published tables."""
  scale = next(iter(record["variants"].values()))["model"]["scale"]
  heading = [f"x{scale}", "Params", "FLOPs", "train time", "time"]
  heading += [metric.heading for metric in METRICS] + ["skipped", "rolled back", "broken"]
  cells, styles = [heading], {}
  names = [BICUBIC] * bool(outcome.of_images(BICUBIC, "psnr")) + outcome.variants
  for line, name in enumerate(names, start=1):
    params = outcome.mean(name, "params_flow")
    cells.append(
      [
        name if name == BICUBIC else _with_seeds(outcome, name),
        human_count(None if params is None else round(params)),
        _written(outcome.of_all_rates(name, "train_flops"), "{:.2e}"),
        human_seconds(outcome.of_all_rates(name, "train_seconds") if outcome.device else None),
        _written(outcome.fastest(name, "time") if outcome.device else None, "{:.2f}s"),
        *(_mean(outcome.of_runs(name, metric.name), metric.form, name) for metric in METRICS),
        _written(outcome.mean(name, "skipped"), "{:g}"),
        _rolled_back(outcome, name),
        _percent(outcome.mean(name, "broken_samples")),
      ]
    )
    for column, metric in enumerate(METRICS, start=5):
      style = _style(metric, comparisons.get(metric.name, {}).get(name))
      if style:
        styles[line, column] = style
  return Table(title, cells, styles, _note(outcome, record))


def _style(metric: Metric, comparison: Comparison | None) -> str:
  """Bold for what is better than the base, italic for what is worse, if it is called so."""
  if comparison is None or not comparison.called:
    return ""
  return "bold" if metric.better * comparison.over_seeds.mean > 0 else "italic"


def _with_seeds(outcome: StudyResults, name: str) -> str:
  """A variant's name, and how many of its seeds there are if they are not all."""
  seeds = len(outcome.of_runs(name, DONE_BY))
  return name if seeds == len(outcome.seeds) else f"{name} ({seeds} of {len(outcome.seeds)} seeds)"


def _mean(by_seed: Mapping[int, float], form: str, name: str) -> str:
  """A mean over seeds, and the half-width of its interval."""
  if not by_seed:
    return "-"
  interval = t_interval(list(by_seed.values()))
  written = _written(interval.mean, form)
  if name == BICUBIC or math.isnan(interval.high):
    return written
  return f"{written} ± {form.format(interval.high - interval.mean)}"


def _rolled_back(outcome: StudyResults, name: str) -> str:
  """How many runs went back to an earlier checkpoint with a lower rate."""
  factors = outcome.of_runs(name, "rate_factor").values()
  return str(sum(factor < 1 for factor in factors)) if factors else "-"


def _percent(share: float | None) -> str:
  return _written(None if share is None else 100 * share, "{:.1f} %")


def _note(outcome: StudyResults, record: Mapping[str, Any]) -> str:
  evaluation = record["evaluation"]
  times = (
    f"Times are medians over steps and images, of the fastest seed, on {outcome.device}."
    if outcome.device
    else "Runs were on several kinds of devices, so times are not compared."
  )
  rates = " FLOPs and train time are those of all learning rates together." * outcome.has_grid
  noises = {name: json.dumps(c["data"]["noise"]) for name, c in record["variants"].items()}
  others = [name for name, noise in noises.items() if noise != noises[outcome.base]]
  noise = (
    f" nll and bits/dim are of images without noise, and {', '.join(others)} "
    f"trained with another noise than {outcome.base}: part of their difference is that."
  ) * bool(others)
  changed = (
    f" The evaluation's images were not the same for all runs: {', '.join(outcome.images_changed)}."
  ) * bool(outcome.images_changed)
  left = f" Not done yet: {', '.join(outcome.not_done)}." * bool(outcome.not_done)
  commits = ", ".join(outcome.commits) or "-"
  several = " (several: their code may differ)" * (len(outcome.commits) > 1)
  return (
    f"Means over {len(outcome.seeds)} seeds and all images, ± half the 95 % t interval over seeds; "
    f"{evaluation['num_samples']} samples at temperature {evaluation['temperature']:g}. "
    f"Bold is better than {outcome.base}, italic is worse: significant at 5 % (t over paired "
    "seeds, Holm over variants) and beyond the least detectable difference. All else is not told "
    "apart. Params are the flow's, FLOPs those of training, time is of one sample with its "
    "context; skipped steps a run, runs that were rolled back, and samples that are broken (a "
    f"value not finite or outside [-1, 2]). {times}{rates}{noise}{changed}{left} Code of "
    f"commit {commits}{several}."
  )


def differences(outcome: StudyResults, comparisons: Comparisons) -> Table:
  """Each variant less the base, in each metric, with intervals."""
  heading = ["metric", "variant", "seeds", "difference", "95 % over seeds", "95 % over images"]
  cells, styles = [[*heading, "p (Holm)", "least detectable", "shown in 4 of 5 studies"]], {}
  lost = []
  for metric in METRICS:
    for name, found in comparisons[metric.name].items():
      if found is None:
        lost.append(f"{metric.heading} of {name}")
        continue
      form = metric.form.replace(":", ":+")
      cells.append(
        [
          metric.heading,
          name,
          str(found.seeds),
          form.format(found.over_seeds.mean),
          _interval(found.over_seeds, form),
          _interval(found.over_images, form),
          _written(found.p_value, "{:.3f}"),
          _written(found.least, metric.form),
          _written(found.shown, metric.form),
        ]
      )
      if style := _style(metric, found):
        styles[len(cells) - 1, 3] = style
  return Table(
    f"Differences from {outcome.base}",
    cells,
    styles,
    "Over seeds: Student's t on paired differences. Over images: BCa bootstrap of their mean over "
    "seeds; it says how far other images could differ, not other seeds. The intervals are each "
    "of one comparison, the p-values of all variants together, so an interval may leave zero out "
    "where p is above 0.05. Least detectable: of two variants, unpaired, with these runs as the "
    "pilot. Shown in 4 of 5 studies: so large must a difference be for this very test, with these "
    "seeds and variants, to find it four times in five."
    + f" Not compared, for want of a common seed or of finite values: {', '.join(lost)}."
    * bool(lost),
  )


def receptive_fields(outcome: StudyResults) -> Table | None:
  """What places of the flow depend on, in pixels and in bits; None if nothing is known."""
  stages = [
    metric
    for metric in (*(f"receptive_field_{i}" for i in range(1, 17)), "receptive_field")
    if any(outcome.mean(name, metric) is not None for name in outcome.variants)
  ]
  hidden = [h for h in HIDDEN if any(outcome.rises(name, h) for name in outcome.variants)]
  if not stages and not hidden:
    return None
  heading = ["variant"]
  heading += [
    f"stage {m.rpartition('_')[2]}" if m[-1].isdecimal() else "all stages" for m in stages
  ]
  heading += [f"{_HIDDEN_NAMES[h]}: {what}" for h in hidden for what in ("95 % radius", "gain")]
  cells = [heading]
  for name in outcome.variants:
    line = [name, *(_written(outcome.mean(name, metric), "{:.0f}") for metric in stages)]
    for each in hidden:
      rise = outcome.rises(name, each)
      gains = outcome.of_runs(name, f"rise_{each}/{RADII[0]}").values()
      is_gain = all(gain >= _LEAST_GAIN for gain in gains)
      line.append(_written(radius_reached(rise) if is_gain else None, "{:g}"))
      line.append(_written(rise[min(rise)] if rise else None, "{:.3f}"))
    cells.append(line)
  return Table(
    "Receptive field",
    cells,
    {},
    "Sides in HR pixels of what a place of a stage depends on, by the architecture of the flow "
    "(the encoder sees further). Radii in LR "
    "pixels within which 95 % of the gain is reached: that is by how much the nll of an image's "
    "middle, in bits per pixel, falls from showing the model nothing beyond the middle to all. "
    f"There is no radius where it falls by less than {_LEAST_GAIN:g} for any of the seeds.",
  )


# Less is written as 0.000. Rounding moves an nll by some 2e-6, a tenth of 5 % of this.
_LEAST_GAIN = 0.0005
_HIDDEN_NAMES = {"lr": "LR", "lr_and_kept": "LR and HR"}


def degraded(outcome: StudyResults, kinds: list[str]) -> Table | None:
  """How samples fare on LR images unlike those of training; None if it was not measured."""
  if not kinds:
    return None
  places = {"": "as trained"} | {f"{kind}/": kind for kind in kinds}
  heading = ["variant"]
  for where in places.values():
    heading += [f"{where}: broken samples", f"{where}: worst inverse factor"]
  cells = [heading]
  for name in outcome.variants:
    images = {
      image
      for kind in kinds
      for by_image in outcome.of_images(name, f"{kind}/broken_samples").values()
      for image in by_image
    }
    line = [name]
    for prefix in places:
      shares = _of_some(outcome, name, f"{prefix}broken_samples", images)
      factors = _of_some(outcome, name, f"{prefix}largest_map_factor", images)
      line.append(_percent(float(np.mean(shares)) if shares else None))
      line.append(_worst(factors))
    cells.append(line)
  return Table(
    "LR images unlike those of training",
    cells,
    {},
    "All are of the same images, the first of the evaluation. Broken samples have a value that "
    "is not finite or outside [-1, 2], where 1 is white. The worst inverse factor is what the "
    "inverse of one elementwise map multiplies errors by at most, where the flow encodes the HR "
    "image given that LR image. " + " ".join(_DEGRADED[kind] for kind in kinds),
  )


def _of_some(outcome: StudyResults, name: str, metric: str, images: Collection[str]) -> list[float]:
  """A metric's values of some images, over all seeds."""
  return [
    value
    for by_image in outcome.of_images(name, metric).values()
    for image, value in by_image.items()
    if image in images
  ]


def _worst(factors: Sequence[float]) -> str:
  """The largest; a value that is not finite is worse than any."""
  if not factors:
    return "-"
  return f"{max(factors):.3g}" if np.isfinite(factors).all() else "not finite"


_DEGRADED = {
  "jpeg20": "jpeg20: LR as a JPEG of quality 20.",
  "noise10": "noise10: LR with Gaussian noise of 10 grey levels.",
}


def failures(outcome: StudyResults) -> Table | None:
  """The runs that failed; None if none did."""
  rows = outcome.failures()
  if not rows:
    return None
  cells = [["variant", "seed", "learning rate", "step", "why"]]
  cells += [
    [row.variant, str(row.seed), f"{row.learning_rate:g}", str(row.step), str(row.value)]
    for row in rows
  ]
  return Table("Failed runs", cells, {}, "Where a run failed, its seed is left out of its pairs.")


def learning_rates(outcome: StudyResults) -> Table | None:
  """Which learning rate each variant is shown with; None if but one was tried."""
  if not outcome.has_grid:
    return None
  cells = [["variant", "best learning rate"]]
  cells += [[name, f"{rate:g}"] for name, rate in outcome.rates.items()]
  edge = (
    f" At the edge of what was tried, so that a rate beyond it may be better: "
    f"{', '.join(outcome.at_edge)}."
  ) * bool(outcome.at_edge)
  note = f"The best by the last validation loss, over all seeds.{edge}"
  return Table("Learning rates", cells, {}, note)


def _written(value: float | None, form: str) -> str:
  return "-" if value is None or math.isnan(value) else form.format(value)


def _interval(interval: Interval, form: str) -> str:
  if math.isnan(interval.low):
    return "-"
  return f"[{form.format(interval.low)}, {form.format(interval.high)}]"
