"""Checkpoints of a run, and the models in them.

The checkpoint after N steps is the folder W/checkpoints/N. Orbax writes it, whole or not at all,
while training goes on. In it are

    params, ema, rest   trees of arrays: the parameters, their moving average if the run has one,
                        and all else that training needs (of imported weights there is none)
    contents            JSON: the step, the validation loss if it was computed then, and of each
                        tree a SHA-256 of its names, types, shapes and values

What is read is compared with these digests. Checkpoints of earlier versions have the validation
loss in `metrics` and no digests.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import pathlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from srflow_jax.config import Config
from srflow_jax.errors import InputError
from srflow_jax.files import read_json
from srflow_jax.model.building import abstract_params, build_model
from srflow_jax.model.model import Model
from srflow_jax.runs import load_config, note_saved, workdir_path

_TREES = ("params", "ema", "rest")
_CONTENTS = "contents"
_CONTENTS_FILE = "contents.json"
_TRIES = 10  # to find a checkpoint that the run beside does not delete meanwhile


class DamagedError(InputError):
  """A checkpoint does not hold what was saved; the message names it and says why."""


@dataclasses.dataclass(frozen=True)
class Contents:
  """What a checkpoint says of itself.

  Attributes:
    sha256: of each tree, by name; None in a checkpoint of an earlier version.
    validation_loss: not a number if it was not computed.
  """

  sha256: Mapping[str, str] | None
  validation_loss: float


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


def _folder(workdir: pathlib.Path) -> pathlib.Path:
  return workdir / "checkpoints"


def saved_steps(workdir: pathlib.Path) -> list[int]:
  """The steps of a workdir's checkpoints in order, damaged ones included.

  Raises:
    InputError: the folder cannot be read.
  """
  try:
    names = [path.name for path in _folder(workdir).iterdir() if path.is_dir()]
  except FileNotFoundError:
    return []
  except OSError as error:
    raise InputError(f"{_folder(workdir)}: cannot be read: {error.strerror}") from error
  return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name))


def _by_path(tree: Any) -> dict[str, Any]:
  """A tree's leaves by their names, as "flow/stages_0/split/prior/bias"."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _is_key(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _digest(tree: Any) -> str:
  """The SHA-256 of a tree's names, types, shapes and values."""
  digest = hashlib.sha256()
  for name, leaf in sorted(_by_path(tree).items()):
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    leaf = leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf
    array = np.ascontiguousarray(leaf)
    digest.update(f"{name} {array.dtype} {np.shape(leaf)}\n".encode())
    digest.update(array.reshape(-1).view(np.uint8))
  return digest.hexdigest()


# --- Writing. ---


class Writer:
  """Writes a run's checkpoints and deletes those that need not be kept; see `writer`."""

  def __init__(self, workdir: pathlib.Path, keep: int, keep_best: int) -> None:
    self._workdir = workdir
    self._losses = {step: _validation_loss(workdir, step) for step in saved_steps(workdir)}
    self._saving: int | None = None  # the step that is not yet noted as saved
    handlers = {name: ocp.StandardCheckpointHandler() for name in _TREES}
    handlers[_CONTENTS] = ocp.JsonCheckpointHandler(_CONTENTS_FILE)
    self._manager = ocp.CheckpointManager(
      _folder(workdir).resolve(),
      options=ocp.CheckpointManagerOptions(
        cleanup_tmp_directories=True,
        preservation_policy=_Preserved(keep, keep_best, self._losses),
      ),
      item_handlers=handlers,
    )

  def save(self, step: int, trees: Mapping[str, Any], validation_loss: float = math.nan) -> None:
    """Begins to save a checkpoint; the arrays may be changed or deleted at once.

    Args:
      step: the steps done.
      trees: "params", and "ema" and "rest" if there are such.
      validation_loss: of the parameters, to find the best by; not a number if not computed.

    Raises:
      InputError: this or the previous one cannot be written; the good ones stay.
    """
    loss = validation_loss if math.isfinite(validation_loss) else None
    about = {
      "step": step,
      "validation_loss": loss,
      "sha256": {name: _digest(tree) for name, tree in trees.items()},
    }
    items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
    items[_CONTENTS] = ocp.args.JsonSave(about)
    self.wait()
    self._losses[step] = validation_loss
    with self._failures_named():
      begun = self._manager.save(step, args=ocp.args.Composite(**items))
    if not begun:
      raise InputError(
        f"{self._manager.directory}: the checkpoint of step {step} was not saved, since there is "
        f"one of step {self._manager.latest_step()}"
      )
    self._saving = step

  def wait(self, only_if_done: bool = False) -> None:
    """Waits until all is saved; `InputError` if it cannot be.

    Args:
      only_if_done: do not wait, but look whether a save that has ended was a good one.
    """
    if only_if_done and self._manager.is_saving_in_progress():
      return
    with self._failures_named():
      self._manager.wait_until_finished()
    if self._saving is not None and jax.process_index() == 0:
      note_saved(self._workdir, self._saving)
    self._saving = None

  def close(self) -> None:
    """Waits, and ends the threads that write."""
    try:
      self.wait()
    finally:
      with self._failures_named():
        self._manager.close()

  def reload(self) -> None:
    """Looks again which checkpoints there are, after some were set aside."""
    self._manager.reload()

  @contextlib.contextmanager
  def _failures_named(self) -> Iterator[None]:
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
      self._saving = None
      steps = saved_steps(self._workdir)
      good = f"the last good one is of step {steps[-1]}" if steps else "there is none yet"
      raise InputError(f"cannot save to {self._manager.directory}: {reason}; {good}") from error


