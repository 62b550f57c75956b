"""A run's folder: what it holds, its configuration, and a lock for one run at a time.

W/config.json     the resolved configuration
W/data.json       what its images were, told by names and sizes
W/parameters.txt  a table of the model's parameters, to be read by people
W/lock            held by the process that trains
W/plugins.json    the digests of the modules in `config.plugins`, as the run was made with them
W/imported.json   of what file its first weights are, if they were imported
W/temperature.json the temperature that a search chose
W/progress.json   the step of the latest checkpoint that was saved, and a word that marks the run
W/checkpoints/    see `srflow_jax.checkpoints`; W/damaged_checkpoints/ those that were set aside
W/events.out...   of TensorBoard; profiles lie in W/plugins/
W/metrics.csv     the numbers in them, as rows of step, name and value
W/evaluation/, W/search/  what `evaluate.py` writes if no other folder is given
"""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from srflow_jax.blocks import as_mapping, limited, read
from srflow_jax.config import Config, Optim, read_config
from srflow_jax.errors import InputError
from srflow_jax.files import NoJSONError, read_json, write_json
from srflow_jax.model.kinds import plugin_digest
from srflow_jax.sampling.temperatures import Temperature, parse_temperature, temperature_text

# Fields that a run may change when it goes on; all others decide what its numbers mean.
MAY_CHANGE = ("num_train_steps", "log_every_steps", "eval_every_steps", "checkpoint_every_steps")
MAY_CHANGE += ("keep_checkpoints", "keep_best", "eval_temperature", "profile_steps")
MAY_CHANGE += ("data.cache_mb", "data.num_workers", "optim.accumulation_steps", "compute.remat")
MAY_CHANGE += ("compute.unroll",)

_IMPORTED, _PLUGINS = "imported.json", "plugins.json"


def workdir_path(workdir: str | os.PathLike) -> pathlib.Path:
  """The path of a run's folder, with `~` expanded.

  Raises:
    InputError: the name is empty, or the checkpoint library cannot write to a folder of that name.
  """
  text = os.fspath(workdir)
  if not text:
    raise InputError("the workdir's name is empty")
  try:
    path = pathlib.Path(text).expanduser()
    where = str(path.resolve())
  except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links, a NUL
    raise InputError(f"workdir {text!r}: {error}") from error
  # TensorStore takes a backslash for a separator of folders, and paths must be UTF-8. Orbax takes
  # brackets for a pattern, and what ends in gs: for the name of a server.
  if "\\" in where or not where.isprintable() or re.search(r"\[[^/]+\]|gs:(/|$)", where):
    raise InputError(
      f"workdir {where!r}: checkpoints cannot be kept where the path has a backslash, a control "
      "character, bytes that are not UTF-8, a word in [brackets], or a folder that ends in gs:"
    )
  return path


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for key, value in values.items():
    name = f"{prefix}{key}"
    flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
  return flat


def _depends_on_length(optim: Optim) -> bool:
  """Whether rates or the encoder's freezing are fractions of the number of steps."""
  freezes = optim.encoder_init and optim.encoder_frozen_fraction
  return bool(optim.decay_at or optim.cosine_cycles or freezes)


def config_differences(
  old: Config | Mapping[str, Any], new: Config | Mapping[str, Any]
) -> list[str]:
  """The fields in which two configurations differ, as "field: old → new".

  Fields that a run may change are left out. The number of steps is one of these only as long as
  neither learning rates nor the encoder's freezing are fractions of it.
  """
  old, new = read_config(old), read_config(new)
  may_change = set(MAY_CHANGE)
  why = {}
  if _depends_on_length(old.optim) or _depends_on_length(new.optim):
    may_change.remove("num_train_steps")
    why["num_train_steps"] = " (learning rates or the encoder's freezing are fractions of it)"
  before, after = (_flat(config.to_dict()) for config in (old, new))
  return [
    f"{field}: {before.get(field)!r} → {after.get(field)!r}{why.get(field, '')}"
    for field in sorted(before | after)
    if field not in may_change and before.get(field) != after.get(field)
  ]


