"""An evaluation from beginning to end: a trained model beside bicubic, on a set of images."""

import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from srflow_jax import metrics
from srflow_jax.errors import InputError
from srflow_jax.evaluation import plots, report, sheets
from srflow_jax.evaluation.evaluator import Settings, evaluate_image
from srflow_jax.evaluation.inputs import EvalImage, find_images, validation_folders
from srflow_jax.evaluation.latex import latex_table
from srflow_jax.evaluation.page import html_page
from srflow_jax.evaluation.progress import Progress, fingerprint
from srflow_jax.evaluation.systems import Bicubic, System, Trained
from srflow_jax.images import read_image, write_png
from srflow_jax.model import count_parameters
from srflow_jax.sampling import Sampler
from srflow_jax.training.checkpoint import Run, load_run


@dataclasses.dataclass(frozen=True)
class Memory:
  """How much memory may be used, and how tiles overlap; see `srflow_jax.sampling.Sampler`."""

  max_memory_gb: float = 0.0
  tile_overlap: int | None = None


def evaluate_workdirs(
  workdirs: Sequence[str],
  hr_dir: str,
  lr_dir: str,
  output_dir: str,
  settings: Settings,
  command: str,
  temperatures: Sequence[float] = (),
  memory: Memory = Memory(),
) -> str:
  """Evaluates the latest checkpoints of training runs, and bicubic, side by side.

  Args:
    workdirs: The runs' folders, of one scale.
    hr_dir: Folder of HR images, or ''.
    lr_dir: Folder of LR images, or ''; `find_images` says how they go together. If both are '',
      the images are those that the first run's configuration names for validation.
    output_dir: Where everything is written; '' for `evaluation` in the first workdir.
    settings: How samples are drawn.
    command: What was typed, for the report.
    temperatures: Those of a flow's samples, each a row of the table; none for the settings' own.
    memory: Budget and overlap.

  Returns:
    What to tell the user: the table, and where the files are.

  Raises:
    InputError: Something given cannot be used.
  """
  for temperature in temperatures:
    dataclasses.replace(settings, temperature=temperature).check()
  if len(set(temperatures)) < len(temperatures):
    raise InputError(f"temperatures are {', '.join(map(str, temperatures))}: one is there twice")
  settings.check()
  runs = {workdir: load_run(workdir) for workdir in workdirs}
  first = runs[workdirs[0]]
  scale = first.config.model.scale
  for workdir, run in runs.items():
    if run.config.model.scale != scale:
      raise InputError(
        f"{workdir} enlarges by {run.config.model.scale}, {workdirs[0]} by {scale}: evaluate them "
        "apart"
      )
  if not hr_dir and not lr_dir:
    hr_dir, lr_dir = validation_folders(first.config.data.val_dir)
  images = find_images(scale, hr_dir, lr_dir)
  systems, models = [Bicubic(scale)], {}
  for workdir, run in runs.items():
    name = pathlib.Path(workdir).resolve().name
    own = trained_systems(name, run, temperatures, memory)
    systems += own
    digest = _digest(run.params)
    for system in own:
      models[system.name] = {
        "workdir": os.fspath(workdir),
        "step": int(run.step),
        "temperature": settings.temperature if system.temperature is None else system.temperature,
        "params": {part: count_parameters(tree) for part, tree in run.params.items()},
        "sha256": digest,
      }
  about = {
    "protocol": {
      "name": metrics.PROTOCOL,
      "version": metrics.PROTOCOL_VERSION,
      "uint8": settings.uint8_mode,
    },
    "scale": int(scale),
    "command": command,
    "hr_dir": hr_dir or (None if lr_dir else "scikit-image's photographs"),
    "lr_dir": lr_dir or None,
    "workdir": os.fspath(workdirs[0]),
    "step": int(first.step),
    "params": {part: count_parameters(tree) for part, tree in first.params.items()},
    "models": models,
    "num_samples": settings.num_samples,
    "temperature": settings.temperature,
    "temperatures": list(temperatures) or [settings.temperature],
    "seed": settings.seed,
    "max_memory_gb": memory.max_memory_gb,
    "tile_overlap": memory.tile_overlap,
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
    "config": first.config.to_dict(),
    "configs": {os.fspath(workdir): run.config.to_dict() for workdir, run in runs.items()},
  }
  output = pathlib.Path(output_dir or pathlib.Path(workdirs[0], "evaluation"))
  return evaluate_systems(systems, images, output, settings, about)