@dataclasses.dataclass(frozen=True)
class _Preserved(checkpoint_managers.PreservationPolicy):
  """The latest `keep` checkpoints, and the `keep_best` of the lowest validation loss."""

  keep: int
  keep_best: int
  losses: Mapping[int, float]

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: checkpoint_managers.PreservationContext
  ) -> list[bool]:
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    loss = {step: self.losses.get(step, math.nan) for step in steps}
    validated = sorted((step for step in steps if math.isfinite(loss[step])), key=loss.get)
    kept = {*sorted(steps)[-self.keep :], *validated[: self.keep_best]}
    return [step in kept for step in steps]


@contextlib.contextmanager
def writer(workdir: pathlib.Path, keep: int, keep_best: int = 0) -> Iterator[Writer]:
  """Opens a workdir's checkpoints for writing; all processes of a run must enter it.

  What a killed process left half-written is deleted. Leaving waits for what is being saved.

  Args:
    workdir: the run's folder.
    keep: the latest so many checkpoints are kept,
    keep_best: and the so many of the lowest validation loss.

  Raises:
    InputError: a checkpoint cannot be written; the good ones stay.
  """
  opened = Writer(workdir, keep, keep_best)
  try:
    yield opened
  finally:
    opened.close()


def set_aside(workdir: pathlib.Path, steps: Sequence[int]) -> None:
  """Moves damaged checkpoints to W/damaged_checkpoints, so that others can take their place."""
  aside = workdir / "damaged_checkpoints"
  try:
    for step in steps:
      aside.mkdir(exist_ok=True)
      names = (f"{step}" if i == 1 else f"{step}-{i}" for i in range(1, 1_000_000))
      target = next(aside / name for name in names if not (aside / name).exists())
      os.rename(_folder(workdir) / str(step), target)
  except OSError as error:
    raise InputError(f"{aside}: cannot be written: {error.strerror}") from error


# --- Reading. ---


def contents(workdir: pathlib.Path, step: int) -> Contents:
  """What a checkpoint says of itself.

  Raises:
    DamagedError: it is not what was written.
  """
  folder = _folder(workdir) / str(step)
  metrics = folder / "metrics" / "metrics"
  try:
    if (folder / _CONTENTS).exists() or not metrics.exists():
      return _contents(folder / _CONTENTS / _CONTENTS_FILE, step)
    about = read_json(metrics)
    if not isinstance(about, dict) or not isinstance(about.get("validation_loss"), int | float):
      raise InputError(f"{metrics} has no validation loss")
    return Contents(None, float(about["validation_loss"]))
  except InputError as error:
    raise _damaged(workdir, step, error) from error


def _contents(path: pathlib.Path, step: int) -> Contents:
  about = read_json(path)
  if not isinstance(about, dict) or set(about) != {"step", "validation_loss", "sha256"}:
    raise InputError(f"{path} is not what was written")
  if about["step"] != step:
    raise InputError(f"it is of step {about['step']}")
  digests, loss = about["sha256"], about["validation_loss"]
  if not isinstance(digests, dict) or not isinstance(loss, int | float | None):
    raise InputError(f"{path} has no digests or no validation loss")
  return Contents(digests, math.nan if loss is None else float(loss))


def _damaged(workdir: pathlib.Path, step: int, error: Exception) -> DamagedError:
  reason = " ".join(str(error).split()) or type(error).__name__
  reason = reason.replace(f"{_folder(workdir) / str(step)}/", "")
  reason = reason if len(reason) <= 160 else f"{reason[:157]}..."
  return DamagedError(f"checkpoint {step} in {workdir} is damaged ({reason})")


def _validation_loss(workdir: pathlib.Path, step: int) -> float:
  """That of a checkpoint; of a damaged one none is known."""
  try:
    return contents(workdir, step).validation_loss
  except DamagedError:
    return math.nan


