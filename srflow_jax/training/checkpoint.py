"""Checkpoints: how they are written while training goes on, and how they are read again.

The one after N steps, in W/checkpoints/N, has the items `params`, `ema` if there is one, `rest`
(all else that training needs), and the validation loss if it was computed then.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import ml_collections
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from srflow_jax.errors import InputError
from srflow_jax.model.building import abstract_params, build_model
from srflow_jax.model.model import SRFlow
from srflow_jax.runs import read_config
from srflow_jax.training.step import TrainState

_LOSS = "validation_loss"  # its name in a checkpoint


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained model.

  Attributes:
    config: the configuration that it was trained with.
    model: the model, built from it.
    params: its parameters, or their moving average.
    step: the steps that made them.
  """

  config: ml_collections.ConfigDict
  model: SRFlow
  params: dict[str, Any]
  step: int


def _goodness(metrics: dict[str, float]) -> float:
  """The more, the better; a checkpoint without a validation loss is worse than any other."""
  loss = metrics[_LOSS]
  return -loss if math.isfinite(loss) else -math.inf


def _manager(workdir: pathlib.Path, **options: Any) -> ocp.CheckpointManager:
  handlers = {item: ocp.StandardCheckpointHandler() for item in ("params", "ema", "rest")}
  return ocp.CheckpointManager(
    (workdir / "checkpoints").resolve(),
    options=ocp.CheckpointManagerOptions(best_fn=_goodness, **options),
    item_handlers=handlers,
  )


@contextlib.contextmanager
def checkpoint_manager(
  workdir: pathlib.Path, keep: int, keep_best: int = 0
) -> Iterator[ocp.CheckpointManager]:
  """Orbax's manager of a workdir's checkpoints, to write them; all processes must enter it.

  What a killed process left half-written is deleted. Leaving waits for what is being saved.

  Args:
    workdir: the run's folder.
    keep: the latest so many checkpoints are kept,
    keep_best: and the so many of the lowest validation loss.

  Raises:
    InputError: a checkpoint cannot be written; the good ones stay.
  """
  policies = [
    checkpoint_managers.LatestN(keep),
    checkpoint_managers.BestN(get_metric_fn=_goodness, n=keep_best),
  ]
  manager = _manager(
    workdir,
    cleanup_tmp_directories=True,
    preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
  )
  try:
    yield manager
  finally:
    with _failures_named(manager):
      manager.close()


def _reader(workdir: pathlib.Path) -> ocp.CheckpointManager:
  """A manager to read with, for this process alone."""
  here = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(primary_host=here, active_processes={here})
  return _manager(workdir, create=False, multiprocessing_options=alone)


def has_checkpoint(workdir: pathlib.Path) -> bool:
  """Whether a workdir holds a checkpoint."""
  if not (workdir / "checkpoints").is_dir():
    return False
  with _reader(workdir) as manager:
    return manager.latest_step() is not None


@contextlib.contextmanager
def _failures_named(manager: ocp.CheckpointManager) -> Iterator[None]:
  """Makes an `InputError` of what the system refuses to write."""
  try:
    yield
  except (OSError, ValueError) as error:
    if isinstance(error, OSError):
      reason = error.strerror
    elif code := re.search(r"os_error_code='(\d+)'", str(error)):  # from TensorStore
      reason = os.strerror(int(code.group(1)))
    else:
      raise
    steps = manager.all_steps(read=True)  # on the disk
    good = f"the last good one is of step {max(steps)}" if steps else "there is none yet"
    raise InputError(f"cannot save to {manager.directory}: {reason}; {good}") from error


def _items(state: TrainState) -> dict[str, Any]:
  """A state as items: parameters and their average, all that evaluation needs, by themselves."""
  rest = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
  items = {"params": rest.pop("params"), "ema": rest.pop("ema"), "rest": rest}
  return {name: item for name, item in items.items() if item}


def save(
  manager: ocp.CheckpointManager, state: TrainState, validation_loss: float = math.nan
) -> None:
  """Begins to save a state under its step; training may go on meanwhile.

  Args:
    manager: of the run's checkpoints.
    state: the state.
    validation_loss: of its parameters, to find the best by; not a number if not computed.

  Raises:
    InputError: this or the previous one cannot be written; the good ones stay.
  """
  items = {name: ocp.args.StandardSave(item) for name, item in _items(state).items()}
  with _failures_named(manager):
    manager.save(
      int(state.step), args=ocp.args.Composite(**items), metrics={_LOSS: validation_loss}
    )


