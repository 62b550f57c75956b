"""How checkpoints are read and compared with their digests."""

import dataclasses
import errno
import hashlib
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from srflow_jax.errors import InputError, one_line
from srflow_jax.files import read_json
from srflow_jax.runs import last_saved

TREES = ("params", "ema", "rest")
CONTENTS = "contents"
CONTENTS_FILE = "contents.json"


# What the system answers that says nothing of a file: the machine has too little of something, or
# a file system is away.
_NOT_OF_FILES = {
  errno.ENOMEM,
  errno.EMFILE,
  errno.ENFILE,
  errno.ESTALE,
  errno.ETIMEDOUT,
}


class DamagedError(InputError):
  """A checkpoint does not hold what was saved; the message names it and says why."""


@dataclasses.dataclass(frozen=True)
class Contents:
  """What a checkpoint says of itself.

  Attributes:
    sha256: of each tree, by name; None in a checkpoint of an earlier version.
    validation_loss: not a number if it was not computed.
    run: the word of the run that it is of (`runs.Saved`); None in one of an earlier version.
  """

  sha256: Mapping[str, str] | None
  validation_loss: float
  run: str | None = None


def folder_of(workdir: pathlib.Path) -> pathlib.Path:
  """Where a workdir's checkpoints lie."""
  return workdir / "checkpoints"


def saved_steps(workdir: pathlib.Path) -> list[int]:
  """The steps of a workdir's checkpoints in order, damaged ones included.

  Raises:
    InputError: the folder cannot be read.
  """
  try:
    names = [path.name for path in folder_of(workdir).iterdir() if path.is_dir()]
  except FileNotFoundError:
    return []
  except OSError as error:
    raise InputError(f"{folder_of(workdir)}: cannot be read: {error.strerror}") from error
  return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name))


def _by_path(tree: Any) -> dict[str, Any]:
  """A tree's leaves by their names, as "flow/stages_0/split/prior/bias"."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _is_key(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def digest(tree: Any) -> str:
  """The SHA-256 of a tree's names, types, shapes and values."""
  sha256 = hashlib.sha256()
  for name, leaf in sorted(_by_path(tree).items()):
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    leaf = leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf
    array = np.ascontiguousarray(leaf)
    sha256.update(f"{name} {array.dtype} {np.shape(leaf)}\n".encode())
    sha256.update(array.reshape(-1).view(np.uint8))
  return sha256.hexdigest()


def contents(workdir: pathlib.Path, step: int) -> Contents:
  """What a checkpoint says of itself.

  Raises:
    DamagedError: it is not what was written.
    InputError: the note of what was saved last is damaged.
  """
  folder = folder_of(workdir) / str(step)
  metrics = folder / "metrics" / "metrics"
  saved = last_saved(workdir)  # if that is damaged, the checkpoint is not
  try:
    if (folder / CONTENTS).exists() or not metrics.exists():
      about = _contents(folder / CONTENTS / CONTENTS_FILE, step)
      if saved and saved.run and about.run and saved.run != about.run:
        raise InputError("it is of another run")
      return about
    about = read_json(metrics)
    if not isinstance(about, dict) or not isinstance(about.get("validation_loss"), int | float):
      raise InputError(f"{metrics} has no validation loss")
    return Contents(None, float(about["validation_loss"]))
  except InputError as error:
    raise _damaged(workdir, step, error) from error


def _contents(path: pathlib.Path, step: int) -> Contents:
  about = read_json(path)
  if not isinstance(about, dict) or set(about) - {"run"} != {"step", "validation_loss", "sha256"}:
    raise InputError(f"{path} is not what was written")
  if about["step"] != step:
    raise InputError(f"it is of step {about['step']}")
  digests, loss, run = about["sha256"], about["validation_loss"], about.get("run")
  if not isinstance(digests, dict) or not isinstance(loss, int | float | None):
    raise InputError(f"{path} has no digests or no validation loss")
  if not isinstance(run, str | None):
    raise InputError(f"{path} does not name its run")
  return Contents(digests, math.nan if loss is None else float(loss), run)


