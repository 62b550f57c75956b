"""The report's section on calibration: tables and plots of what `calibration.py` measures."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from srflow_jax.evaluation.page import Section
from srflow_jax.evaluation.plots import draw_plot

_TEXT = (
  "If samples differ as they should, HR is one more of them: spread over error is 1, HR has every "
  "rank among the samples equally often, and lies in a central interval of them as often as it "
  "should. Below 1, samples differ too little; above, too much; a mean rank far from 0.5 is a "
  "bias. Bands are in cycles per pixel of HR; LR has no frequencies above {limit:g}. Spread, error "
  "and energy score (less is better) are in grey levels."
)


def calibration_section(summary: Mapping[str, Any]) -> Section | None:
  """Makes the section.

  Args:
    summary: As `report.summary` makes it.

  Returns:
    The section; None if no system drew several samples of images whose HR is known.
  """
  systems = summary["systems"]
  found = {name: own["calibration"] for name, own in systems.items() if own.get("calibration")}
  if not found:
    return None
  scores = [["", "energy score", "PSNR of the mean"]]
  for name, own in systems.items():
    if name in found:
      numbers = [f"{found[name][key]:.2f}" for key in ("energy_score", "psnr_of_mean")]
    else:  # one image, which is its own mean
      numbers = ["-", f"{own['averages']['psnr']:.2f}"]
    scores.append([name, *numbers])
  plots = {"Spread over error": draw_plot(_ratios, found)}
  for name, own in found.items():
    plots[f"Ranks of HR among samples: {name}"] = draw_plot(_ranks, own)
    plots[f"Coverage of central intervals: {name}"] = draw_plot(_coverage, own)
  text = _TEXT.format(limit=1 / (2 * summary["scale"]))
  return Section("Calibration", text, [scores, _band_table(found)], plots)


def _band_table(found: Mapping[str, Any]) -> list[list[str]]:
  cells = [
    ["", "band", "spread", "error", "ratio", "mean rank", "outside", "(should be)", "reading"]
  ]
  for name, own in found.items():
    for band in own["bands"]:
      # The widest interval is between the least and the largest sample.
      should, does = band["coverage"][0] if band["coverage"] else (0.0, 0.0)
      numbers = [f"{band[key]:.2f}" for key in ("spread", "error", "ratio", "mean_rank")]
      shares = [f"{100 * (1 - does):.1f} %", f"{100 * (1 - should):.1f} %"]
      cells.append([name, band_name(band), *numbers, *shares, band["reading"]])
  return cells


def band_name(band: Mapping[str, Any]) -> str:
  """What a band of frequency is called."""
  if (band["low"], band["high"]) == (0, 1):
    return "all"
  return f"{band['low']:.3g} to {band['high']:.3g}" if band["high"] < 1 else f"{band['low']:.3g} up"


def _ratios(axes: Axes, found: Mapping[str, Any]) -> None:
  for name, own in found.items():
    names = [band_name(band) for band in own["bands"]]
    axes.plot(names, [band["ratio"] for band in own["bands"]], "o-", label=name)
  axes.axhline(1, color="k", linewidth=0.8, label="calibrated")
  axes.set(xlabel="band [cycles per pixel]", ylabel="spread over error")
  axes.set_ylim(bottom=0)


def _ranks(axes: Axes, own: Mapping[str, Any]) -> None:
  for band in own["bands"]:
    axes.plot(100 * np.asarray(band["ranks"]), "o-", label=band_name(band))
  size = len(own["bands"][0]["ranks"])
  axes.axhline(100 / size, color="k", linewidth=0.8, label="calibrated")
  axes.set(xlabel="samples below HR", ylabel="pixels [%]")
  axes.set_ylim(bottom=0)
  axes.xaxis.get_major_locator().set_params(integer=True)


def _coverage(axes: Axes, own: Mapping[str, Any]) -> None:
  for band in own["bands"]:
    points = [(0.0, 0.0), *band["coverage"][::-1]]
    axes.plot(*(100 * np.asarray(points).T), "o-", label=band_name(band))
  axes.plot([0, 100], [0, 100], "k", linewidth=0.8, label="calibrated")
  axes.set(xlabel="interval should hold HR [%]", ylabel="holds it [%]")