def _read_note(path: pathlib.Path) -> Any:
  """What a JSON file of a run holds that the run can do without."""
  try:
    return read_json(path)
  except NoJSONError as error:
    raise InputError(f"{error}; remove it") from error


def note_import(workdir: pathlib.Path, origin: Mapping[str, Any]) -> None:
  """Notes of what files a run's first weights are; `InputError` if that cannot be written."""
  write_json(workdir / _IMPORTED, origin)


def is_imported(workdir: pathlib.Path) -> bool:
  """Whether a run's first weights were imported."""
  return (workdir / _IMPORTED).exists()


def write_config(workdir: pathlib.Path, config: Config | Mapping[str, Any]) -> None:
  """Writes the configuration and what its plugins are; `InputError` if it cannot be written."""
  config = read_config(config)
  if config.plugins:
    write_json(workdir / _PLUGINS, {name: plugin_digest(name) for name in config.plugins})
  write_json(workdir / "config.json", config.to_dict())


def plugin_changes(workdir: pathlib.Path, config: Config) -> list[str]:
  """The plugins of a configuration whose source is not what a run was made with, a line for each.

  Raises:
    InputError: the run's note of them is damaged.
  """
  path = workdir / _PLUGINS
  noted = as_mapping(read_json(path), str(path)) if path.exists() else {}
  return [
    f"plugins: the source of {name} has changed"
    for name in config.plugins
    if name in noted and noted[name] != plugin_digest(name)
  ]


def load_config(workdir: pathlib.Path) -> Config:
  """Reads a workdir's configuration.

  Raises:
    InputError: there is no such folder, it holds no run, or its configuration cannot be used.
  """
  path = workdir / "config.json"
  if not workdir.is_dir():
    raise InputError(f"no such workdir: {workdir}")
  if not path.exists():
    raise InputError(f"no run in {workdir}: it holds no config.json")
  values = read_json(path)
  try:
    return read_config(values)
  except InputError as error:
    raise InputError(f"{path}: {error}") from error


def check_config(workdir: pathlib.Path, config: Config, allow_change: bool) -> None:
  """Refuses a configuration that differs from the one that the workdir holds, if it holds one.

  Args:
    workdir: the run's folder.
    config: the configuration to go on with.
    allow_change: whether differences are only printed.

  Raises:
    InputError: they differ in fields that decide what the run's numbers mean, or there are
      checkpoints of a configuration that is gone.
  """
  if not (workdir / "config.json").exists():
    if not allow_change and next((workdir / "checkpoints").glob("[0-9]*"), None):
      raise InputError(
        f"{workdir} holds checkpoints, but no config.json that says how they were trained: put it "
        "back; --allow_config_change goes on with the configuration given"
      )
    return
  differences = config_differences(load_config(workdir), config)
  _refuse_or_warn(workdir, differences + plugin_changes(workdir, config), allow_change)


@dataclasses.dataclass(frozen=True)
class Images:
  """What tells the images of a split from others; see `srflow_jax.data.describe`."""

  images: int = limited(at_least=1)
  digest: str = limited()

  def __str__(self) -> str:
    return f"{self.images} images ({self.digest[:8]})"


def write_data(workdir: pathlib.Path, data: Mapping[str, Mapping[str, Any]]) -> None:
  """Writes what a run's images are, whole or not at all; `InputError` if it cannot be written."""
  write_json(workdir / "data.json", data)


def check_data(
  workdir: pathlib.Path, data: Mapping[str, Mapping[str, Any]], allow_change: bool
) -> None:
  """Refuses images that are not those of the run that the workdir holds, if it has noted them.

  Args:
    workdir: the run's folder.
    data: what the images are now, by split, as `srflow_jax.data.describe` says it.
    allow_change: whether differences are only printed.

  Raises:
    InputError: their number, names or sizes differ, or the note is damaged.
  """
  path = workdir / "data.json"
  if not path.exists():
    return
  before, now = (
    {split: read(Images, images, f"{path}: {split}") for split, images in values.items()}
    for values in (as_mapping(_read_note(path), str(path)), data)
  )
  differences = [
    f"data for {split}: {before.get(split)} → {now.get(split)}"
    for split in sorted(before | now)
    if before.get(split) != now.get(split)
  ]
  _refuse_or_warn(workdir, differences, allow_change)


