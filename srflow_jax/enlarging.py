"""Enlarges photographs with a trained model: samples of each as PNG files, and a sheet of them."""

import dataclasses
import math
import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from srflow_jax.api import check_sampling
from srflow_jax.errors import InputError
from srflow_jax.evaluation import folder, sheets
from srflow_jax.evaluation.drawing import OUTSIDE
from srflow_jax.evaluation.outcome import Outcome
from srflow_jax.evaluation.report import printable
from srflow_jax.images import write_png
from srflow_jax.listing import check_name
from srflow_jax.ops.consistency import TOLERANCE, make_consistent
from srflow_jax.ops.resize import bicubic_resize
from srflow_jax.photographs import Photograph, photograph_size, read_photograph, write_photograph
from srflow_jax.runs import chosen_temperature
from srflow_jax.sampling.ahead import planned_ahead
from srflow_jax.sampling.budget import Request
from srflow_jax.sampling.programs import out_of_memory_named
from srflow_jax.sampling.sampler import Sampler
from srflow_jax.sampling.temperatures import Temperature, check_temperature, draws_noise
from srflow_jax.weights import named
from srflow_jax.weights.loading import load_model

_SCRATCH = 64  # bytes a pixel of HR beside the samples: a window's floats, bicubic, the sheet


@dataclasses.dataclass(frozen=True)
class Settings:
  """How photographs are enlarged.

  Attributes:
    num_samples: Of each photograph; one where all would be equal.
    temperature: Standard deviation of the latents, or of each level of them.
    seed: Sample i is a function of the seed and i.
    scale: By how much; None for the model's own scale, which it must be.
    max_memory_gb: As in `sampling.sampler.Sampler`.
    overwrite: Whether files that are there are replaced.
    consistent: Whether samples are changed so that bicubic reduces them to the photograph.
    use_chosen: Whether a temperature that a search has chosen for the run is taken instead.
  """

  num_samples: int = 4
  temperature: Temperature = 0.7
  seed: int = 0
  scale: int | None = None
  max_memory_gb: float = 0.0
  overwrite: bool = False
  consistent: bool = False
  use_chosen: bool = False


def enlarge_photographs(
  paths: Sequence[str | os.PathLike], model: str | os.PathLike, out: str, settings: Settings
) -> Outcome:
  """Enlarges photographs and writes OUT/NAME_00.png and so on, and OUT/NAME_sheet.png.

  Each is written as the kind that it was: grey or coloured, of 8 or 16 bits, with its profile. A
  grey one is given to the model as RGB, and the mean of the three channels is taken. Transparency
  is enlarged by bicubic. The sheet shows bicubic, two samples, and mean and standard deviation of
  all.

  Args:
    paths: Image files.
    model: What `weights.loading.load_model` takes.
    out: The folder to write to; it is made.
    settings: How.

  Returns:
    How it ended.

  Raises:
    InputError: Something given cannot be used; before anything is drawn, except for damage that
      shows only when a file is decoded. What is written by then is printed.
  """
  check_sampling(settings.num_samples, settings.temperature, settings.seed)
  if not paths:
    raise InputError("name the photographs to enlarge")
  if not out:
    raise InputError("--out= names no folder")
  paths = [pathlib.Path(path) for path in paths]
  sizes = [_checked_size(path) for path in paths]
  output = pathlib.Path(out)
  run = load_model(model)
  chosen = None
  if settings.use_chosen and model not in named.FINDERS:
    chosen = chosen_temperature(model)
  if chosen:
    print(printable(f"{model}: {chosen}"))
    settings = dataclasses.replace(settings, temperature=chosen.temperature)
  scale = int(run.config.model.scale)
  if settings.scale not in (None, scale):
    others = "another run's --workdir" if model in named.FINDERS else "another --workdir"
    raise InputError(f"scale is {settings.scale}: {model} enlarges by {scale}; give {others}")
  sampler = Sampler(run.model, run.params, settings.max_memory_gb)
  check_temperature(settings.temperature, run.model.num_latents)
  _check_output(paths, output, settings)
  several = draws_noise(settings.temperature) and run.model.stochastic
  drawn = settings.num_samples if several else 1
  jobs = [
    _Job(path, size, output, sampler, _request(size, scale, drawn, settings.consistent), settings)
    for path, size in zip(paths, sizes, strict=True)
  ]
  max(jobs, key=lambda job: math.prod(job.size)).plan()
  for job in jobs:
    sampler.budget.check(job.size, job.request)
  pixels = [scale**2 * math.prod(size) * drawn for size in sizes]
  lines, finite = [], True
  with tqdm(total=sum(pixels), unit="pixel", unit_scale=True, desc="enlarging") as bar:
    try:
      for job in planned_ahead(jobs, _Job.plan):
        with out_of_memory_named():
          line, is_finite = job.run(bar)
        lines.append(line)
        finite &= is_finite
    except BaseException:  # what ended it takes back nothing that was written
      for line in lines:
        bar.write(line)
      raise
  if not finite:
    hint = "; a lower temperature may help" if several else ""
    lines.append(f"error: samples have values that are not finite{hint}")
  return Outcome("\n".join(lines), finite)


