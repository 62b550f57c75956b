"""A run's training state, to its checkpoints and back."""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from srflow_jax.checkpoints import DamagedError, Writer, contents, load_trees, saved_steps
from srflow_jax.errors import InputError
from srflow_jax.runs import last_saved
from srflow_jax.training.step import TrainState


def _trees(state: TrainState) -> dict[str, Any]:
  """A state as trees: parameters and their average, all that evaluation needs, by themselves."""
  rest = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
  trees = {"params": rest.pop("params"), "ema": rest.pop("ema"), "rest": rest}
  return {name: tree for name, tree in trees.items() if tree}


def save(writer: Writer, state: TrainState, validation_loss: float = math.nan) -> None:
  """Begins to save a state under its step; training may go on meanwhile.

  Args:
    writer: of the run's checkpoints.
    state: the state.
    validation_loss: of its parameters, to find the best by; not a number if not computed.

  Raises:
    InputError: this or the previous one cannot be written; the good ones stay.
  """
  writer.save(int(state.step), _trees(state), validation_loss)


def restore(
  workdir: pathlib.Path, step: int, like: TrainState, fresh: Callable[[Any], TrainState]
) -> TrainState:
  """Reads a checkpoint.

  A moving average that was not saved, since the configuration had none, starts as the parameters.

  Args:
    workdir: the run's folder.
    step: of the checkpoint.
    like: the shapes and types of a state.
    fresh: makes a state of parameters alone, for checkpoints that hold nothing else.

  Returns:
    The state, as NumPy arrays.

  Raises:
    DamagedError: the checkpoint is not what was saved.
    InputError: it does not fit `like`, or cannot be read.
  """
  trees = load_trees(workdir, step, _trees(like), optional=("ema", "rest"))
  params = trees["params"]
  if "rest" not in trees:
    return fresh(params)
  if int(trees["rest"]["step"]) != step:
    saved = int(trees["rest"]["step"])
    raise DamagedError(f"checkpoint {step} in {workdir} is damaged (it is of step {saved})")
  # A copy: a buffer may be donated only once.
  ema = trees.get("ema", jax.tree.map(np.copy, params)) if like.ema else {}
  return TrainState(params=params, ema=ema, **trees["rest"])


def restore_latest(
  workdir: pathlib.Path, like: TrainState, fresh: Callable[[Any], TrainState]
) -> tuple[TrainState | None, list[DamagedError], list[int]]:
  """Reads the latest checkpoint that is not damaged.

  Args:
    workdir: the run's folder.
    like: as `restore` takes it.
    fresh: as `restore` takes it.

  Returns:
    The state, None if the run has no checkpoint yet; what is wrong with damaged ones; and their
    steps.

  Raises:
    InputError: it does not fit `like`, all are damaged, or all have vanished.
  """
  state, errors, damaged = None, [], []
  for step in reversed(saved_steps(workdir)):
    try:
      if state is None:
        state = restore(workdir, step, like, fresh)
      else:  # of older ones it is enough that none stops the checkpoint library
        contents(workdir, step)
    except DamagedError as error:
      errors.append(error)
      damaged.append(step)
  if state is not None:
    return state, errors, damaged
  if errors:
    raise InputError(f"{errors[0]}, and there is no other that is whole: nothing to go on from")
  if (saved := last_saved(workdir)) is not None:
    raise InputError(
      f"the checkpoints of {workdir} are gone: one of step {saved.step} had been saved. Put them "
      "back, or start anew in another workdir"
    )
  return None, [], []