def _refuse_or_warn(workdir: pathlib.Path, differences: list[str], allow_change: bool) -> None:
  if not differences:
    return
  said = "; ".join(differences)
  if not allow_change:
    raise InputError(
      f"{workdir} holds a run of another configuration: {said}; --allow_config_change goes on all "
      "the same"
    )
  print(f"warning: {workdir} goes on with another configuration: {said}", file=sys.stderr)


@contextlib.contextmanager
def lock_workdir(workdir: pathlib.Path) -> Iterator[None]:
  """Locks a run's folder for one run at a time, also within a process; makes it if need be.

  The lock is released when the context or the process ends, however that happens.

  Raises:
    InputError: another run has it, or it cannot be written.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    # Links are not followed. Worker processes do not inherit the descriptor: they are spawned.
    descriptor = os.open(workdir / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
  except OSError as error:
    raise InputError(f"cannot write to the workdir {workdir}: {error.strerror}") from error
  with os.fdopen(descriptor, "r+") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
      owner = lock.read(200).strip()
      raise InputError(f"{workdir} is in use by another run: {owner or 'just started'}") from None
    except OSError as error:
      raise InputError(f"the workdir {workdir} cannot be locked: {error.strerror}") from error
    try:
      lock.truncate(0)
      lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
      lock.flush()
    except OSError as error:
      raise InputError(f"cannot write to the workdir {workdir}: {error.strerror}") from error
    yield


@dataclasses.dataclass(frozen=True)
class ChosenTemperature:
  """The temperature that a search chose for a run.

  Attributes:
    temperature: Of all latents, or of each level of them.
    step: Of the checkpoint that it was chosen for.
    images: On how many images.
    num_samples: With how many samples of each.
  """

  temperature: Temperature
  step: int
  images: int
  num_samples: int

  def __str__(self) -> str:
    return (
      f"temperature {temperature_text(self.temperature)}, as a search chose it at step {self.step}"
    )


def write_temperature(workdir: pathlib.Path, chosen: ChosenTemperature) -> None:
  """Notes the temperature that a search chose; `InputError` if it cannot be written."""
  text = temperature_text(chosen.temperature)
  write_json(workdir / "temperature.json", dataclasses.asdict(chosen) | {"temperature": text})


def chosen_temperature(workdir: str | os.PathLike) -> ChosenTemperature | None:
  """What `write_temperature` noted, or None.

  Raises:
    InputError: the note is damaged.
  """
  path = pathlib.Path(workdir) / "temperature.json"
  if not path.exists():
    return None
  values = _read_note(path)
  try:
    temperature = parse_temperature(values.pop("temperature"))
    if not all(type(value) is int and value >= 0 for value in values.values()):
      raise ValueError
    return ChosenTemperature(temperature, **values)
  except (InputError, KeyError, TypeError, ValueError, AttributeError):
    raise InputError(f"{path}: damaged, it notes no temperature; remove it") from None


@dataclasses.dataclass(frozen=True)
class Saved:
  """What a run notes when a checkpoint was saved.

  Attributes:
    step: Of the latest one, which is missed if all vanish.
    run: A random word, which its checkpoints have too; None of runs of an earlier version.
  """

  step: int
  run: str | None = None


def note_saved(workdir: pathlib.Path, saved: Saved) -> None:
  """Notes that a checkpoint was saved."""
  write_json(workdir / "progress.json", {"saved_step": saved.step, "run": saved.run})


def last_saved(workdir: pathlib.Path) -> Saved | None:
  """What `note_saved` noted last, or None.

  Raises:
    InputError: the note is damaged.
  """
  path = workdir / "progress.json"
  if not path.exists():
    return None
  values = _read_note(path)
  values = values if isinstance(values, dict) else {}
  step, run = values.get("saved_step"), values.get("run")
  if type(step) is not int or step < 0 or not isinstance(run, str | None):
    raise InputError(f"{path}: damaged, it names no step; remove it")
  return Saved(step, run)