def load_trees(
  workdir: pathlib.Path, step: int, like: Mapping[str, Any], optional: Sequence[str] = ()
) -> dict[str, Any]:
  """Reads trees of a checkpoint and compares them with their digests.

  This process reads alone, whatever others do.

  Args:
    workdir: the run's folder.
    step: of the checkpoint.
    like: shapes and types of the wanted trees, by name; what is read has their structure.
    optional: names of trees that a checkpoint may lack.

  Returns:
    Trees of NumPy arrays (PRNG keys: of JAX) by name, those that it lacks left out.

  Raises:
    DamagedError: the checkpoint is not what was saved.
    InputError: it does not fit the shapes, or this user may not read it.
  """
  folder = _folder(workdir) / str(step)
  for path in (folder, *folder.rglob("*")):
    if path.exists() and not os.access(path, os.R_OK):
      raise InputError(f"{path}: cannot be read: Permission denied")
  try:
    about = contents(workdir, step)
    there = about.sha256 or {name for name in _TREES if (folder / name).is_dir()}
    trees = {}
    for name in like:
      if name not in there and name in optional:
        continue
      trees[name] = _load_tree(folder, name, like[name])
      if about.sha256 is not None and _digest(trees[name]) != about.sha256[name]:
        raise InputError(f"{name} is not what was saved: its SHA-256 differs")
  except _UnfitError as error:
    raise InputError(f"{folder} does not fit the configuration: {error}") from error
  except DamagedError:
    raise
  except Exception as error:
    # Whatever Orbax or TensorStore raise: they are many kinds, and it is their files' damage.
    raise _damaged(workdir, step, error) from error
  return {name: jax.tree.map(_as_type, tree, like[name]) for name, tree in trees.items()}


class _UnfitError(Exception):
  """A tree has other names or shapes than are wanted."""


def _as_type(leaf: np.ndarray, like: Any) -> Any:
  if _is_key(like):
    return jax.random.wrap_key_data(leaf)
  return leaf.astype(like.dtype)


def _load_tree(folder: pathlib.Path, name: str, like: Any) -> Any:
  """One tree with the structure of `like`: arrays as they were saved, of PRNG keys their data."""
  if not (folder / name).is_dir():
    raise InputError(f"{name} is missing")
  here = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"read{here}"
  )
  handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
  with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
    saved = reader.metadata((folder / name).resolve()).item_metadata.tree
    _check_shapes(like, saved)
    template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved)
    read = reader.restore((folder / name).resolve(), args=ocp.args.StandardRestore(template))
  read = _by_path(read)
  return jax.tree.unflatten(jax.tree.structure(like), [read[path] for path in _by_path(like)])


def _check_shapes(like: Any, saved: Any) -> None:
  wanted, there = (
    {name: _stored_shape(leaf) for name, leaf in _by_path(tree).items()} for tree in (like, saved)
  )
  for name in sorted(wanted.keys() | there.keys()):
    if wanted.get(name) != there.get(name):
      raise _UnfitError(
        f"{name} has shape {there.get(name)}, the configuration's is {wanted.get(name)}"
      )


def _stored_shape(leaf: Any) -> tuple[int, ...]:
  if _is_key(leaf):  # what is stored of it is its data
    leaf = jax.eval_shape(jax.random.key_data, leaf)
  return tuple(leaf.shape)


# --- Models. ---


def load_run(
  workdir: str | os.PathLike, step: int | Literal["best"] | None = None, ema: bool = True
) -> Run:
  """Loads the model of a workdir with the parameters of one of its checkpoints.

  Args:
    workdir: the run's folder; training may go on in it meanwhile.
    step: of the checkpoint; "best": the one of the lowest validation loss; None: the latest.
    ema: whether to take the moving average of the parameters, if the run has one.

  Raises:
    InputError: there is no run, no such checkpoint, or one that is damaged or does not fit the
      configuration.
  """
  workdir = workdir_path(workdir)
  config = load_config(workdir)
  model = build_model(config.model, dataclasses.asdict(config.compute))
  like = abstract_params(model)
  for _ in range(_TRIES):
    chosen = _chosen_step(workdir, step)
    try:
      params = _load_params(workdir, chosen, like, ema)
    except DamagedError as error:
      # Or training, which keeps few, is deleting it: then there is a newer one.
      time.sleep(1)
      if (_folder(workdir) / str(chosen)).exists():
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
    losses = {s: _validation_loss(workdir, s) for s in steps}
    validated = [s for s in steps if math.isfinite(losses[s])]
    if not validated:
      raise InputError(f"no checkpoint in {_folder(workdir)} has a validation loss")
    return min(validated, key=losses.get)
  if step not in steps:
    raise InputError(
      f"no checkpoint of step {step} in {_folder(workdir)}; there are {', '.join(map(str, steps))}"
    )
  return step
