"""What a variant costs: parameters, operations and memory of a step, seconds on this device."""

import dataclasses
import functools
import pathlib
import platform
import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from srflow_jax.config import MOST_STEPS, Config
from srflow_jax.errors import InputError
from srflow_jax.model.building import abstract_params, build_model, count_parameters
from srflow_jax.model.model import Model
from srflow_jax.ops.costs import count_flops, program_bytes
from srflow_jax.sampling.machine import num_processors, on_cpu
from srflow_jax.studies.study import Budget
from srflow_jax.training import devices, start
from srflow_jax.training.step import create_state, make_train_step
from srflow_jax.weights.starting import starting_params

_TIMED_STEPS = 5  # of which the median counts


@dataclasses.dataclass(frozen=True)
class PerStep:
  """A number for a step in each phase of a run: while the encoder is frozen, and after.

  A run without a frozen phase has 0 in its place.
  """

  frozen: float
  full: float

  def of_run(self, config: Config) -> float:
    """The sum over all steps of a run."""
    frozen = config.frozen_steps
    return frozen * self.frozen + (config.num_train_steps - frozen) * self.full


def device_kind() -> str:
  """What times can be compared on: the kind and number of devices, of a CPU its model."""
  if not on_cpu():
    return f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
  name = platform.processor() or platform.machine()
  info = pathlib.Path("/proc/cpuinfo")
  lines = info.read_text().splitlines() if info.exists() else []
  names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
  return f"{names[0] if names else name}, {num_processors()} processors"


def parameters(config: Config) -> dict[str, int]:
  """How many parameters each part of a configuration's model has."""
  params = abstract_params(build_model(config.model, config.compute))
  return {part: count_parameters(tree) for part, tree in params.items()}


def flops(config: Config) -> PerStep:
  """The floating-point operations of a step, as `ops.costs.count_flops` counts them.

  Raises:
    InputError: they cannot be counted.
  """
  try:
    counted = [count_flops(traced.jaxpr.jaxpr) if traced else 0 for traced in _traced(config)]
  except ValueError as error:
    raise InputError(f"the operations of a step cannot be counted: {error}") from error
  return PerStep(*counted)


def steps_of(budget: Budget, config: Config) -> int:
  """How many steps of a configuration a budget is.

  Raises:
    InputError: the budget is of seconds on another kind of device than this.
  """
  if budget.steps:
    return budget.steps
  if budget.flops:
    return _steps_within(budget.flops, flops(config), config)
  if budget.device != device_kind():
    raise InputError(
      f"study.budget: its seconds are of {budget.device!r}, and this is {device_kind()!r}"
    )
  return _steps_within(budget.seconds, measured(config).seconds, config)


def _steps_within(budget: float, each: PerStep, config: Config) -> int:
  """The largest number of steps whose sum is within the budget."""

  def total(steps: int) -> float:
    return each.of_run(dataclasses.replace(config, num_train_steps=steps))

  low, high = 0, MOST_STEPS
  while low < high:  # the sum grows with the steps
    middle = (low + high + 1) // 2
    low, high = (middle, high) if total(middle) <= budget else (low, middle - 1)
  return low


@dataclasses.dataclass(frozen=True)
class Measured:
  """What compiling and running a few steps tells.

  Attributes:
    seconds: of a step.
    memory_bytes: the larger of the two phases' programs, by the compiler.
  """

  seconds: PerStep
  memory_bytes: int


def measured(config: Config, timed: bool = True) -> Measured:
  """Compiles a variant's steps and, unless told otherwise, times some of each.

  Args:
    config: the variant's configuration.
    timed: whether steps are run; if not, their seconds are 0.
  """
  model = build_model(config.model, config.compute)
  state, batch = _on_devices(config, model) if timed else _shapes(config, model)
  seconds, memory = [], 0
  for parts in _phases(config):
    seconds.append(0.0)
    if not parts:
      continue
    program = make_train_step(model, config, parts).lower(state, batch).compile()
    memory = max(memory, program_bytes(program))
    if timed:
      taken = []
      for _ in range(_TIMED_STEPS + 1):
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(program(state, batch))
        taken.append(time.perf_counter() - begin)
      seconds[-1] = statistics.median(taken[1:])  # the first one warms up
  return Measured(PerStep(*seconds), memory)


def _on_devices(config: Config, model: Model) -> tuple[Any, Any]:
  """A run's first state and batch."""
  batch = start.first_batch(config, model.scale)
  state = start.initial_state(model, config, batch, starting_params(config, model))
  mesh = devices.data_mesh()
  return devices.put_replicated(mesh, state), devices.put_batch(mesh, batch)


def _shapes(config: Config, model: Model) -> tuple[Any, Any]:
  """The shapes of both."""
  new_state = functools.partial(create_state, config.optim, key=jax.random.key(config.seed))
  return jax.eval_shape(new_state, abstract_params(model)), _batch_shapes(config)


def _phases(config: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """What is trained while the encoder is frozen, and after; () for a phase that there is not."""
  model: Model = build_model(config.model, config.compute)
  fraction = config.optim.encoder_frozen_fraction if config.optim.encoder_init else 0.0
  unfrozen = tuple(part for part in model.parts if part != "encoder")
  return unfrozen if fraction else (), model.parts if fraction < 1 else ()


def _traced(config: Config) -> list[jax.stages.Traced | None]:
  """A step of each phase, traced in shapes alone; None for a phase that there is not."""
  model = build_model(config.model, config.compute)
  state, batch = _shapes(config, model)
  return [
    make_train_step(model, config, parts).trace(state, batch) if parts else None
    for parts in _phases(config)
  ]


def _batch_shapes(config: Config) -> Mapping[str, jax.ShapeDtypeStruct]:
  size, data = config.data.hr_patch, config.data
  sides = {"hr": size, "lr": size // config.model.scale}
  return {
    name: jax.ShapeDtypeStruct((data.batch_size, side, side, 3), np.uint8)
    for name, side in sides.items()
  }
