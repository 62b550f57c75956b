"""Searches the temperatures of a run's levels on its training images."""

import dataclasses
import itertools
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from tqdm import tqdm

from srflow_jax.checkpoints import Run
from srflow_jax.data.sources import open_source
from srflow_jax.errors import InputError
from srflow_jax.evaluation import folder, metrics
from srflow_jax.evaluation.drawing import draw
from srflow_jax.evaluation.evaluator import Settings, request_of
from srflow_jax.evaluation.frontier import Point, best, frontier, hypervolume
from srflow_jax.evaluation.inputs import find_images
from srflow_jax.evaluation.lpips import MIN_SIZE
from srflow_jax.evaluation.outcome import Outcome
from srflow_jax.evaluation.plots import draw_plot
from srflow_jax.evaluation.recipes import Recipe
from srflow_jax.evaluation.report import markdown_table, printable, strict_json, write_text
from srflow_jax.evaluation.systems import Bicubic, System, Trained
from srflow_jax.files import write_whole
from srflow_jax.runs import ChosenTemperature, write_temperature
from srflow_jax.sampling.sampler import Sampler, Seconds
from srflow_jax.sampling.temperatures import Temperature, temperature_text
from srflow_jax.weights import named

MAX_IMAGES = 8  # evenly chosen of those that there are
CROP = 192  # pixels of HR a side, at most, about the middle of an image
_LOWEST, _HIGHEST = 0.5, 1.0
_VALUES = {1: 11, 2: 6, 3: 4}  # of each level's temperature, by the number of levels; else 3

Images = Sequence[tuple[np.ndarray, np.ndarray]]


def temperature_grid(num_levels: int) -> list[Temperature]:
  """All temperatures that are tried for a model with so many latents."""
  values = np.linspace(_LOWEST, _HIGHEST, _VALUES.get(num_levels, 3)).round(2).tolist()
  if num_levels == 1:
    return values
  return list(itertools.product(values, repeat=num_levels))


def search_temperatures(
  workdir: str, run: Run, hr_dir: str, output_dir: str, settings: Settings, sampler: Sampler
) -> Outcome:
  """Measures a grid of temperatures, and notes the best in the run's folder.

  Args:
    workdir: The run's folder, or a name of `weights.named`: there nothing is noted.
    run: The run.
    hr_dir: Folder of HR images; '' for those that the run was trained on, or for a name the
      photographs that scikit-image ships for training.
    output_dir: Where plots and numbers are written; '' for `search` in the workdir.
    settings: How samples are drawn, but for the temperature.
    sampler: Of the run.

  Returns:
    What to tell: the frontier as a table, the choice, and where the files are.

  Raises:
    InputError: The model draws no samples, there is one sample and so no diversity, a name is given
      without a folder to write to, or images cannot be used.
  """
  is_named = workdir in named.FINDERS
  if not run.model.stochastic:
    raise InputError(f"{workdir}: an encoder alone has no temperatures to search")
  if settings.num_samples < 2:
    raise InputError(f"num_samples is {settings.num_samples}: a search for diversity needs 2")
  if is_named and not output_dir:
    raise InputError(f"{workdir} is no folder to write to: give --output_dir")
  output = pathlib.Path(output_dir or pathlib.Path(workdir, "search"))
  scale = int(run.config.model.scale)
  folder.check_apart(output, hr_dir)
  images = list(_images(run, hr_dir, scale, [output, workdir]))
  system = Trained(pathlib.Path(workdir).resolve().name, sampler)
  grid = temperature_grid(run.model.num_latents)
  with folder.locked(output):
    pixels = sum(hr[..., 0].size for _, hr in images)
    with tqdm(
      total=len(grid) * settings.num_samples * pixels, unit="pixel", unit_scale=True
    ) as bar:
      points = _measure(system, images, grid, settings, bar.update)
    (reference,) = _measure(Bicubic(scale), images, [0.0], settings, lambda _: None)
    chosen = best(points, reference)
    if chosen is None:
      raise InputError(f"{workdir}: no temperature is better than bicubic in all three respects")
    return _report(workdir, run, output, settings, len(images), points, reference, chosen, is_named)