def _damaged(workdir: pathlib.Path, step: int, error: Exception) -> DamagedError:
  reason = one_line(error).replace(f"{folder_of(workdir) / str(step)}/", "")
  return DamagedError(f"checkpoint {step} in {workdir} is damaged ({reason})")


def validation_loss(workdir: pathlib.Path, step: int) -> float:
  """The validation loss of a checkpoint; not a number if the checkpoint is damaged."""
  try:
    return contents(workdir, step).validation_loss
  except DamagedError:
    return math.nan


def load_trees(
  workdir: pathlib.Path, step: int, like: Mapping[str, Any], optional: Sequence[str] = ()
) -> dict[str, Any]:
  """Reads trees of a checkpoint and compares them with their digests.

  It reads without waiting for other processes of the run.

  Args:
    workdir: the run's folder.
    step: of the checkpoint.
    like: shapes and types of the wanted trees, by name; what is read has their structure.
    optional: names of trees that a checkpoint may lack.

  Returns:
    Trees of NumPy arrays (PRNG keys: of JAX) by name, those that it lacks left out.

  Raises:
    DamagedError: the checkpoint is not what was saved.
    InputError: it does not fit the shapes, this user may not read it, or the run's note of what was
      saved last is damaged.
  """
  folder = folder_of(workdir) / str(step)
  for path in (folder, *folder.rglob("*")):
    if path.exists() and not os.access(path, os.R_OK):
      raise InputError(f"{path}: cannot be read: Permission denied")
    if path.exists() and not path.is_file() and not path.is_dir():  # a FIFO would block
      raise _damaged(workdir, step, InputError(f"{path} is not a regular file"))
  about = contents(workdir, step)
  try:
    there = about.sha256 or {name for name in TREES if (folder / name).is_dir()}
    trees = {}
    for name in like:
      if name not in there and name in optional:
        continue
      trees[name] = _load_tree(folder, name, like[name])
      if about.sha256 is not None and digest(trees[name]) != about.sha256[name]:
        raise InputError(f"{name} is not what was saved: its SHA-256 differs")
  except _UnfitError as error:
    raise InputError(f"{folder} does not fit the configuration: {error}") from error
  except DamagedError:
    raise
  except MemoryError:
    raise InputError(f"{folder}: needs more memory than there is") from None
  except Exception as error:
    # Orbax and TensorStore raise errors of many kinds where files are damaged.
    if (number := system_error(error)) in _NOT_OF_FILES:
      raise InputError(f"{folder}: cannot be read: {os.strerror(number)}") from error
    raise _damaged(workdir, step, error) from error
  return {name: jax.tree.map(_as_type, tree, like[name]) for name, tree in trees.items()}


def system_error(error: BaseException) -> int | None:
  """The system's number of an error, also of one that TensorStore raised; None if it has none."""
  if isinstance(error, OSError):
    return error.errno
  code = re.search(r"os_error_code='(\d+)'", str(error))
  return int(code.group(1)) if code else None


class _UnfitError(Exception):
  """A tree has other names or shapes than are wanted."""


def _as_type(leaf: np.ndarray, like: Any) -> Any:
  if _is_key(like):
    return jax.random.wrap_key_data(leaf)
  return leaf.astype(like.dtype)


def _load_tree(folder: pathlib.Path, name: str, like: Any) -> Any:
  """Reads one tree with the structure of `like`, whose PRNG keys are the data of the keys."""
  if not (folder / name).is_dir():
    raise InputError(f"{name} is missing")
  here = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"read{here}"
  )
  handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
  with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
    # Of the handler: the reader itself would warn of metadata that only single trees have, and
    # say nothing of what is wrong with those that there are.
    try:
      saved = handler.metadata((folder / name).resolve()).tree
    except Exception as error:
      if isinstance(error, MemoryError) or system_error(error) in _NOT_OF_FILES:
        raise
      reason = "" if isinstance(error, FileNotFoundError) else f" ({one_line(error)})"
      raise InputError(f"{name} has no readable metadata{reason}") from error
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
  if _is_key(leaf):  # a key is stored as its data
    leaf = jax.eval_shape(jax.random.key_data, leaf)
  return tuple(leaf.shape)
