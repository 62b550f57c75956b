"""What a run starts from: its configuration, refused if it cannot be used, and its first state."""

import contextlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srflow_jax.config import Config, Data, Optim
from srflow_jax.data.pairs import PairSource
from srflow_jax.data.pipeline import iterate
from srflow_jax.data.sources import open_source
from srflow_jax.errors import InputError
from srflow_jax.files import write_whole
from srflow_jax.model.building import (
  abstract_params,
  count_parameters,
  init_params,
  parameter_table,
  parts_of,
)
from srflow_jax.model.kinds import all_parts
from srflow_jax.model.model import Model
from srflow_jax.sampling.machine import host_bytes, num_processors
from srflow_jax.training import optimizer
from srflow_jax.training.step import TrainState, create_state, to_training_images

_WORKERS_A_CORE = 64  # more only wait for each other


def check(config: Config, model: Model) -> None:
  """Refuses fields that do not fit each other, which would only fail later.

  Args:
    config: the whole configuration.
    model: its model.

  Raises:
    InputError: a field has a value that cannot be used; it is named.
  """
  multiple = model.scale * model.lr_multiple
  if config.data.hr_patch % multiple:
    raise InputError(
      f"config.data.hr_patch is {config.data.hr_patch}: this model needs a multiple of {multiple}"
    )
  optim = config.optim
  _check_sizes(config.data, model.scale)
  _check_plugins(config, model)
  _check_flow(optim, model)
  optimizer.check(optim, config.data.batch_size, jax.device_count())
  if optim.encoder_init and optim.encoder_frozen_fraction and len(model.parts) == 1:
    raise InputError(
      f"config.optim.encoder_frozen_fraction is {optim.encoder_frozen_fraction}: there is nothing "
      "but the encoder to train, so it must be 0"
    )


def _check_sizes(data: Data, scale: int) -> None:
  """Refuses numbers with which a run would be silent for long, and then end."""
  patch = 3 * data.hr_patch**2 * (1 + 1 / scale**2)  # bytes of HR and LR
  usable = host_bytes()
  for field in ("batch_size", "val_patches"):
    number = getattr(data, field)
    if number * patch > usable:
      raise InputError(
        f"config.data.{field} is {number}: so many patches take {number * patch / 1e9:.1f} GB, and "
        f"there are {usable / 1e9:.1f}"
      )
  if data.num_workers > (most := _WORKERS_A_CORE * num_processors()):
    raise InputError(
      f"config.data.num_workers is {data.num_workers}: this machine's cores serve {most} at most"
    )


def _check_plugins(config: Config, model: Model) -> None:
  """Refuses kinds that this process happens to know and who reads the run later would not."""
  named = {"srflow_jax", *(module.partition(".")[0] for module in config.plugins)}
  for part in (*all_parts([config.data.noise]), *parts_of(model)):
    module = part.cls.__module__
    if module.partition(".")[0] not in named:
      raise InputError(
        f"config.plugins must name {module}, where the {part.cls.place} {part.kind!r} is: else "
        "whoever reads the run would not know it"
      )


def _check_flow(optim: Optim, model: Model) -> None:
  """Refuses what `optim` says of a flow that does not fit the model's."""
  for field in ("flow_init", "flow_trained"):
    value = getattr(optim, field)
    if value and len(model.parts) == 1:
      raise InputError(f"config.optim.{field} is {value!r}: this model is an encoder, with no flow")
  if not optim.flow_trained:
    return
  flow = {"flow": abstract_params(model)["flow"]}
  if not any(jax.tree.leaves(optimizer.is_trained(optim, flow))):
    some = jax.tree_util.tree_leaves_with_path(flow)[0][0]
    raise InputError(
      f"config.optim.flow_trained is {optim.flow_trained!r}: in the name of no parameter of the "
      f"flow; one is {optimizer.parameter_name(some)}"
    )


def first_batch(
  config: Config, scale: int, images: PairSource | None = None
) -> dict[str, np.ndarray]:
  """The whole first batch. Every process reads all of it, so all start from equal parameters.

  Args:
    config: the whole configuration.
    scale: HR pixels per LR pixel.
    images: those to train on, if they are open already.
  """
  images = images or open_source(config.data, scale, "train")
  batches: Any = iterate(images, config.data, scale, config.seed)
  with contextlib.closing(batches):
    return next(batches)


def initial_state(
  model: Model, config: Config, batch: dict[str, np.ndarray], given: dict[str, Any]
) -> TrainState:
  """Parameters drawn from the seed, actnorms set by the batch, with noise as training adds it.

  It is not compiled as a whole, which would take several times longer than it saves.

  Args:
    model: the model.
    config: the whole configuration.
    batch: the whole first batch.
    given: parts of the parameters that are not drawn.
  """
  key = jax.random.key(config.seed)
  init_key, noise_key = jax.random.split(key)
  images = jax.tree.map(jnp.asarray, batch)
  hr, given_images = to_training_images(images, config.data.noise, noise_key)
  return create_state(config.optim, init_params(model, init_key, hr, given_images, given), key)


def parameter_line(params: dict[str, Any]) -> str:
  """How many parameters each part of a model has, in one line."""
  sizes = ", ".join(f"{part} {count_parameters(tree):,}" for part, tree in params.items())
  return f"parameters: {sizes}"


def write_parameter_table(workdir: pathlib.Path, params: dict[str, Any]) -> None:
  """Writes the table of parameters into `parameters.txt` of a run's folder.

  Raises:
    InputError: the file cannot be written.
  """
  write_whole(workdir / "parameters.txt", f"{parameter_table(params)}\n")
