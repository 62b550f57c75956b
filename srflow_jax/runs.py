"""A run's folder: its configuration, and that one run at a time has it.

W/config.json   the resolved configuration
W/lock          held by the process that trains
W/checkpoints/  see `checkpoint.py`
"""

import fcntl
import json
import os
import pathlib
import socket
import sys
from typing import Any, TextIO

import ml_collections

from srflow_jax.errors import InputError

# Fields that a run may change when it goes on; all others decide what its numbers mean.
MAY_CHANGE = ("num_train_steps", "log_every_steps", "eval_every_steps", "checkpoint_every_steps")
MAY_CHANGE += ("keep_checkpoints", "keep_best", "eval_temperature")
MAY_CHANGE += ("data.cache_mb", "data.num_workers", "optim.accumulation_steps", "compute.remat")


def _plain(value: Any) -> Any:
  """A configuration's value as JSON would give it back."""
  return json.loads(json.dumps(value))


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
  if not isinstance(config, dict):
    return {prefix: config}
  flat = {}
  for key, value in config.items():
    flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
  return flat


def config_differences(old: Any, new: Any) -> list[str]:
  """The fields in which two configurations differ, as "field: old → new", may-change ones aside."""
  old, new = (_flat(_plain(config.to_dict())) for config in (old, new))
  return [
    f"{field}: {old.get(field)!r} → {new.get(field)!r}"
    for field in sorted(old | new)
    if field not in MAY_CHANGE and old.get(field) != new.get(field)
  ]


def write_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
  """Writes the configuration, whole or not at all."""
  path = workdir / "config.json"
  partial = path.with_suffix(".json.partial")
  partial.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
  os.replace(partial, path)


def read_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
  """Reads a workdir's configuration.

  Raises:
    InputError: there is no such folder, it holds no run, or its configuration is damaged.
  """
  path = workdir / "config.json"
  if not workdir.is_dir():
    raise InputError(f"no such workdir: {workdir}")
  if not path.is_file():
    raise InputError(f"no run in {workdir}: it holds no config.json")
  try:
    return ml_collections.ConfigDict(json.loads(path.read_text())).lock()
  except (ValueError, TypeError) as error:
    raise InputError(f"{path}: not a configuration: {error}") from error


def lock_workdir(workdir: pathlib.Path) -> TextIO:
  """Takes a run's folder, made if need be, for this process.

  Returns:
    The lock. It is released when it is closed or the process ends, however that happens.

  Raises:
    InputError: another run has it, or it cannot be written.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    lock = (workdir / "lock").open("a+")
  except OSError as error:
    raise InputError(f"cannot write to the workdir {workdir}: {error.strerror}") from error
  try:
    # Unlike flock's, this lock is not inherited by worker processes, which may outlive the run.
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except (BlockingIOError, PermissionError):
    lock.seek(0)
    owner = lock.read().strip()
    lock.close()
    raise InputError(f"{workdir} is in use by another run: {owner or 'just started'}") from None
  except OSError as error:
    lock.close()
    raise InputError(f"the workdir {workdir} cannot be locked: {error.strerror}") from error
  lock.truncate(0)
  lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
  lock.flush()
  return lock


def check_config(workdir: pathlib.Path, config: Any, allow_change: bool) -> None:
  """Refuses a configuration that differs from the one that the workdir holds, if it holds one.

  Args:
    workdir: the run's folder.
    config: the configuration to go on with.
    allow_change: whether differences are only printed.

  Raises:
    InputError: they differ in fields that decide what the run's numbers mean.
  """
  if not (workdir / "config.json").exists():
    return
  if differences := "; ".join(config_differences(read_config(workdir), config)):
    if not allow_change:
      raise InputError(f"{workdir} holds a run of another configuration: {differences}")
    print(f"warning: {workdir} goes on with another configuration: {differences}", file=sys.stderr)