def _images(
  run: Run, hr_dir: str, scale: int, leave_out: Sequence[str | os.PathLike]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """LR and HR, uint8, of the middle of some images."""
  if hr_dir:
    found = find_images(scale, hr_dir, "", leave_out)
    hrs = (image.read(scale)[1] for image in _some(found))
  else:
    source = open_source(run.config.data, scale, "train")
    hrs = (source[index].hr for index in _some(range(len(source))))
  for hr in hrs:
    assert hr is not None  # all of these images have HR
    multiple = math.lcm(metrics.CROP_MULTIPLE, scale)
    sides = [min(CROP, side) // multiple * multiple for side in hr.shape[:2]]
    if min(sides) < MIN_SIZE:
      raise InputError(
        f"an image to search on has {hr.shape[1]}x{hr.shape[0]} pixels: LPIPS needs {MIN_SIZE} a "
        "side"
      )
    top, left = ((whole - side) // 2 for whole, side in zip(hr.shape, sides, strict=False))
    hr = np.ascontiguousarray(hr[top : top + sides[0], left : left + sides[1]])
    yield metrics.shrunk(hr, scale), hr


def _some(items: Sequence[Any]) -> list[Any]:
  count = min(MAX_IMAGES, len(items))
  return [items[len(items) * number // count] for number in range(count)]


def _measure(
  system: System,
  images: Images,
  temperatures: Sequence[Temperature],
  settings: Settings,
  on_pixels: Any,
) -> list[Point]:
  """Each temperature's point. The context of an image serves all of them."""
  scores = np.zeros((len(temperatures), 3))
  broken = [0] * len(temperatures)
  count = settings.num_samples if system.stochastic else 1
  for lr, hr in images:
    request = dataclasses.replace(
      request_of(system, hr.shape[:2], settings, measured=True), methods=("draw",)
    )
    system.plan(lr.shape[:2], request)
    prepared = system.prepare(lr, request, Seconds())
    for number, temperature in enumerate(temperatures):
      drawn = draw(
        system,
        prepared,
        hr.shape[:2],
        [Recipe(temperature)],
        settings.seed,
        count,
        [settings.uint8_mode],
        on_pixels,
      )
      (samples,) = drawn.levels.values()
      broken[number] += sum(drawn.not_finite)
      lpips = metrics.lpips_scores(samples, hr)
      lr_psnr = np.mean(metrics.lr_psnr(samples, hr, system.scale))
      scores[number] += np.array([lpips.mean, lr_psnr, lpips.diversity]) / len(images)
  return [
    Point(temperature, *map(float, own), not_finite)
    for temperature, own, not_finite in zip(temperatures, scores, broken, strict=True)
  ]


def _report(
  workdir: str,
  run: Run,
  output: pathlib.Path,
  settings: Settings,
  num_images: int,
  points: Sequence[Point],
  reference: Point,
  chosen: Point,
  is_named: bool,
) -> Outcome:
  """Writes what was found, and tells it."""
  on_frontier = frontier(points, reference)
  common = [point for point in points if len(set(np.atleast_1d(point.temperature))) == 1]
  volume, of_common = hypervolume(points, reference), hypervolume(common, reference)
  found = {
    "workdir": workdir,
    "step": int(run.step),
    "images": num_images,
    "num_samples": settings.num_samples,
    "seed": settings.seed,
    "uint8": settings.uint8_mode,
    "bicubic": dataclasses.asdict(reference),
    "chosen": dataclasses.asdict(chosen),
    "frontier": [dataclasses.asdict(point) for point in on_frontier],
    "points": [dataclasses.asdict(point) for point in points],
    "hypervolume": volume,
    "hypervolume_of_one_temperature": of_common,
  }
  write_text(output / "frontier.json", strict_json(found))
  for what in ("diversity", "lr_psnr"):
    plot = draw_plot(_plot, points, on_frontier, common, chosen, what)
    write_whole(output / f"frontier_{what}.png", plot)
  cells = [["temperature", "LPIPS", "LR-PSNR", "diversity", ""]]
  for point in sorted(on_frontier, key=lambda point: point.lpips):
    numbers = f"{point.lpips:.3f}", f"{point.lr_psnr:.2f}", f"{point.diversity:.2f}"
    mark = "chosen" if point is chosen else ""
    cells.append([temperature_text(point.temperature), *numbers, mark])
  text = temperature_text(chosen.temperature)
  if is_named:
    said = f"{workdir} has no folder to note it in: give --temperature={text}."
  else:
    note = ChosenTemperature(chosen.temperature, int(run.step), num_images, settings.num_samples)
    write_temperature(pathlib.Path(workdir), note)
    said = f"It is used for {workdir} from now on where no temperature is given (temperature.json)."
  broken = [temperature_text(point.temperature) for point in points if point.not_finite]
  left_out = f"Left out, since samples have values that are not finite: {', '.join(broken)}."
  lines = [
    markdown_table(cells),
    *([left_out] if broken else []),
    f"{len(points)} temperatures on {num_images} images, {settings.num_samples} samples each. "
    f"Hypervolume of the frontier: {volume:.3f}; of one temperature for all levels: "
    f"{of_common:.3f}.",
    printable(f"Chosen: {text}. {said}"),
    printable(f"Plots and numbers: {output}"),
  ]
  return Outcome("\n".join(lines), finite=True)


def _plot(
  axes: Axes,
  points: Sequence[Point],
  on_frontier: Sequence[Point],
  common: Sequence[Point],
  chosen: Point,
  what: str,
) -> None:
  series = (
    (points, "C7.", "all that were tried"),
    (on_frontier, "C0o", "frontier"),
    (common, "C1-", "one temperature for all levels"),
    ([chosen], "C3*", f"chosen: {temperature_text(chosen.temperature)}"),
  )
  for own, style, label in series:
    values = [getattr(point, what) for point in own]
    axes.plot(values, [point.lpips for point in own], style, label=label)
  labels = {"diversity": "diversity [%]", "lr_psnr": "LR-PSNR [dB]"}
  axes.set(xlabel=f"{labels[what]}, more is better", ylabel="LPIPS mean, less is better")
