"""Draws the stages of a configuration's model as a picture.

    python -m srflow_jax.diagram --config=configs/x4_da.py --out=x4_da.svg

Each row is a stage, finest first: it runs from what enters it at the left to its latent at the
right, and what its split keeps enters the next row. The kind of picture is that of the file's
ending: svg, pdf or png.
"""

import dataclasses
import itertools
import pathlib
from typing import NamedTuple

import matplotlib.axes
import matplotlib.figure
import matplotlib.patches
import matplotlib.path
from absl import flags
from ml_collections import config_flags

from srflow_jax import cli
from srflow_jax.errors import InputError
from srflow_jax.model.building import build_model
from srflow_jax.model.flow import StageSpec
from srflow_jax.model.kinds import Part, import_plugins
from srflow_jax.model.model import Model
from srflow_jax.model.srflow import SRFlow

_FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A configuration file.", flag_values=_FLAGS
)
_OUT = cli.define_path("out", None, "The picture to write.", _FLAGS)
flags.mark_flags_as_required(["config", "out"], flag_values=_FLAGS)

_ENDINGS = (".svg", ".pdf", ".png")
# Columns, left to right, with their widths in inches; the encoder stands above the steps.
_COLUMNS = {
  "image": 1.5,
  "squeeze": 1.5,
  "transition": 1.9,
  "steps": 2.7,
  "split": 1.4,
  "prior": 1.6,
  "latent": 1.5,
}
_GAP, _ROW, _HEIGHT, _MARGIN = 0.45, 1.55, 0.95, 0.25  # inches
_FEATURES = "#2e7d32"  # the colour of what comes from the encoder
_COLOURS = {
  "image": "#eeeeee",
  "encoder": "#cfe8cf",
  "squeeze": "#dde6f3",
  "transition": "#dde6f3",
  "steps": "#b9cfea",
  "split": "#dde6f3",
  "prior": "#f3dfc1",
  "latent": "#eeeeee",
}


@dataclasses.dataclass(frozen=True)
class Box:
  """One thing of a diagram.

  Attributes:
    role: what it is: image, encoder, squeeze, transition, steps, split, prior or latent.
    title: its first line.
    lines: what stands below it.
    sees_features: whether an arrow leads to it from the encoder.
  """

  role: str
  title: str
  lines: tuple[str, ...] = ()
  sees_features: bool = False


def describe(model: Model) -> list[list[Box]]:
  """The rows of a model's diagram: what is computed of LR, then a row for each stage."""
  encoder = Box("encoder", f"{model.encoder_part.kind} encoder", _settings(model.encoder_part))
  lr = Box("image", "LR image", (f"H/{model.scale} x W/{model.scale} x 3",))
  if not isinstance(model, SRFlow):
    return [[lr, encoder, Box("latent", "super-resolution", ("H x W x 3",))]]
  rows, (channels, downscale) = [[lr, encoder]], model.target.channels_and_downscale(model.scale)
  last, latent = len(model.stage_specs) - 1, 1
  for number, spec in enumerate(model.stage_specs):
    entering = channels
    channels *= spec.squeeze**2
    downscale *= spec.squeeze
    size = _size(downscale)
    enters = Box(
      "image", "target", (model.target.kind, f"{_size(downscale // spec.squeeze)} x {entering}")
    )
    if number > 0:
      before = "kept" if model.stage_specs[number - 1].split else f"from stage {number}"
      enters = Box("image", before, (f"{entering} channels",))
    rows.append([enters, *_stage(spec, size, channels, latent, is_last=number == last)])
    channels = spec.kept_channels(channels)
    latent += spec.split
  return rows


def _size(downscale: int) -> str:
  return f"H/{downscale} x W/{downscale}" if downscale > 1 else "H x W"


def _stage(spec: StageSpec, size: str, channels: int, latent: int, is_last: bool) -> list[Box]:
  row = []
  if spec.squeeze > 1:
    row.append(Box("squeeze", f"squeeze by {spec.squeeze}", (f"{size} x {channels}",)))
  if spec.transition_steps:
    row.append(_steps("transition", "transition step", spec.transition_steps, spec.transition))
  if spec.steps:
    row.append(_steps("steps", "conditional step", spec.steps, spec.step))
  kept = spec.kept_channels(channels)
  if spec.split:
    row.append(Box("split", "split", (f"keeps {kept} of {channels}",)))
  if spec.split or is_last:
    left = channels - kept if spec.split else channels
    row.append(Box("prior", f"{spec.prior.kind} prior", _settings(spec.prior)))
    row.append(Box("latent", f"latent {latent}", (f"{size} x {left}",)))
  return row


def _steps(role: str, name: str, times: int, layers: tuple[Part, ...]) -> Box:
  kinds = [f"{layer.kind}{_inner(layer)}" for layer in layers]
  pairs = itertools.groupby(", ".join(kinds[i : i + 2]) for i in range(0, len(kinds), 2))
  counted = ((pair, sum(1 for _ in equal)) for pair, equal in pairs)
  lines = tuple(pair if count == 1 else f"{count} x ({pair})" for pair, count in counted)
  return Box(role, f"{times} x {name}", lines, sees_features=role == "steps")


