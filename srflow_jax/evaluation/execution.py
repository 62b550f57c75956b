"""Evaluates systems on images: draws, measures and shows what is not there yet, then reports."""

import dataclasses
import itertools
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from srflow_jax.errors import InputError
from srflow_jax.evaluation import metrics, plots, report, sheets
from srflow_jax.evaluation.evaluator import Settings, evaluate_temperatures, work_on
from srflow_jax.evaluation.inputs import EvalImage
from srflow_jax.evaluation.latex import latex_table
from srflow_jax.evaluation.page import html_page
from srflow_jax.evaluation.progress import Progress, fingerprint
from srflow_jax.evaluation.systems import System
from srflow_jax.images import read_image, write_png


@dataclasses.dataclass(frozen=True)
class Entry:
  """A row of the table: a system at a temperature, under a name of its own.

  Entries of one system stand together, so that they share what does not depend on temperature.
  """

  name: str
  system: System
  temperature: float


def evaluate_entries(
  entries: Sequence[Entry],
  images: Sequence[EvalImage],
  output: pathlib.Path,
  settings: Settings,
  about: Mapping[str, Any],
) -> str:
  """Evaluates systems of one scale on images and writes all there is to show.

  Args:
    entries: In the table's order; their names differ.
    images: The images.
    output: The folder: `samples/ENTRY/IMAGE_00.png`, `sheets/IMAGE.png`, `table.md`,
      `table.tex`, `per_image.csv`, `summary.json`, `report.html`.
    settings: How samples are drawn.
    about: How the evaluation was made, for the summary.

  Returns:
    What to tell the user.

  Raises:
    InputError: The folder cannot be written, an image is damaged or does not fit in memory, or two
      entries have one name.
  """
  params = {entry.name: entry.system.num_params for entry in entries}
  if len(params) < len(entries):
    names = [entry.name for entry in entries]
    twice = next(name for name in names if names.count(name) > 1)
    raise InputError(f"two systems are called {twice}: rename a workdir")
  make_folder(output)
  scale = entries[0].system.scale
  progress = Progress(output, fingerprint(about, images))
  if len(progress):
    print(f"continuing {output}: {len(progress)} of {len(images) * len(entries)} are there")
  check_memory([entry.system for entry in entries], images, settings)
  with tqdm(
    total=sum(_work(image, entry, settings) for image in images for entry in entries),
    unit="pixel",
    unit_scale=True,
    desc="evaluating",
  ) as bar:
    evaluation = _Evaluation(entries, output, settings, progress, bar)
    for image in images:
      evaluation.of_image(image)
  rows = [progress.get(image.name, entry.name) for image in images for entry in entries]
  _write_report(output, about, params, rows, settings, images)
  table = report.markdown_table(report.table_cells(scale, params, rows))
  note = _note(about, settings, len(images))
  progress.finish()
  return f"{table}\n{note}\nTables, samples, sheets and the page report.html: {output}"