def _checked_size(path: pathlib.Path) -> tuple[int, int]:
  check_name(path.name, os.fspath(path))
  if path.is_dir():
    raise InputError(f"{path}: is a folder: name the photographs in it, as {path / '*.jpg'}")
  return photograph_size(path)


def _sample_path(output: pathlib.Path, path: pathlib.Path, index: int) -> pathlib.Path:
  return output / f"{path.stem}_{index:02d}.png"


def _sheet_path(output: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
  return output / f"{path.stem}_sheet.png"


def _check_output(paths: Sequence[pathlib.Path], output: pathlib.Path, settings: Settings) -> None:
  """Makes the folder and sees that each file to be written is new there."""
  by_stem = {}
  for path in paths:
    if (other := by_stem.setdefault(path.stem, path)) is not path:
      raise InputError(f"{path} and {other} would be written under one name: rename one")
  try:
    output.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(f"{output}: cannot be written: {error.strerror}") from None
  if not os.access(output, os.W_OK | os.X_OK):
    raise InputError(f"{output}: cannot be written: Permission denied")
  targets = [
    target
    for path in paths
    for target in (
      *(_sample_path(output, path, index) for index in range(settings.num_samples)),
      _sheet_path(output, path),
    )
  ]
  folder.check_names(output, [target.relative_to(output) for target in targets])
  inputs = {os.path.realpath(path) for path in paths}
  for target in targets:
    if os.path.realpath(target) in inputs:
      raise InputError(f"{target} is a photograph that would be overwritten: give another --out")
    if os.path.lexists(target) and (target.is_dir() or not settings.overwrite):
      raise InputError(f"{target} is there already: give another --out, or --overwrite")


def _request(size: tuple[int, int], scale: int, drawn: int, consistent: bool) -> Request:
  # A sample has at most three channels and alpha of 16 bits, and is shown with 8. To be made
  # consistent it must be whole, as floats.
  taken = (24 if consistent else 12) * drawn + _SCRATCH
  return Request(("draw",), drawn, scale**2 * math.prod(size) * taken)


@dataclasses.dataclass(frozen=True)
class _Job:
  """A photograph to be enlarged."""

  path: pathlib.Path
  size: tuple[int, int]
  output: pathlib.Path
  sampler: Sampler
  request: Request
  settings: Settings

  def plan(self) -> None:
    """Compiles for its size."""
    self.sampler.budget.plan(self.size, self.request)

  def run(self, bar: tqdm) -> tuple[str, bool]:
    """Draws and writes; returns what to tell, and whether all values are finite."""
    bar.set_postfix_str(self.path.name)
    photograph = read_photograph(self.path)
    samples, finite = self._draw(photograph, bar)
    scale = self.sampler.model.scale
    alpha = photograph.alpha
    if alpha is not None:
      alpha = _levels(bicubic_resize(_floats(alpha), scale), alpha.dtype)
    for index, pixels in enumerate(samples):
      enlarged = Photograph(pixels, alpha, photograph.profile)
      write_photograph(_sample_path(self.output, self.path, index), enlarged)
    sheet = sheets.Sheet()
    sheet.add("bicubic", bicubic_resize(_shown(photograph.pixels), scale))
    for label, picture in sheets.sample_cells(_shown(samples)):
      sheet.add(label, picture)
    path = _sheet_path(self.output, self.path)
    write_png(path, sheet.draw(), None if photograph.is_grey else photograph.profile)
    height, width = photograph.pixels.shape[:2]
    return (
      f"{self.path}: {width}x{height} to {width * scale}x{height * scale}, "
      f"{_sample_path(self.output, self.path, 0)}"
      + (f" to {len(samples) - 1:02d}" if len(samples) > 1 else "")
      + f", sheet {path}",
      finite,
    )

  def _draw(self, photograph: Photograph, bar: tqdm) -> tuple[np.ndarray, bool]:
    """The samples, of the photograph's type, `[N, H, W, C]`, and whether all are finite."""
    lr = np.broadcast_to(_floats(photograph.pixels), (*photograph.pixels.shape[:2], 3))
    count, scale = self.request.num_samples, self.sampler.model.scale
    shape = (count, lr.shape[0] * scale, lr.shape[1] * scale, photograph.pixels.shape[-1])
    samples = np.empty(shape, photograph.pixels.dtype)
    floats = np.empty((*shape[:3], 3), np.float32) if self.settings.consistent else None
    not_finite, outside = [0] * count, [0] * count
    prepared = self.sampler.prepare(lr, self.request)
    settings = self.settings
    for index, (rows, columns), pixels in self.sampler.draw(
      prepared, settings.seed, range(count), settings.temperature
    ):
      finite = np.isfinite(pixels)
      not_finite[index] += int(np.count_nonzero(~finite))
      pixels = np.where(finite, pixels, 0)
      outside[index] += int(np.count_nonzero((pixels < OUTSIDE[0]) | (pixels > OUTSIDE[1])))
      if floats is None:
        samples[index, rows, columns] = _as_photograph(pixels, photograph)
      else:
        floats[index, rows, columns] = pixels
      bar.update(pixels.shape[0] * pixels.shape[1])
    tolerance = TOLERANCE * 255 / photograph.white
    for index, pixels in enumerate(floats if floats is not None else ()):
      samples[index] = _as_photograph(make_consistent(pixels, lr, scale, tolerance), photograph)
    kinds = (
      (not_finite, "that are not finite, which count as black"),
      (
        outside,
        f"outside [{OUTSIDE[0]:g}, {OUTSIDE[1]:g}], where 1 is white",
      ),
    )
    for counts, kind in kinds:
      for index, number in enumerate(counts):
        if number:
          file = _sample_path(self.output, self.path, index)
          bar.write(f"warning: {file} has {number:,} values {kind}", file=sys.stderr)
    return samples, not any(not_finite)


def _as_photograph(pixels: np.ndarray, photograph: Photograph) -> np.ndarray:
  """A sample's pixels as levels of the photograph's kind, grey or coloured."""
  if photograph.is_grey:
    pixels = np.clip(pixels, 0, 1).mean(-1, keepdims=True)
  return _levels(pixels, photograph.pixels.dtype)


def _floats(levels: np.ndarray) -> np.ndarray:
  """Levels of 8 or 16 bits as float32 in [0, 1]."""
  return (levels / np.iinfo(levels.dtype).max).astype(np.float32)


def _levels(pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """Floats, clipped to [0, 1], as levels of 8 or 16 bits."""
  white = np.iinfo(dtype).max
  return np.rint(np.clip(pixels, 0, 1) * white).astype(dtype)


def _shown(levels: np.ndarray) -> np.ndarray:
  """Pixels `[..., C]` of any kind as uint8 RGB `[..., 3]`, for a sheet."""
  levels = levels if levels.dtype == np.uint8 else (levels >> 8).astype(np.uint8)
  return np.broadcast_to(levels, (*levels.shape[:-1], 3))
