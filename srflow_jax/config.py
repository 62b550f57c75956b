"""A run's configuration as typed blocks, with the range of every field in its declaration.

`configs/base.py` says what each field means and gives its value; this file says which values there
may be. The same reader serves the command line, a workdir's `config.json` and Python: what it
refuses it names in one line.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import ml_collections

from srflow_jax.blocks import as_mapping, limited, read, read_by
from srflow_jax.errors import InputError
from srflow_jax.model.kinds import import_plugins, read_part
from srflow_jax.model.model import ComputeSpec
from srflow_jax.model.noises import Noise

MOST_STEPS = 2**31 - 1  # a step's number is an int32 on the devices

_TINY, _HUGE = 1e-37, 1e37  # beyond these float32 has zero or infinity


def _steps(default: Any = dataclasses.MISSING, at_least: int = 1) -> Any:
  """A number of training steps."""
  return limited(default, at_least=at_least, at_most=MOST_STEPS)


def _model(values: Any, where: str) -> ml_collections.ConfigDict:
  """The `model` block as it is: `build_model` reads what stands in it."""
  try:
    return ml_collections.ConfigDict(dict(as_mapping(values, where))).lock()
  except (TypeError, ValueError) as error:
    raise InputError(f"{where}: {error}") from error


def _noise(values: Any, where: str) -> Noise:
  """The noise of training."""
  return read_part(Noise, values, where)


def _paths(value: Any, where: str) -> str:
  """A path, or two that a colon separates, with `~` expanded; '' and names are left as they are."""
  if not isinstance(value, str):
    raise InputError(f"{where} is {value!r}: it must be a text")
  return os.pathsep.join(map(os.path.expanduser, value.split(os.pathsep)))


def _expression(value: Any, where: str) -> str:
  """A regular expression."""
  try:
    re.compile(value)
  except (TypeError, re.error) as error:
    raise InputError(f"{where} is {value!r}: no regular expression: {error}") from error
  return value


def _optimizer(values: Any, where: str) -> dict[str, Any]:
  """An optimiser's block: its kind and whatever arguments that takes (`training.optimizer`)."""
  values = dict(as_mapping(values, where))
  if not isinstance(values.get("kind"), str):
    raise InputError(f"{where}.kind must name an optimiser of Optax, as 'adam'")
  return values


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """Where patches come from and what is done to them."""

  train_dir: str = read_by(_paths)
  val_dir: str = read_by(_paths)
  hr_patch: int = limited(at_least=1, at_most=2**14)
  batch_size: int = limited(at_least=1, at_most=2**20)
  val_patches: int = limited(at_least=0, at_most=2**20)
  flips: bool
  rotations: bool
  noise: Noise = read_by(_noise)
  num_workers: int = limited(at_least=0, at_most=2**10)
  cache_mb: int = limited(at_least=0, at_most=2**24)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
  """The optimiser, its rates, and what is done about steps that are not finite."""

  learning_rate: float = limited(at_least=_TINY, at_most=1e3)
  b1: float = limited(at_least=0.0, below=1.0)
  b2: float = limited(at_least=0.0, below=1.0)
  eps: float = limited(at_least=_TINY, at_most=1.0)
  weight_decay: float = limited(at_least=0.0, at_most=1e3)
  clip_norm: float = limited(at_least=0.0, at_most=_HUGE)
  warmup_steps: int = _steps(at_least=0)
  decay_at: tuple[float, ...] = limited(at_least=0.0, at_most=1.0)
  decay_factor: float = limited(above=0.0, at_most=1.0)
  cosine_cycles: int = _steps(at_least=0)
  ema_decay: float = limited(at_least=0.0, below=1.0)
  accumulation_steps: int = limited(at_least=1, at_most=2**20)
  encoder_init: str = read_by(_paths)
  encoder_frozen_fraction: float = limited(at_least=0.0, at_most=1.0)
  encoder_rate_factor: float = limited(at_least=_TINY, at_most=1e6)
  max_skipped_steps: int = _steps()
  rollback_rate_factor: float = limited(above=0.0, below=1.0)
  # Workdirs that were begun before these fields existed lack them.
  optimizer: dict[str, Any] = read_by(_optimizer, None)
  flow_init: str = read_by(_paths, "")
  flow_trained: str = read_by(_expression, "")

  def __post_init__(self) -> None:
    if self.optimizer is None:
      object.__setattr__(self, "optimizer", {"kind": "adam"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """All that decides what a run does, as `configs/base.py` explains field by field.

  Attributes:
    plugins: modules with kinds of parts; reading a configuration imports them.
    model: the block that `srflow_jax.model.building.build_model` reads: a locked `ConfigDict`, the
      types of whose fields are known to their readers alone.
  """

  seed: int = limited(at_least=0, at_most=2**32 - 1)
  model: Any = read_by(_model)
  compute: ComputeSpec
  data: Data
  optim: Optim
  num_train_steps: int = _steps()
  log_every_steps: int = _steps()
  eval_every_steps: int = _steps()
  checkpoint_every_steps: int = _steps()
  keep_checkpoints: int = _steps()
  keep_best: int = _steps(at_least=0)
  eval_temperature: float = limited(at_least=0.0, at_most=1e3)
  # Workdirs that were begun before these fields existed lack them.
  profile_steps: tuple[int, ...] = limited((), at_least=1, at_most=MOST_STEPS)
  plugins: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    steps = self.profile_steps
    if steps and (len(steps) != 2 or steps[0] > steps[1]):
      raise ValueError(f"profile_steps are {steps}: they must be a first and a last step, or none")

  @property
  def frozen_steps(self) -> int:
    """In how many of the first steps an encoder that starts from weights is not trained."""
    if not self.optim.encoder_init:
      return 0
    return round(self.optim.encoder_frozen_fraction * self.num_train_steps)

  def to_dict(self) -> dict[str, Any]:
    """All fields as JSON would give them back."""
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    fields |= {name: dataclasses.asdict(fields[name]) for name in ("compute", "data", "optim")}
    fields["data"]["noise"] = {"kind": self.data.noise.kind} | fields["data"]["noise"]
    return json.loads(json.dumps(fields | {"model": self.model.to_dict()}))


def read_config(values: Mapping[str, Any] | Config, where: str = "config") -> Config:
  """Reads a configuration from any source.

  Args:
    values: a mapping of blocks, such as `configs/base.py` makes; a `Config` is returned as it is.
    where: what messages call it.

  Raises:
    InputError: a block or field is unknown, missing, of another type or out of its range.
  """
  if isinstance(values, Config):
    return values
  values = as_mapping(as_plain(values), where)
  plugins = values.get("plugins", ())
  if not isinstance(plugins, list | tuple) or not all(isinstance(name, str) for name in plugins):
    raise InputError(f"{where}.plugins is {plugins!r}: it must be a list of modules' names")
  import_plugins(plugins)  # before the parts that are of their kinds are read
  return read(Config, values, where)


def as_plain(values: Any) -> Any:
  """Makes plain dicts of a `ConfigDict`, and leaves everything else as it is."""
  try:
    return values.to_dict() if isinstance(values, ml_collections.ConfigDict) else values
  except ValueError as error:  # a required placeholder that nobody has filled
    raise InputError(f"config: {' '.join(str(error).split())}") from error
