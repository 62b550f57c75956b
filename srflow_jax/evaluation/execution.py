"""Evaluates systems on images: draws, measures and shows what is missing, then reports."""

import dataclasses
import itertools
import math
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from srflow_jax.errors import InputError
from srflow_jax.evaluation import folder, luma, marks, metrics, plots, report, sheets
from srflow_jax.evaluation.calibration_report import calibration_section
from srflow_jax.evaluation.evaluator import (
  Settings,
  evaluate_recipes,
  num_samples,
  request_of,
)
from srflow_jax.evaluation.inputs import EvalImage
from srflow_jax.evaluation.latex import latex_table
from srflow_jax.evaluation.lpips import MIN_SIZE
from srflow_jax.evaluation.outcome import Outcome
from srflow_jax.evaluation.page import html_page
from srflow_jax.evaluation.progress import Progress, fingerprint
from srflow_jax.evaluation.recipes import Recipe
from srflow_jax.evaluation.systems import System
from srflow_jax.images import read_written_png, write_png
from srflow_jax.sampling.ahead import planned_ahead
from srflow_jax.sampling.programs import out_of_memory_named
from srflow_jax.sampling.temperatures import draws_noise, temperature_text


@dataclasses.dataclass(frozen=True)
class Entry:
  """A row of the table: what a recipe makes of a system's samples, under a name of its own.

  Entries of one system stand together, and of these the ones that share samples.
  """

  name: str
  system: System
  recipe: Recipe


def evaluate_entries(
  entries: Sequence[Entry],
  images: Sequence[EvalImage],
  output: pathlib.Path,
  settings: Settings,
  about: Mapping[str, Any],
) -> Outcome:
  """Evaluates systems of one scale on images and writes all there is to show.

  Args:
    entries: In the table's order; their names differ.
    images: The images.
    output: The folder: `samples/ENTRY/IMAGE_00.png`, `sheets/IMAGE.png`, `table.md`,
      `table.tex`, `per_image.csv`, `summary.json`, `report.html`. What an earlier evaluation wrote
      there is removed, unless it was this one and was killed: then it goes on.
    settings: How samples are drawn.
    about: How the evaluation was made, for the summary.

  Returns:
    How it ended.

  Raises:
    InputError: The folder cannot be written, another evaluation has it or a file in it would be
      lost that is none's, an image is damaged or does not fit in memory, or two entries have one
      name.
  """
  params = {entry.name: entry.system.num_params for entry in entries}
  if len(params) < len(entries):
    names = [entry.name for entry in entries]
    twice = next(name for name in names if names.count(name) > 1)
    raise InputError(f"two systems are called {twice}: rename a workdir")
  with folder.locked(output):
    files = _files(entries, images, settings)
    folder.check_names(output, files)
    folder.check_loss(output, files, _inputs(images))
    sizes = len({image.hr_size for image in images})
    if sizes > 1:
      print(f"images of {sizes} sizes: programs are compiled for each of them before it comes")
    begin = time.perf_counter()
    check_memory([entry.system for entry in entries], images, settings)
    compiled = {_by_size(images)[0].hr_size: time.perf_counter() - begin}
    progress = Progress(output, fingerprint(about, images))
    if len(progress):
      print(
        report.printable(f"continuing {output}: "),
        f"{len(progress)} of {len(images) * len(entries)} are there",
        sep="",
      )
    else:
      folder.begin(output, files)
    with tqdm(
      total=sum(_num_pixels(image, entries, settings) for image in images),
      unit="pixel",
      unit_scale=True,
      desc="evaluating",
    ) as bar:
      evaluation = _Evaluation(entries, output, settings, progress, bar, compiled)
      left = [image for image in _by_size(images) if not evaluation.is_done(image)]
      bar.update(bar.total - sum(_num_pixels(image, entries, settings) for image in left))
      for image in planned_ahead(left, evaluation.plan):
        with out_of_memory_named():
          evaluation.of_image(image)
    rows = [progress.get(image.name, entry.name) for image in images for entry in entries]
    cells = report.table_cells(about["scale"], params, rows)
    note = " ".join([_note(about, settings, len(images)), *marks.sentences(rows)])
    _write_report(output, about, params, rows, cells, note, images)
    progress.finish()
  lines = [
    f"{report.markdown_table(cells)}\n{note}",
    report.printable(f"Tables, samples, sheets and the page report.html: {output}"),
  ]
  if sizes > 1:
    seconds = sum(compiled.values())
    lines.append(
      f"Compiling for {len(compiled)} sizes of image took {seconds:.0f} s, without LPIPS."
    )
  broken = marks.of_kind("not_finite", rows)
  if broken:
    lines.append(f"error: {broken}")
  return Outcome("\n".join(lines), not broken)


