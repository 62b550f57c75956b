"""From a study to the runs that it is made of, all checked before any of them begins."""

import copy
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from srflow_jax import blocks
from srflow_jax.config import MOST_STEPS, Config, read_config
from srflow_jax.data import validation_batches
from srflow_jax.errors import InputError
from srflow_jax.evaluation.inputs import EvalImage, find_images, validation_folders
from srflow_jax.model.building import build_model
from srflow_jax.model.kinds import Part
from srflow_jax.model.model import Model
from srflow_jax.studies import costs
from srflow_jax.studies.study import Changes, Evaluation, Study
from srflow_jax.training import start
from srflow_jax.weights.starting import starting_params

# What the study itself sets.
_OWN = ("seed", "num_train_steps")

_SHEETS = 3  # images of the sheets, unless the study names some

_TOKEN = re.compile(r"([A-Za-z_]\w*)|\[(\d+)\]")


@dataclasses.dataclass(frozen=True)
class PlannedRun:
  """One training run of a study and its evaluation.

  Attributes:
    name: its folder's.
    variant: the variant's name.
    seed: the seed.
    config: its whole configuration.
  """

  name: str
  variant: str
  seed: int
  config: Config

  @property
  def digest(self) -> str:
    """What tells its configuration from others."""
    text = json.dumps(self.config.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class StudyPlan:
  """A study, checked.

  Attributes:
    study: the study.
    configs: each variant's configuration, of the first seed and learning rate; the base is first.
    runs: all runs, all variants of a seed before the next seed.
  """

  study: Study
  configs: Mapping[str, Config]
  runs: tuple[PlannedRun, ...]


def run_name(variant: str, seed: int, rate: float | None) -> str:
  """What a run's folder is called; `rate` is None where the study has no grid of them."""
  return f"{variant}-seed{seed}" if rate is None else f"{variant}-lr{rate!r}-seed{seed}"


def changed(config: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
  """A configuration with other values of some fields; the one given stays as it is.

  Args:
    config: as plain mappings.
    changes: values by the field's place, as "model.stages[0].steps"; "" is the whole.

  Raises:
    InputError: a place is not in the configuration. Its last name is left to the configuration's
      reader to refuse.
  """
  if "" in changes:
    return copy.deepcopy(dict(changes[""]))
  config = copy.deepcopy(dict(config))
  for place, value in changes.items():
    where = f"{place!r} is no field of the configuration"
    names = [name or int(index) for name, index in _TOKEN.findall(place)]
    spelt = "".join(f"[{n}]" if isinstance(n, int) else f".{n}" for n in names).lstrip(".")
    if spelt != place or isinstance(names[0], int):
      raise InputError(f"{where}: write it as 'model.stages[0].steps'")
    if names[0] in _OWN:
      raise InputError(f"{place} is the study's own: it has `seeds` and `budget`")
    _set(config, names, value, where)
  return config


def _set(holder: Any, names: list[str | int], value: Any, where: str) -> None:
  """Sets a value in nested mappings and lists; tuples on the way become lists."""
  name: Any = names[0]
  rest = names[1:]
  if isinstance(name, int):
    if not isinstance(holder, list) or name >= len(holder):
      raise InputError(f"{where}: there is no [{name}]")
  elif not isinstance(holder, dict) or (rest and name not in holder):
    raise InputError(f"{where}: there is no {name}")
  if not rest:
    holder[name] = value
    return
  if isinstance(holder[name], tuple):
    holder[name] = list(holder[name])
  elif isinstance(holder[name], Mapping):
    holder[name] = dict(holder[name])
  _set(holder[name], rest, value, where)


def plan(study: Study, known_steps: Mapping[str, int] | None = None) -> StudyPlan:
  """Makes a study's runs and checks all that can be checked before the first begins.

  Args:
    study: the study.
    known_steps: training steps of each variant, if the study began before: seconds are measured,
      and operations counted, once.

  Raises:
    InputError: a variant cannot be built or trained, equals the base or another one, has less
      budget than a step takes; the data or the images of the evaluation cannot be used.
  """
  _check_evaluation(study.evaluation)
  configs = variant_configs(study)
  for config in {repr(config.data): config for config in configs.values()}.values():
    start.first_batch(config, config.model.scale)
    validation_batches(config.data, config.model.scale)
  base = configs[study.base_name]
  sheet_images(study, base.model.scale, *evaluation_folders(study, base))
  return _with_steps(study, configs, known_steps)


def variant_configs(study: Study) -> dict[str, Config]:
  """Each variant's configuration, of one step and the first seed and learning rate; base first.

  Raises:
    InputError: as `plan`, but data and images are not looked at.
  """
  configs: dict[str, Config] = {}
  seen: dict[str, str] = {}  # the variants' names, by what they are
  for variant in study.expanded():
    try:
      values = changed(study.base, variant.changes)
      rate = {"learning_rate": study.learning_rates[0]} if study.learning_rates else {}
      optim = dict(blocks.as_mapping(values.get("optim", {}), "config.optim")) | rate
      config = read_config(values | {"optim": optim, "seed": study.seeds[0], "num_train_steps": 1})
      model = build_model(config.model, config.compute)
      start.check(config, model)
      starting_params(config, model)
    except InputError as error:
      raise InputError(f"study: variant {variant.name!r}: {error}") from error
    if study.learning_rates and "optim.learning_rate" in variant.changes:
      raise InputError(
        f"study: variant {variant.name!r} sets optim.learning_rate, and so do the study's "
        "learning_rates"
      )
    identity = _identity(config, model)
    if identity in seen:
      same = seen[identity]
      raise InputError(
        f"study: variant {variant.name!r} equals {'the base' if same == study.base_name else same}"
      )
    seen[identity] = variant.name
    configs[variant.name] = config
  scales = {config.model.scale for config in configs.values()}
  if len(scales) > 1:
    raise InputError(f"study: variants enlarge by {', '.join(map(str, sorted(scales)))}: by one")
  return configs


def _with_steps(
  study: Study, configs: dict[str, Config], known_steps: Mapping[str, int] | None
) -> StudyPlan:
  """Gives each variant as many steps as the budget has, and makes the runs."""
  steps = {
    name: known_steps[name] if known_steps else costs.steps_of(study.budget, config)
    for name, config in configs.items()
  }
  for name, number in steps.items():
    if not 1 <= number <= MOST_STEPS:
      raise InputError(
        f"study: variant {name!r}: the budget of {study.budget} makes {number} steps: it must be "
        f"one at least, and at most {MOST_STEPS:,}"
      )
  configs = {
    name: dataclasses.replace(config, num_train_steps=steps[name])
    for name, config in configs.items()
  }
  runs = [
    PlannedRun(
      run_name(name, seed, rate if study.learning_rates else None),
      name,
      seed,
      dataclasses.replace(
        config, seed=seed, optim=dataclasses.replace(config.optim, learning_rate=rate)
      ),
    )
    for seed in study.seeds
    for name, config in configs.items()
    for rate in study.learning_rates or (config.optim.learning_rate,)
  ]
  return StudyPlan(study, configs, tuple(runs))


def evaluation_folders(study: Study, base: Config) -> tuple[str, str]:
  """The HR and LR folders of the evaluation, as `find_images` takes them."""
  evaluation = study.evaluation
  if evaluation.hr_dir or evaluation.lr_dir:
    return evaluation.hr_dir, evaluation.lr_dir
  return validation_folders(base.data)


def sheet_images(study: Study, scale: int, hr_dir: str, lr_dir: str) -> list[EvalImage]:
  """The images of the sheets with a column for each variant.

  Args:
    study: the study.
    scale: HR size over LR size.
    hr_dir: of the evaluation.
    lr_dir: likewise.

  Raises:
    InputError: the images cannot be used, or there is none of a name that the study asks for.
  """
  images = {image.name: image for image in find_images(scale, hr_dir, lr_dir)}
  names = study.evaluation.sheet or tuple(images)[:_SHEETS]
  if unknown := [name for name in names if name not in images]:
    raise InputError(f"study.evaluation.sheet: there is no image {unknown[0]!r} in {hr_dir}")
  return [images[name] for name in names]


def _check_evaluation(evaluation: Evaluation) -> None:
  if evaluation.lr_dir and not evaluation.hr_dir:
    raise InputError("study.evaluation.lr_dir needs an hr_dir: without HR nothing is measured")
  if len(set(evaluation.degraded)) < len(evaluation.degraded):
    raise InputError(f"study.evaluation.degraded has one twice: {', '.join(evaluation.degraded)}")


def _identity(config: Config, model: Model) -> str:
  """All that decides what a run computes, fields that are left out filled with their defaults."""
  values = config.to_dict() | {"model": None, "plugins": None}
  fields = {name: getattr(model, name) for name in type(model).__dataclass_fields__}
  parts = {name: _filled(value) for name, value in fields.items() if name not in ("parent", "name")}
  return json.dumps([values, type(model).__name__, parts], sort_keys=True, default=repr)


def _filled(value: Any) -> Any:
  """Parts as plain values, with the defaults of what their settings leave out."""
  if isinstance(value, Part):
    own = [f.name for f in dataclasses.fields(value.cls) if f.name not in ("parent", "name")]
    settings = {n: value.get(n) for n in own if value.get(n) is not dataclasses.MISSING}
    return [value.kind, {name: _filled(setting) for name, setting in settings.items()}]
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    named = {f.name: _filled(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [type(value).__name__, named]
  if isinstance(value, list | tuple):
    return [_filled(item) for item in value]
  return value