def check_memory(
  systems: Sequence[System], images: Sequence[EvalImage], settings: Settings
) -> None:
  """Refuses an image that does not fit, of whatever system, before anything is computed.

  Args:
    systems: The systems.
    images: The images. The largest is planned; the compiler's figures for it tell of the others.
    settings: How samples are drawn.

  Raises:
    InputError: It names the image.
  """
  for system in dict.fromkeys(systems):
    ordered = sorted(images, key=lambda image: -math.prod(image.hr_size))
    for check, image in zip((system.plan, *[system.check] * len(images)), ordered, strict=False):
      work = work_on(system, image.hr_size, settings, image.hr_path is not None)
      try:
        check(tuple(side // system.scale for side in image.hr_size), work)
      except InputError as error:
        raise InputError(f"{image.hr_path or image.lr_path}: {error}") from None


def _work(image: EvalImage, entry: Entry, settings: Settings) -> int:
  """Pixels that are drawn."""
  return math.prod(image.hr_size) * _num_samples(entry, settings)


def _num_samples(entry: Entry, settings: Settings) -> int:
  return settings.num_samples if entry.system.stochastic else 1


@dataclasses.dataclass(frozen=True)
class _Evaluation:
  """What is done with every image."""

  entries: Sequence[Entry]
  output: pathlib.Path
  settings: Settings
  progress: Progress
  bar: tqdm

  def of_image(self, image: EvalImage) -> None:
    """Draws, measures and shows what is not there yet."""
    self.bar.set_postfix_str(image.name)
    path = self.output / "sheets" / f"{image.name}.png"
    if path.exists() and all(self.progress.get(image.name, entry.name) for entry in self.entries):
      self.bar.update(sum(_work(image, entry, self.settings) for entry in self.entries))
      return
    path.unlink(missing_ok=True)  # an earlier evaluation's
    scale = self.entries[0].system.scale
    lr, hr = image.read(scale)
    several = sum(entry.system.stochastic for entry in self.entries) > 1
    sheet = sheets.Sheet()
    for system, entries in itertools.groupby(self.entries, key=lambda entry: entry.system):
      for entry, samples in self._samples(system, list(entries), image, lr, hr):
        if several or not system.stochastic:
          sheet.add(entry.name, samples[0])
        else:
          for cell in sheets.sample_cells(samples):
            sheet.add(*cell)
    if hr is not None:
      sheet.add("HR", hr)
    else:
      sheet.add("LR", lr.repeat(scale, 0).repeat(scale, 1))
    partial = path.with_suffix(".partial")  # a sheet that is there is whole
    write_png(partial, sheet.draw(*([len(self.entries) + 1] if several else [])))
    os.replace(partial, path)

  def _samples(
    self,
    system: System,
    entries: Sequence[Entry],
    image: EvalImage,
    lr: np.ndarray,
    hr: np.ndarray | None,
  ) -> Iterator[tuple[Entry, np.ndarray]]:
    """Samples of a system's entries: those of before, or drawn, measured and written."""
    paths = {
      entry: [
        self.output / "samples" / entry.name / f"{image.name}_{index:02d}.png"
        for index in range(_num_samples(entry, self.settings))
      ]
      for entry in entries
    }
    missing = [
      entry
      for entry in entries
      if not self.progress.get(image.name, entry.name)
      or not all(path.exists() for path in paths[entry])
    ]
    temperatures = [entry.temperature for entry in missing]
    drawn = evaluate_temperatures(system, lr, hr, self.settings, temperatures, self.bar.update)
    for entry in entries:
      if entry in missing:
        samples, scores = next(drawn)
        for path, sample in zip(paths[entry], samples, strict=True):
          write_png(path, sample)
        self.progress.add(report.Row(image.name, entry.name, samples.shape[1:3], scores))
      else:
        samples = np.stack([read_image(path) for path in paths[entry]])
        self.bar.update(_work(image, entry, self.settings))
      yield entry, samples


def _write_report(
  output: pathlib.Path,
  about: Mapping[str, Any],
  params: Mapping[str, int | None],
  rows: Sequence[report.Row],
  settings: Settings,
  images: Sequence[EvalImage],
) -> None:
  cells = report.table_cells(about["scale"], params, rows)
  note = _note(about, settings, len(images))
  summary = report.summary(about, params, rows)
  drawn = plots.plots(summary)
  paths = {image.name: output / "sheets" / f"{image.name}.png" for image in images}
  report.write_text(output / "table.md", f"{report.markdown_table(cells)}\n{note}\n")
  report.write_text(output / "table.tex", latex_table(cells))
  report.write_text(output / "per_image.csv", report.csv_table(rows))
  report.write_text(output / "summary.json", report.strict_json(summary))
  report.write_text(output / "report.html", html_page(summary, cells, note, drawn, paths))


def make_folder(path: pathlib.Path) -> None:
  """Makes a folder and tries that it can be written, before any long work.

  Args:
    path: The folder.

  Raises:
    InputError: It cannot.
  """
  probe = path / ".writable"
  try:
    path.mkdir(parents=True, exist_ok=True)
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def _note(about: Mapping[str, Any], settings: Settings, num_images: int) -> str:
  return (
    f"Protocol {metrics.PROTOCOL} version {metrics.PROTOCOL_VERSION}, {num_images} images of "
    f"{about['hr_dir'] or about['lr_dir']}, "
    f"{settings.num_samples} samples each at temperature "
    f"{', '.join(f'{t:g}' for t in about['temperatures'])}, seed {settings.seed}, uint8 by "
    f"{settings.uint8_mode}; checkpoint of step "
    f"{', '.join(str(step) for step in dict.fromkeys(m['step'] for m in about['models'].values()))}"
    f". Time is of one sample with its context, on {about['device']}."
  )
