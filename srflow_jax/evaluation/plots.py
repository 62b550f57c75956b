"""Plots of an evaluation, as PNG files in memory."""

import io
from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from srflow_jax.evaluation.report import printable

_SIZE = 6.0, 4.0  # inches
_DPI = 110


def plots(summary: Mapping[str, Any]) -> dict[str, bytes]:
  """Draws what a summary has numbers for.

  Args:
    summary: As `report.summary` makes it.

  Returns:
    By title: LPIPS against PSNR; diversity against temperature, for several temperatures; LPIPS
    and diversity against the number of samples. LR images alone have no
    scores, and so no plots.
  """
  systems = {
    name: system
    for name, system in summary["systems"].items()
    if system["averages"]["psnr"] is not None
  }
  if not systems:
    return {}
  groups = _groups(summary["models"], systems)
  made = {"LPIPS against PSNR": draw_plot(_lpips_against_psnr, groups)}
  if any(len(group) > 1 for group in groups.values()):
    made["Diversity against temperature"] = draw_plot(_diversity_against_temperature, groups)
  several = {
    name: (styles, systems[name]["curves"])
    for name, styles in _styles(groups).items()
    if len(systems[name]["curves"]["global"]) > 1
  }
  if several:
    for what in ("global", "local", "diversity"):
      heading = "Diversity" if what == "diversity" else f"LPIPS {what}"
      made[f"{heading} over the number of samples"] = draw_plot(_over_samples, several, what)
  return made


# Temperature, name and averages.
Group = list[tuple[float | None, str, Mapping[str, float]]]


def _groups(models: Mapping[str, Any], systems: Mapping[str, Any]) -> dict[str, Group]:
  """The averages by run, each in the order of temperatures; other systems and rows stand alone."""
  groups: dict[str, Group] = {}
  for name, system in systems.items():
    model = models.get(name)
    temperature = model["temperature"] if model else None
    on_line = model and not model.get("made") and isinstance(temperature, int | float)
    group = model["workdir"] if on_line else name
    groups.setdefault(group, []).append((temperature, name, system["averages"]))
  for group in groups.values():
    if len(group) > 1:
      group.sort(key=lambda item: item[0])
  return groups


def _styles(groups: Mapping[str, Group]) -> dict[str, str]:
  """A line for each system, in the colour that its group has in all plots."""
  dashes = ("o-", "s--", "^:", "D-.")
  return {
    name: f"C{number}{dashes[position % len(dashes)]}"
    for number, group in enumerate(groups.values())
    for position, (_, name, _) in enumerate(group)
  }


def _lpips_against_psnr(axes: Axes, groups: Mapping[str, Group]) -> None:
  for number, (name, group) in enumerate(groups.items()):
    x = [averages["psnr"] for _, _, averages in group]
    y = [averages["lpips_mean"] for _, _, averages in group]
    axes.plot(x, y, f"C{number}o-", label=name)
    if len(group) > 1:
      for (temperature, *_), *point in zip(group, x, y, strict=True):
        axes.annotate(f"{temperature:g}", point, xytext=(4, 4), textcoords="offset points")
  axes.set(xlabel="PSNR [dB], more is better", ylabel="LPIPS mean, less is better")


def _diversity_against_temperature(axes: Axes, groups: Mapping[str, Group]) -> None:
  for number, (name, group) in enumerate(groups.items()):
    if len(group) > 1:
      diversity = [averages["diversity"] for _, _, averages in group]
      axes.plot([t for t, _, _ in group], diversity, f"C{number}o-", label=name)
  axes.set(xlabel="temperature", ylabel="diversity [%]")


def _over_samples(axes: Axes, curves: Mapping[str, tuple[str, Any]], what: str) -> None:
  for name, (style, curve) in curves.items():
    axes.plot(range(1, len(curve[what]) + 1), curve[what], style, label=name)
  label = "diversity [%]" if what == "diversity" else f"LPIPS {what}"
  axes.set(xlabel="samples", ylabel=label)
  axes.xaxis.get_major_locator().set_params(integer=True)


def draw_plot(plot: Callable[..., None], *arguments: Any) -> bytes:
  """Draws one plot as a PNG file, `plot(axes, *arguments)`, with a legend at its right."""
  figure = Figure(_SIZE)
  axes: Axes = figure.subplots()
  plot(axes, *arguments)
  axes.grid(alpha=0.3)
  # Labels that are given are shown even if they start with an underscore, and dollar signs in them
  # do not start mathematics.
  labels = [printable(line.get_label()) for line in axes.lines]
  beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
  legend = axes.legend(axes.lines, labels, fontsize="small", **beside)
  for text in legend.get_texts():
    text.set_parse_math(False)
  file = io.BytesIO()
  figure.savefig(file, format="png", dpi=_DPI, bbox_inches="tight")  # as wide as the names
  return file.getvalue()
