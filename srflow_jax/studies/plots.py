"""Plots of a study, as PNG files in memory. Bands and bars reach over all seeds."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from srflow_jax.evaluation.plots import draw_plot
from srflow_jax.studies.outcome import METRICS, Metric, StudyResults
from srflow_jax.studies.receptive_field import HIDDEN

_AGAINST = {
  "params_flow": "parameters of the flow",
  "train_flops": "floating-point operations of training",
  "receptive_field": "receptive field, HR pixels a side",
}


def plots(outcome: StudyResults) -> dict[str, bytes]:
  """Draws what there are numbers for.

  Returns:
    By title: each metric of validation against steps; each of the evaluation against parameters,
    operations and receptive field; and the rise of the nll where LR is hidden, against the radius.
  """
  made = {}
  for metric in METRICS:
    curves = {
      name: curve
      for name in outcome.variants
      if (curve := outcome.curves(name, f"validation/{metric.name}"))
    }
    if curves:
      made[f"{metric.heading} of validation against steps"] = draw_plot(
        _against_steps, curves, metric
      )
  for metric in METRICS:
    for against, label in _AGAINST.items():
      points = {
        name: (x, list(values.values()))
        for name in outcome.variants
        if (x := outcome.mean(name, against)) is not None
        and (values := outcome.of_runs(name, metric.name))
      }
      if len({x for x, _ in points.values()}) > 1:
        made[f"{metric.heading} against {label.partition(',')[0]}"] = draw_plot(
          _against, points, metric, label
        )
  for hidden in HIDDEN:
    rises = {n: rise for n in outcome.variants if (rise := outcome.rises(n, hidden))}
    if rises:
      what = "LR" if hidden == "lr" else "LR and HR"
      made[f"Rise of the nll where {what} is hidden beyond a radius"] = draw_plot(
        _against_radius, rises
      )
  return made


def _against_steps(
  axes: Axes, curves: Mapping[str, Mapping[int, Mapping[int, float]]], metric: Metric
) -> None:
  for number, (name, by_seed) in enumerate(curves.items()):
    steps = sorted(set.intersection(*(set(curve) for curve in by_seed.values())))
    values = np.array([[curve[step] for step in steps] for curve in by_seed.values()])
    axes.plot(steps, values.mean(0), f"C{number}o-", markersize=3, label=name)
    axes.fill_between(steps, values.min(0), values.max(0), color=f"C{number}", alpha=0.2)
  axes.set(xlabel="steps", ylabel=_label(metric))


def _against(
  axes: Axes, points: Mapping[str, tuple[float, list[float]]], metric: Metric, label: str
) -> None:
  for number, (name, (x, values)) in enumerate(points.items()):
    axes.plot([x], [np.mean(values)], f"C{number}o", label=name)
    axes.vlines([x], [min(values)], [max(values)], color=f"C{number}")
  axes.set(xlabel=label, ylabel=_label(metric))


def _against_radius(axes: Axes, rises: Mapping[str, Mapping[int, float]]) -> None:
  for number, (name, rise) in enumerate(rises.items()):
    radii = sorted(rise)
    axes.plot(radii, [rise[radius] for radius in radii], f"C{number}o-", label=name)
  axes.set_xscale("symlog", base=2, linthresh=1)
  axes.set(xlabel="radius, LR pixels", ylabel="rise of the nll, bits per pixel")


def _label(metric: Metric) -> str:
  direction = {1: "more", -1: "less"}[metric.better]
  return f"{metric.heading}, {direction} is better"