def _files(
  entries: Sequence[Entry], images: Sequence[EvalImage], settings: Settings
) -> list[pathlib.Path]:
  """All that an evaluation writes, relative to its folder."""
  samples = (
    path for image in images for entry in entries for path in _sample_paths(image, entry, settings)
  )
  return [*samples, *map(_sheet_path, images), *map(pathlib.Path, REPORT)]


def _inputs(images: Iterable[EvalImage]) -> list[pathlib.Path]:
  return [path for image in images for path in (image.hr_path, image.lr_path) if path]


def _sample_paths(image: EvalImage, entry: Entry, settings: Settings) -> list[pathlib.Path]:
  count = entry.recipe.num_images(num_samples(entry.system, settings, entry.recipe.temperature))
  name = entry.name.replace("/", "-")  # between the temperatures of levels
  return [pathlib.Path("samples", name, f"{image.name}_{index:02d}.png") for index in range(count)]


def _sheet_path(image: EvalImage) -> pathlib.Path:
  return pathlib.Path("sheets", f"{image.name}.png")


def check_memory(
  systems: Sequence[System], images: Sequence[EvalImage], settings: Settings
) -> None:
  """Refuses an image that does not fit, of whatever system, before anything is computed.

  Args:
    systems: The systems.
    images: The images. The largest is planned, and the bytes that its programs take tell how much
      others need.
    settings: How samples are drawn.

  Raises:
    InputError: It names the image.
  """
  if settings.estimates:
    for image in images:
      if min(image.hr_size) < MIN_SIZE:
        raise InputError(
          f"{image.hr_path or image.lr_path}: enlarged to {image.hr_size[1]}x{image.hr_size[0]} "
          f"pixels: to choose a medoid, LPIPS needs {MIN_SIZE} a side"
        )
  for system in dict.fromkeys(systems):
    checks = (system.plan, *[system.check] * len(images))
    for check, image in zip(checks, _by_size(images), strict=False):
      request = request_of(system, image.hr_size, settings, image.hr_path is not None)
      try:
        check(tuple(side // system.scale for side in image.hr_size), request)
      except InputError as error:
        raise InputError(f"{image.hr_path or image.lr_path}: {error}") from None


def _by_size(images: Sequence[EvalImage]) -> list[EvalImage]:
  """The largest images first, and those of one size together: each size is compiled for once."""
  return sorted(images, key=lambda image: (math.prod(image.hr_size), image.hr_size), reverse=True)


def _num_pixels(image: EvalImage, entries: Iterable[Entry], settings: Settings) -> int:
  """Pixels that are drawn: once for entries that share samples."""
  drawn = {(entry.system, entry.recipe.drawn): entry for entry in entries}.values()
  counts = (num_samples(entry.system, settings, entry.recipe.temperature) for entry in drawn)
  return math.prod(image.hr_size) * sum(counts)


@dataclasses.dataclass(frozen=True)
class _Evaluation:
  """What is done with every image.

  Attributes:
    compiled: Seconds that compiling took, by the size of HR; LPIPS aside.
  """

  entries: Sequence[Entry]
  output: pathlib.Path
  settings: Settings
  progress: Progress
  bar: tqdm
  compiled: dict[tuple[int, int], float]

  def is_done(self, image: EvalImage) -> bool:
    """Whether there is nothing left to do of an image."""
    return (self.output / _sheet_path(image)).exists() and all(
      self.progress.get(image.name, entry.name) for entry in self.entries
    )

  def plan(self, image: EvalImage) -> None:
    """Compiles for an image."""
    begin = time.perf_counter()
    for system in dict.fromkeys(entry.system for entry in self.entries):
      request = request_of(system, image.hr_size, self.settings, image.hr_path is not None)
      system.plan(tuple(side // system.scale for side in image.hr_size), request)
    seconds = time.perf_counter() - begin
    self.compiled[image.hr_size] = self.compiled.get(image.hr_size, 0.0) + seconds

  def of_image(self, image: EvalImage) -> None:
    """Draws, measures and shows what is not there yet."""
    self.bar.set_postfix_str(report.printable(image.name))
    path = self.output / _sheet_path(image)
    scale = self.entries[0].system.scale
    lr, hr = image.read(scale)
    profile = image.profile()
    several = sum(entry.system.stochastic for entry in self.entries) > 1
    sheet = sheets.Sheet()
    for system, entries in itertools.groupby(self.entries, key=lambda entry: entry.system):
      for entry, samples in self._samples(system, list(entries), image, lr, hr, profile):
        if several or not system.stochastic:
          sheet.add(entry.name, samples[0])
        else:
          for cell in sheets.sample_cells(samples):
            sheet.add(*cell)
    if hr is not None:
      sheet.add("HR", hr)
    else:
      sheet.add("LR", lr.repeat(scale, 0).repeat(scale, 1))
    write_png(path, sheet.draw(*([len(self.entries) + 1] if several else [])), profile)

  def _samples(
    self,
    system: System,
    entries: Sequence[Entry],
    image: EvalImage,
    lr: np.ndarray,
    hr: np.ndarray | None,
    profile: bytes | None,
  ) -> Iterator[tuple[Entry, np.ndarray]]:
    """The samples of a system's entries, which are drawn, measured and written if need be."""
    paths = {
      entry: [self.output / path for path in _sample_paths(image, entry, self.settings)]
      for entry in entries
    }
    missing = [
      entry
      for entry in entries
      if not self.progress.get(image.name, entry.name)
      or not all(path.exists() for path in paths[entry])
    ]
    to_draw = _num_pixels(image, missing, self.settings)
    self.bar.update(_num_pixels(image, entries, self.settings) - to_draw)
    recipes = [entry.recipe for entry in missing]
    drawn = evaluate_recipes(system, lr, hr, self.settings, recipes, self.bar.update)
    for entry in entries:
      if entry in missing:
        samples, scores = next(drawn)
        for path, sample in zip(paths[entry], samples, strict=True):
          write_png(path, sample, profile)
        row = report.Row(image.name, entry.name, samples.shape[1:3], scores)
        for sentence in marks.sentences([row]):
          self.bar.write(f"warning: {sentence}", file=sys.stderr)
        self.progress.add(row)
      else:
        samples = np.stack([_read_sample(path) for path in paths[entry]])
      yield entry, samples


def _read_sample(path: pathlib.Path) -> np.ndarray:
  try:
    return read_written_png(path)
  except InputError as error:
    raise InputError(f"{error}; remove it, and it is drawn anew") from None


REPORT = ("table.md", "table.tex", "per_image.csv", "summary.json", "report.html")


def _write_report(
  output: pathlib.Path,
  about: Mapping[str, Any],
  params: Mapping[str, int | None],
  rows: Sequence[report.Row],
  cells: Sequence[Sequence[str]],
  note: str,
  images: Sequence[EvalImage],
) -> None:
  summary = report.summary(about, params, rows)
  paths = {image.name: output / _sheet_path(image) for image in images}
  of_posterior = calibration_section(summary)
  sections = [of_posterior] if of_posterior else []
  texts = (
    f"{report.markdown_table(cells)}\n{note}\n",
    latex_table(cells),
    report.csv_table(rows),
    report.strict_json(summary),
    html_page(summary, cells, note, plots.plots(summary), paths, sections),
  )
  for name, text in zip(REPORT, texts, strict=True):
    report.write_text(output / name, text)


def _note(about: Mapping[str, Any], settings: Settings, num_images: int) -> str:
  on_luma = (
    f" (PSNR-Y and SSIM-Y: {luma.PROTOCOL} version {luma.PROTOCOL_VERSION}, border "
    f"{about['scale']})"
    if about["hr_dir"]
    else ""
  )
  several = "" if all(map(draws_noise, about["temperatures"])) else " (one at 0)"
  return report.printable(
    f"Protocol {metrics.PROTOCOL} version {metrics.PROTOCOL_VERSION}{on_luma}, "
    f"{num_images} images of {about['hr_dir'] or about['lr_dir']}, "
    f"{settings.num_samples} samples each at temperature "
    f"{', '.join(map(temperature_text, about['temperatures']))}{several}, seed {settings.seed}, "
    f"uint8 by {settings.uint8_mode}; checkpoint of step "
    f"{', '.join(str(step) for step in dict.fromkeys(m['step'] for m in about['models'].values()))}"
    f". Time is of one sample with its context, on {about['device']}."
  )
