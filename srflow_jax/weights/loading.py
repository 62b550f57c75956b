"""A trained model to use: a run's, or one that is known by a name."""

import importlib.util
import os
from typing import Any, Literal

import jax
import ml_collections

from srflow_jax.checkpoints import Run, load_run
from srflow_jax.config import read_config
from srflow_jax.errors import InputError
from srflow_jax.model.building import build_model
from srflow_jax.weights import named
from srflow_jax.weights.checkpoint_file import read_checkpoint


def load_model(
  source: str | os.PathLike, step: int | Literal["best"] | None = None, ema: bool = True
) -> Run:
  """Loads a model with its parameters.

  Args:
    source: the folder of a run, or a name of `named.FINDERS`.
    step: of a run's checkpoint, as `checkpoints.load_run` takes it.
    ema: whether to take the moving average of a run's parameters, if it has one.

  Returns:
    The model. Of a named one, the configuration is `configs/base.py` with the model's own block,
    and the step is 0.

  Raises:
    InputError: it cannot be loaded; or a step is asked for of a named one, which has but one.
  """
  name = os.fspath(source)
  if name not in named.FINDERS:
    return load_run(source, step, ema)
  if step is not None:
    raise InputError(f"{name} is no run: it has no checkpoints to choose from")
  found = read_checkpoint(name)
  values = _base_config(name) | {"model": found.model_config}
  params = jax.device_put(found.params, jax.local_devices()[0])
  return Run(read_config(values), build_model(found.model_config), params, 0)


def _base_config(name: str) -> dict[str, Any]:
  """What `configs/base.py` of the repository gives; its folder may not be on Python's path."""
  path = named.in_repository(name, "configs/base.py")
  spec = importlib.util.spec_from_file_location("_srflow_jax_base_config", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config: ml_collections.ConfigDict = module.get_config()
  return config.to_dict()