def _inner(layer: Part) -> str:
  """The kinds of a layer's own parts, as " (sigmoid)", where they are not the published ones."""
  kinds = []
  for _, value in layer.settings:
    kind, place = getattr(value, "kind", None), getattr(value, "cls", type(value))
    if kind is not None and kind != place.published:
      kinds.append(kind)
  return f" ({', '.join(kinds)})" if kinds else ""


def _settings(part: Part) -> tuple[str, ...]:
  """A part's settings, two a line."""
  texts = [f"{name} {_short(value)}" for name, value in part.settings]
  return tuple(", ".join(texts[i : i + 2]) for i in range(0, len(texts), 2))


def _short(value: object) -> str:
  if isinstance(value, tuple):
    return " ".join(map(_short, value)) or "none"
  if isinstance(value, Part):
    return value.kind
  return str(value)


def draw(rows: list[list[Box]], path: pathlib.Path) -> None:
  """Writes the picture of `describe`'s rows.

  Raises:
    InputError: the file cannot be written, or its ending is of no kind of picture.
  """
  if path.suffix.lower() not in _ENDINGS:
    raise InputError(f"{path}: the ending must be one of {', '.join(_ENDINGS)}")
  width = sum(_COLUMNS.values()) + _GAP * (len(_COLUMNS) - 1) + 2 * _MARGIN
  height = _ROW * len(rows) - (_ROW - _HEIGHT) + 2 * _MARGIN
  figure = matplotlib.figure.Figure(figsize=(width, height))
  axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
  axes.set_axis_off()
  above = None  # the box over the next that sees features
  for number, row in enumerate(rows):
    top = _MARGIN + number * _ROW
    places = [_place(box, top) for box in row]
    for box, place in zip(row, places, strict=True):
      _draw_box(axes, box, place)
      if box.sees_features and above is not None:
        _arrow(axes, [(above.x, above.bottom), (place.x, place.top)], _FEATURES)
      if box.sees_features or box.role == "encoder":
        above = place
    for left, right in itertools.pairwise(places):
      _arrow(axes, [(left.right, left.y), (right.left, right.y)])
    if number + 1 < len(rows) and number > 0:
      leaves = next((p for b, p in zip(row, places, strict=True) if b.role == "split"), places[-1])
      enters = _place(rows[number + 1][0], top + _ROW)
      between = leaves.bottom + (enters.top - leaves.bottom) / 2
      way = [(leaves.x, leaves.bottom), (leaves.x, between)]
      _arrow(axes, [*way, (enters.x, between), (enters.x, enters.top)])
  try:
    figure.savefig(path, dpi=120)
  except OSError as error:
    raise InputError(f"{path}: cannot be written: {error.strerror}") from error


class _Place(NamedTuple):
  """Where a box is, in inches from the top left; x and y are its middle."""

  left: float
  right: float
  top: float
  bottom: float

  @property
  def x(self) -> float:
    return (self.left + self.right) / 2

  @property
  def y(self) -> float:
    return (self.top + self.bottom) / 2


def _place(box: Box, top: float) -> _Place:
  left = _MARGIN
  for column, width in _COLUMNS.items():
    if column == ("steps" if box.role == "encoder" else box.role):
      return _Place(left, left + width, top, top + _HEIGHT)
    left += width + _GAP
  raise ValueError(f"no column for {box.role}")


def _draw_box(axes: matplotlib.axes.Axes, box: Box, place: _Place) -> None:
  edge = _FEATURES if box.sees_features or box.role == "encoder" else "#555555"
  size = place.right - place.left, place.bottom - place.top
  colour = _COLOURS[box.role]
  axes.add_patch(
    matplotlib.patches.FancyBboxPatch(
      (place.left, place.top), *size, boxstyle="round,pad=0,rounding_size=0.08", fc=colour, ec=edge
    )
  )
  lines = len(box.lines)
  # Long or many lines are set smaller: letters of 8 points are about 1/17 of an inch wide.
  step = min(0.2, _HEIGHT / (lines + 1.5))
  longest = max([1, *map(len, box.lines)])
  fontsize = 8 * min(1, 17 * size[0] / longest, step / 0.15)
  y = place.y - step * lines / 2
  axes.text(place.x, y, box.title, ha="center", va="center", fontsize=9.5, fontweight="bold")
  for number, line in enumerate(box.lines, 1):
    axes.text(place.x, y + step * number, line, ha="center", va="center", fontsize=fontsize)


def _arrow(
  axes: matplotlib.axes.Axes, points: list[tuple[float, float]], colour: str = "#555555"
) -> None:
  axes.add_patch(
    matplotlib.patches.FancyArrowPatch(
      path=matplotlib.path.Path(points),
      arrowstyle="-|>",
      mutation_scale=11,
      color=colour,
      fc=colour,
    )
  )


def main(argv: list[str]) -> None:
  """Draws as the flags say."""
  if len(argv) > 1:
    raise InputError(f"unexpected argument: {argv[1]}")
  import_plugins(_CONFIG.value.plugins)
  draw(describe(build_model(_CONFIG.value.model)), pathlib.Path(_OUT.value))


if __name__ == "__main__":
  cli.run(main, _FLAGS)