def wait(manager: ocp.CheckpointManager, only_if_done: bool = False) -> None:
  """Waits until all is saved; `InputError` if it cannot be.

  Args:
    manager: of the run's checkpoints.
    only_if_done: do not wait, but look whether a save that has ended was a good one.
  """
  if only_if_done and manager.is_saving_in_progress():
    return
  with _failures_named(manager):
    manager.wait_until_finished()


def restore(manager: ocp.CheckpointManager, like: TrainState) -> TrainState:
  """Restores the latest checkpoint with the shapes, types and sharding of `like`.

  A moving average that was not saved, since the configuration had none, starts as the parameters.

  Raises:
    InputError: the checkpoint does not fit.
  """
  step = manager.latest_step()
  saved = _saved_items(manager, step)
  items = {name: item for name, item in _items(like).items() if name != "ema" or name in saved}
  for name, item in items.items():
    _check_shapes(item, saved[name], manager.directory / str(step))
  items = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
  state = manager.restore(step, args=ocp.args.Composite(**items))
  ema = state.get("ema", jax.tree.map(jnp.copy, state["params"]) if like.ema else {})
  return TrainState(params=state["params"], ema=ema, **state["rest"])


def _saved_items(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
  """Names, shapes and types of what a checkpoint holds, by item."""
  metadata = manager.item_metadata(step)
  return {name: item.tree for name, item in metadata.items() if hasattr(item, "tree")}


def with_sharding(tree: Any, sharding: jax.sharding.Sharding) -> Any:
  """A tree of shapes and types, to be restored with a sharding."""
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
  )


def _stored_shape(leaf: Any) -> tuple[int, ...]:
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.eval_shape(jax.random.key_data, leaf)
  return tuple(leaf.shape)


def _check_shapes(like: Any, saved: Any, where: os.PathLike) -> None:
  wanted, found = (
    {
      jax.tree_util.keystr(path, simple=True, separator="/"): _stored_shape(leaf)
      for path, leaf in leaves
    }
    for leaves in (jax.tree_util.tree_leaves_with_path(tree) for tree in (like, saved))
  )
  for name in sorted(wanted.keys() | found.keys()):
    if wanted.get(name) != found.get(name):
      raise InputError(
        f"{where} does not fit the configuration: {name} has shape {found.get(name)}, "
        f"the configuration's is {wanted.get(name)}"
      )


def load_run(
  workdir: str | os.PathLike, step: int | Literal["best"] | None = None, ema: bool = True
) -> Run:
  """Loads the model of a workdir with the parameters of one of its checkpoints.

  Args:
    workdir: the run's folder; training may go on in it meanwhile.
    step: of the checkpoint; "best": the one of the lowest validation loss; None: the latest.
    ema: whether to take the moving average of the parameters, if the run has one.

  Raises:
    InputError: there is no run, no such checkpoint, or one that does not fit the configuration.
  """
  workdir = pathlib.Path(workdir)
  config = read_config(workdir)
  model = build_model(config.model, config.get("compute"))
  if not has_checkpoint(workdir):
    raise InputError(f"no checkpoint in {workdir}")
  with _reader(workdir) as manager:
    step = _chosen_step(manager, step)
    saved = _saved_items(manager, step)
    item = "ema" if ema and "ema" in saved else "params"
    like = abstract_params(model)
    _check_shapes(like, saved[item], workdir / "checkpoints" / str(step))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    items = {item: ocp.args.StandardRestore(with_sharding(like, device))}
    params = manager.restore(step, args=ocp.args.Composite(**items))[item]
  return Run(config, model, params, step)


def _chosen_step(manager: ocp.CheckpointManager, step: int | Literal["best"] | None) -> int:
  if step is None:
    return manager.latest_step()
  if step == "best":
    best = manager.best_step()
    metrics = manager.metrics(best)
    if not metrics or not math.isfinite(metrics[_LOSS]):
      raise InputError(f"no checkpoint in {manager.directory} has a validation loss")
    return best
  if step not in manager.all_steps():
    steps = ", ".join(map(str, manager.all_steps()))
    raise InputError(f"no checkpoint of step {step} in {manager.directory}; there are {steps}")
  return step
