"""An evaluation from beginning to end: trained models beside bicubic, on a set of images."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from srflow_jax.checkpoints import Run
from srflow_jax.errors import InputError
from srflow_jax.evaluation import folder, lpips_vgg, report
from srflow_jax.evaluation.evaluator import Settings
from srflow_jax.evaluation.execution import Entry, evaluate_entries
from srflow_jax.evaluation.inputs import find_images, validation_folders
from srflow_jax.evaluation.outcome import Outcome
from srflow_jax.evaluation.recipes import Recipe, recipes_of
from srflow_jax.evaluation.search import search_temperatures
from srflow_jax.evaluation.systems import Bicubic, Trained
from srflow_jax.model.building import count_parameters, parameter_table
from srflow_jax.model.srflow import SRFlow, SuperResolver
from srflow_jax.runs import chosen_temperature, is_imported, workdir_path
from srflow_jax.sampling.denoising import removable_variance
from srflow_jax.sampling.sampler import Sampler
from srflow_jax.sampling.temperatures import Temperature, check_temperature, temperature_text
from srflow_jax.weights import named
from srflow_jax.weights.loading import load_model


@dataclasses.dataclass(frozen=True)
class Memory:
  """How much memory may be used, and how tiles overlap; see `sampling.sampler.Sampler`."""

  max_memory_gb: float = 0.0
  tile_overlap: int | None = None


@dataclasses.dataclass(frozen=True)
class Weights:
  """Which of a run's weights are evaluated; see `srflow_jax.weights.loading.load_model`."""

  step: int | Literal["best"] | None = None
  ema: bool = True


def evaluate_workdirs(
  workdirs: Sequence[str],
  hr_dir: str,
  lr_dir: str,
  output_dir: str,
  settings: Settings,
  command: str,
  temperatures: Sequence[Temperature] | None = (),
  memory: Memory = Memory(),
  weights: Weights = Weights(),
) -> Outcome:
  """Evaluates checkpoints of training runs, and bicubic, side by side.

  Args:
    workdirs: The runs' folders or names of `weights.named`, of one scale.
    hr_dir: Folder of HR images, or ''.
    lr_dir: Folder of LR images, or ''; `find_images` says how they go together. If both are '',
      the images are those that the first run's configuration names for validation.
    output_dir: Where everything is written; '' for `evaluation` in the first workdir.
    settings: How samples are drawn.
    command: What was typed, for the report.
    temperatures: Of a flow's samples, a row of the table each; if there are none, the settings'
      own is taken. None if no temperature was given at all: then each run's is the one that a
      search chose for it (`search.py`), or else the settings'.
    memory: Budget and overlap.
    weights: Which of the runs' weights are evaluated.

  Returns:
    How it ended; its text is the table, and where the files are.

  Raises:
    InputError: Something given cannot be used.
  """
  given = list(temperatures or ())
  _check_settings(settings, given)
  if workdirs[0] in named.FINDERS and not output_dir:
    raise InputError(f"{workdirs[0]} is no folder to write to: give --output_dir")
  runs = _load_runs(workdirs, weights)
  first = runs[workdirs[0]]
  scale = first.config.model.scale
  if not hr_dir and not lr_dir:
    hr_dir, lr_dir = validation_folders(first.config.data)
  output = pathlib.Path(output_dir or pathlib.Path(workdirs[0], "evaluation"))
  folder.check_apart(output, hr_dir, lr_dir)
  images = find_images(scale, hr_dir, lr_dir, leave_out=[output, *workdirs])
  by_run = {
    workdir: given or [_chosen(workdir, settings, ask=temperatures is None)] for workdir in runs
  }
  entries, models = [Entry(Bicubic.name, Bicubic(scale), Recipe(settings.temperature))], {}
  for workdir, run in runs.items():
    sampler = Sampler(run.model, run.params, memory.max_memory_gb, memory.tile_overlap)
    noise_variance = (
      removable_variance(run.config.data.noise, workdir)
      if settings.denoise and run.model.stochastic
      else None
    )
    system = Trained(pathlib.Path(workdir).resolve().name, sampler, noise_variance)
    for temperature in by_run[workdir] if system.stochastic else ():
      check_temperature(temperature, run.model.num_latents)
    own = _entries_of(system, by_run[workdir], settings)
    if settings.estimates and _encoder_super_resolves(workdir, run):
      own.append(_encoder_entry(system.name, run, memory))
    entries += own
    digest = _digest(run.params)
    for entry in own:
      models[entry.name] = {
        "workdir": os.fspath(workdir),
        "step": int(run.step),
        "temperature": entry.recipe.temperature,
        "made": _ENCODER
        if entry.system is not system
        else entry.recipe.label(settings.num_samples),
        "params": {part: count_parameters(tree) for part, tree in run.params.items()},
        "sha256": digest,
      }
  about = _about(runs, settings, memory, weights) | {
    "command": command,
    "hr_dir": hr_dir or (None if lr_dir else "scikit-image's photographs"),
    "lr_dir": lr_dir or None,
    "models": models,
    "temperatures": list(dict.fromkeys(t for own in by_run.values() for t in own)),
  }
  return evaluate_entries(entries, images, output, settings, about)


