"""From a run's folder to its model with the parameters of a checkpoint."""

import dataclasses
import math
import os
import pathlib
import time
import warnings
from typing import Any, Literal

import jax

from srflow_jax.checkpoints.reading import (
  DamagedError,
  folder_of,
  load_trees,
  saved_steps,
  validation_loss,
)
from srflow_jax.config import Config
from srflow_jax.errors import InputError, InputWarning, is_whole
from srflow_jax.model.building import abstract_params, build_model
from srflow_jax.model.model import Model
from srflow_jax.runs import load_config, plugin_changes, workdir_path

_TRIES = 10  # to find a checkpoint that the run beside does not delete meanwhile


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained model.

  Attributes:
    config: the configuration that it was trained with.
    model: the model, built from it.
    params: its parameters, or their moving average.
    step: the steps that made them.
  """

  config: Config
  model: Model
  params: dict[str, Any]
  step: int


def load_run(
  workdir: str | os.PathLike, step: int | Literal["best"] | None = None, ema: bool = True
) -> Run:
  """Loads the model of a workdir with the parameters of one of its checkpoints.

  Args:
    workdir: the run's folder; training may go on in it meanwhile.
    step: of the checkpoint. "best" takes the one of the lowest validation loss, None the latest.
    ema: whether to take the moving average of the parameters, if the run has one.

  Raises:
    InputError: there is no run, no such checkpoint, or one that is damaged or does not fit the
      configuration.
  """
  workdir = workdir_path(workdir)
  config = load_config(workdir)
  for change in plugin_changes(workdir, config):
    warnings.warn(f"{workdir}: {change} since this run was made", InputWarning, stacklevel=2)
  model = build_model(config.model, config.compute)
  like = abstract_params(model)
  for _ in range(_TRIES):
    chosen = _chosen_step(workdir, step)
    try:
      params = _load_params(workdir, chosen, like, ema)
    except DamagedError as error:
      # Training keeps few checkpoints and may be deleting this one; then there is a newer one.
      time.sleep(1)
      if (folder_of(workdir) / str(chosen)).exists():
        others = [str(s) for s in saved_steps(workdir) if s != chosen]
        raise InputError(
          f"{error}; there are others of steps: {', '.join(others) or 'none'}"
        ) from error
      continue
    device = jax.local_devices()[0]
    return Run(config, model, jax.device_put(params, device), chosen)
  raise InputError(f"{workdir}: training deletes checkpoints faster than they can be read")


def _load_params(workdir: pathlib.Path, step: int, like: Any, ema: bool) -> dict[str, Any]:
  names = ("ema", "params") if ema else ("params",)
  trees = load_trees(workdir, step, {names[0]: like}, optional=("ema",))
  return (
    trees.get("ema") or trees.get("params") or load_trees(workdir, step, {"params": like})["params"]
  )


def _chosen_step(workdir: pathlib.Path, step: int | Literal["best"] | None) -> int:
  steps = saved_steps(workdir)
  if not steps:
    raise InputError(f"no checkpoint in {workdir}")
  if step is None:
    return steps[-1]
  if step == "best":
    losses = {s: validation_loss(workdir, s) for s in steps}
    validated = [s for s in steps if math.isfinite(losses[s])]
    if not validated:
      raise InputError(f"no checkpoint in {folder_of(workdir)} has a validation loss")
    return min(validated, key=losses.get)
  if not is_whole(step):
    raise InputError(f"step is {step!r}: it must be a whole number, 'best' or None")
  if step not in steps:
    there = ", ".join(map(str, steps))
    raise InputError(f"no checkpoint of step {step} in {folder_of(workdir)}; there are {there}")
  return int(step)