def _digest(params: Any) -> str:
  """Tells checkpoints apart, by all their numbers."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(params):
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()


def trained_systems(
  name: str, run: Run, temperatures: Sequence[float], memory: Memory
) -> list[System]:
  """A run as systems: one, or one a temperature if there are several and it samples."""
  sampler = Sampler(run.model, run.params, memory.max_memory_gb, memory.tile_overlap)
  alone = Trained(name, sampler, temperatures[0] if len(temperatures) == 1 else None)
  if len(temperatures) < 2 or not alone.stochastic:
    return [alone]
  return [Trained(f"{name} t={t:g}", sampler, t) for t in temperatures]


def evaluate_systems(
  systems: Sequence[System],
  images: Sequence[EvalImage],
  output: pathlib.Path,
  settings: Settings,
  about: Mapping[str, Any],
) -> str:
  """Evaluates systems of one scale on images and writes all there is to show.

  Args:
    systems: The systems, in the table's order; their names differ.
    images: The images.
    output: The folder: `samples/SYSTEM/IMAGE_00.png`, `sheets/IMAGE.png`, `table.md`,
      `table.tex`, `per_image.csv`, `summary.json`, `report.html`.
    settings: How samples are drawn.
    about: How the evaluation was made, for the summary.

  Returns:
    What to tell the user.

  Raises:
    InputError: The folder cannot be written, an image is damaged, or two systems have one name.
  """
  params = {system.name: system.num_params for system in systems}
  if len(params) < len(systems):
    names = [system.name for system in systems]
    twice = next(name for name in names if names.count(name) > 1)
    raise InputError(f"two systems are called {twice}: rename a workdir")
  make_folder(output)
  scale = systems[0].scale
  progress = Progress(output, fingerprint(about, images))
  if len(progress):
    print(f"continuing {output}: {len(progress)} of {len(images) * len(systems)} are there")
  with tqdm(
    total=sum(_work(image, system, settings) for image in images for system in systems),
    unit="pixel",
    unit_scale=True,
    dynamic_ncols=True,
  ) as bar:
    for image in images:
      bar.set_description(image.name)
      _evaluate_systems_on(image, systems, output, settings, progress, bar)
  rows = [progress.get(image.name, system.name) for image in images for system in systems]
  _write_report(output, about, params, rows, settings, images)
  table = report.markdown_table(report.table_cells(scale, params, rows))
  note = _note(about, settings, len(images))
  progress.finish()
  return f"{table}\n{note}\nTables, samples, sheets and the page report.html: {output}"


def _work(image: EvalImage, system: System, settings: Settings) -> int:
  """Pixels that are drawn."""
  return math.prod(image.hr_size) * (settings.num_samples if system.stochastic else 1)


def _evaluate_systems_on(
  image: EvalImage,
  systems: Sequence[System],
  output: pathlib.Path,
  settings: Settings,
  progress: Progress,
  bar: tqdm,
) -> None:
  """Draws, measures and shows what is not there yet."""
  sheet = output / "sheets" / f"{image.name}.png"
  if sheet.exists() and all(progress.get(image.name, system.name) for system in systems):
    bar.update(sum(_work(image, system, settings) for system in systems))
    return
  sheet.unlink(missing_ok=True)  # an earlier evaluation's
  lr, hr = image.read(systems[0].scale)
  drawn = {}
  for system in systems:
    paths = [
      output / "samples" / system.name / f"{image.name}_{index:02d}.png"
      for index in range(settings.num_samples if system.stochastic else 1)
    ]
    if progress.get(image.name, system.name) and all(path.exists() for path in paths):
      drawn[system.name] = np.stack([read_image(path) for path in paths])
      bar.update(_work(image, system, settings))
      continue
    samples, scores = evaluate_image(system, lr, hr, settings, bar.update)
    for path, sample in zip(paths, samples, strict=True):
      write_png(path, sample)
    progress.add(report.Row(image.name, system.name, samples.shape[1:3], scores))
    drawn[system.name] = samples
  partial = sheet.with_suffix(".partial")  # a sheet that is there is whole
  write_png(partial, _sheet(systems, drawn, lr, hr))
  os.replace(partial, sheet)


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


def _sheet(
  systems: Sequence[System],
  drawn: Mapping[str, np.ndarray],
  lr: np.ndarray,
  hr: np.ndarray | None,
) -> np.ndarray:
  """The sheet of one image, with HR (or else LR) at its end.

  Of one system that samples: its samples, their mean and deviation. Of several: a column a system.
  """
  several = [system for system in systems if system.stochastic]
  cells = []
  for system in systems:
    if not system.stochastic or len(several) > 1:
      cells.append(sheets.Cell(system.name, drawn[system.name][0]))
    else:
      cells += sheets.sample_cells(drawn[system.name])
  if hr is not None:
    cells.append(sheets.Cell("HR", hr))
  else:
    enlarged = lr.repeat(systems[0].scale, 0).repeat(systems[0].scale, 1)
    cells.append(sheets.Cell("LR", enlarged))
  return sheets.comparison_sheet(cells, *([len(cells)] if len(several) > 1 else []))


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