def _check_settings(settings: Settings, temperatures: Sequence[Temperature]) -> None:
  for temperature in temperatures:
    dataclasses.replace(settings, temperature=temperature).check()
  if len(set(temperatures)) < len(temperatures):
    raise InputError(
      f"temperatures are {', '.join(map(temperature_text, temperatures))}: one is there twice"
    )
  settings.check()
  if settings.lpips_vgg:
    lpips_vgg.load()


def _load_runs(workdirs: Sequence[str], weights: Weights) -> dict[str, Run]:
  """The runs by their folders; `InputError` if they are not of one scale."""
  runs = {workdir: load_model(workdir, weights.step, weights.ema) for workdir in workdirs}
  scale = runs[workdirs[0]].config.model.scale
  for workdir, run in runs.items():
    if run.config.model.scale != scale:
      raise InputError(
        f"{workdir} enlarges by {run.config.model.scale}, {workdirs[0]} by {scale}: evaluate them "
        "apart"
      )
  return runs


def _about(
  runs: Mapping[str, Run], settings: Settings, memory: Memory, weights: Weights
) -> dict[str, Any]:
  """What the summary says of all runs, of the first one alone, and of how they are evaluated."""
  workdir, first = next(iter(runs.items()))
  scale = int(first.config.model.scale)
  return {
    "protocol": settings.protocol(),
    "luma_protocol": settings.luma_protocol(scale),
    "scale": scale,
    "workdir": os.fspath(workdir),
    "step": int(first.step),
    "params": {part: count_parameters(tree) for part, tree in first.params.items()},
    "num_samples": settings.num_samples,
    "temperature": settings.temperature,
    "seed": settings.seed,
    "lpips_vgg": settings.lpips_vgg,
    "consistent": settings.consistent,
    "estimates": settings.estimates,
    "denoise": settings.denoise,
    "ema": weights.ema,
    "max_memory_gb": memory.max_memory_gb,
    "tile_overlap": memory.tile_overlap,
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
    "config": first.config.to_dict(),
    "configs": {os.fspath(workdir): run.config.to_dict() for workdir, run in runs.items()},
    "parameter_tables": {
      os.fspath(workdir): parameter_table(run.params) for workdir, run in runs.items()
    },
  }


def search_workdir(
  workdirs: Sequence[str],
  hr_dir: str,
  lr_dir: str,
  output_dir: str,
  settings: Settings,
  memory: Memory = Memory(),
  weights: Weights = Weights(),
) -> Outcome:
  """Searches the temperatures of one run (`search.search_temperatures`); see above for the rest.

  Raises:
    InputError: There are several runs or there is a folder of LR images; or as it says there.
  """
  if len(workdirs) > 1 or lr_dir:
    raise InputError("--temperatures=search takes one --workdir, and HR images")
  settings.check()
  run = load_model(workdirs[0], weights.step, weights.ema)
  sampler = Sampler(run.model, run.params, memory.max_memory_gb, memory.tile_overlap)
  return search_temperatures(workdirs[0], run, hr_dir, output_dir, settings, sampler)


def _chosen(workdir: str, settings: Settings, ask: bool) -> Temperature:
  """The settings' temperature, or that which a search chose for the run, which is then told."""
  chosen = chosen_temperature(workdir) if ask and workdir not in named.FINDERS else None
  if chosen is None:
    return settings.temperature
  print(report.printable(f"{workdir}: {chosen}"))
  return chosen.temperature


def _entries_of(
  system: Trained, temperatures: list[Temperature], settings: Settings
) -> list[Entry]:
  """The rows of a trained model."""
  if not system.stochastic:
    temperatures = [0.0]  # whatever levels others have
  entries = []
  for recipe in [
    recipe
    for temperature in temperatures
    for recipe in recipes_of(
      temperature,
      settings.estimates and system.stochastic,
      settings.denoise if system.stochastic else (),
      settings.consistent,
    )
  ]:
    temperature = f"t={temperature_text(recipe.temperature)}" if len(temperatures) > 1 else ""
    words = system.name, temperature, recipe.label(settings.num_samples)
    entries.append(Entry(" ".join(filter(None, words)), system, recipe))
  return entries


_ENCODER = "encoder"


def _encoder_super_resolves(workdir: str, run: Run) -> bool:
  """Whether a flow's encoder makes images by itself; says so if it could, but was not trained to.

  The layers that do so are trained with the flow where its target needs them. Else they are what
  the run started from, and of use until the blocks before them are trained.
  """
  model = run.model
  if not (isinstance(model, SRFlow) and model.encoder_part.cls.super_resolves):
    return False
  if model.target.needs_super_resolution:
    return True
  started = run.config.optim.encoder_init or is_imported(workdir_path(workdir))
  if started and run.step <= run.config.frozen_steps:
    return True
  print(report.printable(f"{workdir}: no row of its encoder alone, which was not trained for that"))
  return False


def _encoder_entry(name: str, run: Run, memory: Memory) -> Entry:
  """The row of what a flow's encoder makes of LR images by itself.

  It is what the mean of the samples is to be compared with: an encoder is trained for the mean.
  """
  model = run.model
  alone = SuperResolver(scale=model.scale, encoder_part=model.encoder_part, compute=model.compute)
  params = {"encoder": run.params["encoder"]}
  sampler = Sampler(alone, params, memory.max_memory_gb, memory.tile_overlap)
  return Entry(f"{name} {_ENCODER}", Trained(name, sampler), Recipe(0.0))


def _digest(params: Any) -> str:
  """Tells checkpoints apart, by all their numbers."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(params):
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()
