"""What a study is: a question, variants of a configuration, seeds and a budget.

A study is a Python file whose `get_study()` returns a mapping with the fields of `Study`:

    from configs import tiny
    from srflow_jax.studies import each

    def get_study():
      return {
        "question": "Do deeper nets pay?",
        "expectation": "Yes: the nll falls by 0.1.",
        "base": tiny.get_config(),
        "variants": [
          {"name": "deep", "set": {"model.conditioner.num_hidden": 4}},
          {"name": "width", "set": {"model.conditioner.width": each(32, 64)}},
        ],
        "seeds": [0, 1, 2],
        "budget": {"steps": 800},
      }
"""

import dataclasses
import importlib.machinery
import importlib.util
import itertools
import os
import pathlib
import re
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from srflow_jax.blocks import as_mapping, limited, read, read_by
from srflow_jax.config import MOST_STEPS, as_plain
from srflow_jax.errors import InputError
from srflow_jax.sampling.budget import MAX_SAMPLES

Changes = Mapping[str, Any]  # values by the field's place, as "model.stages[0].steps"

BICUBIC = "bicubic"  # what tables call the enlargement that every evaluation measures too
DEGRADATIONS = ("jpeg20", "noise10")  # see `degraded.py`

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]{0,63}")


@dataclasses.dataclass(frozen=True)
class Each:
  """Values of a field, a variant each; several of them in one variant make a grid."""

  values: tuple[Any, ...]


def each(*values: Any) -> Each:
  """A list of values for a field of a variant: there is a variant for each of them."""
  return Each(values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
  """How long each run trains: one of the three is given.

  Attributes:
    steps: training steps.
    flops: floating-point operations of training, as `ops.costs` counts them.
    seconds: of training, by the time of a step that is measured once, before the study begins; on
      a machine of another kind than `device` it is not measured.
    device: the kind of device that the seconds are of, as `costs.device_kind` names it.
  """

  steps: int = limited(0, at_least=0, at_most=MOST_STEPS)
  flops: float = limited(0.0, at_least=0.0)
  seconds: float = limited(0.0, at_least=0.0)
  device: str = ""

  def __post_init__(self) -> None:
    given = [name for name in ("steps", "flops", "seconds") if getattr(self, name)]
    if len(given) != 1:
      raise ValueError(
        "one of steps, flops and seconds must be given, and be above 0"
        + (f"; there are {' and '.join(given)}" if given else "")
      )
    if bool(self.device) != bool(self.seconds):
      raise ValueError("seconds need the kind of device that they are of, and only they do")

  def __str__(self) -> str:
    if self.steps:
      return f"{self.steps:,} steps a run"
    if self.flops:
      return f"{self.flops:.3g} floating-point operations a run"
    return f"{self.seconds:g} s a run on {self.device}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
  """How each run is evaluated, as `evaluate.py` does it.

  Attributes:
    hr_dir: folder of HR images, or a data set; "": those of the base configuration's validation.
    lr_dir: folder of LR images; "": MATLAB's bicubic.
    num_samples: of each image.
    temperature: of the latents.
    seed: of the samples.
    max_memory_gb: see `evaluate.py`.
    degraded: LR images of other kinds than those of training, on which it is counted how many
      samples are not finite or saturated: "jpeg20", "noise10".
    degraded_images: so many images are degraded, from the first on.
    receptive_field_images: on so many images the receptive field is measured in bits; 0: it is not.
    sheet: names of the images of the sheet with a column for each variant; (): the first three.
  """

  hr_dir: str = ""
  lr_dir: str = ""
  num_samples: int = limited(10, at_least=1, at_most=MAX_SAMPLES)
  temperature: float = limited(0.9, at_least=0.0, at_most=1e3)
  seed: int = limited(0, at_least=0, at_most=2**32 - 1)
  max_memory_gb: float = limited(0.0, at_least=0.0)
  degraded: tuple[str, ...] = limited((), one_of=DEGRADATIONS)
  degraded_images: int = limited(4, at_least=1)
  receptive_field_images: int = limited(0, at_least=0)
  sheet: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Variant:
  """A configuration of a study, by what it changes in the base; the base itself changes nothing."""

  name: str
  changes: Changes


@dataclasses.dataclass(frozen=True, kw_only=True)
class _VariantBlock:
  name: str
  set: Any = read_by(lambda value, where: as_mapping(value, where), None)
  config: Any = read_by(lambda value, where: _config(value, where), None)


def _config(value: Any, where: str) -> Mapping[str, Any]:
  return as_mapping(as_plain(value), where)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """A study as its author wrote it.

  Attributes:
    question: what it asks.
    expectation: what its author expects, and why: written down before the first run.
    base: the configuration that all variants are compared with, as `configs/` make them.
    base_name: what tables call it.
    variants: each a mapping with a `name` and what it changes: `set`, values by the field's place,
      or `config`, a whole configuration. `each` stands for several values.
    seeds: each variant is trained once for each; runs of one seed see the same images, crops and
      noise.
    budget: of each run.
    learning_rates: each variant is trained with each of them; (): with its configuration's own.
    evaluation: how runs are evaluated.
  """

  question: str
  expectation: str
  base: Any = read_by(_config)
  base_name: str = "base"
  variants: tuple[_VariantBlock, ...]
  seeds: tuple[int, ...] = limited(at_least=0, at_most=2**32 - 1)
  budget: Budget
  learning_rates: tuple[float, ...] = limited((), above=0.0)
  evaluation: Evaluation = Evaluation()

  def __post_init__(self) -> None:
    for name in ("question", "expectation"):
      if not getattr(self, name).strip():
        raise ValueError(f"{name} is empty: say it in a sentence before anything runs")
    if not self.seeds:
      raise ValueError("seeds is empty: it must name one at least")
    for name in ("seeds", "learning_rates"):
      values = getattr(self, name)
      if twice := [value for value in values if values.count(value) > 1]:
        raise ValueError(f"{name} has {twice[0]} twice")

  def expanded(self) -> list[Variant]:
    """All variants, the base first and grids multiplied out.

    Raises:
      InputError: two have one name, a name cannot be a folder's, or a variant changes what is the
        study's own.
    """
    found = [Variant(self.base_name, {}), *(v for block in self.variants for v in _expand(block))]
    if len(found) == 1:
      raise InputError("study.variants is empty: there is nothing to compare with the base")
    names = [variant.name for variant in found]
    for name in names:
      if not _NAME.fullmatch(name.replace("-", "_")) or name == BICUBIC:
        raise InputError(
          f"study: a variant cannot be called {name!r}: letters, digits, '_', '-' and '.', at most "
          f"64, and not {BICUBIC!r}"
        )
      if names.count(name) > 1:
        raise InputError(f"study: two variants are called {name!r}")
    return found


def _expand(block: _VariantBlock) -> Iterator[Variant]:
  """The variants of a block: one, or one for each combination of the values of its lists."""
  where = f"study: variant {block.name!r}"
  if (block.set is None) == (block.config is None):
    raise InputError(f"{where} must have either `set` or `config`")
  if block.config is not None:
    yield Variant(block.name, {"": block.config})
    return
  if "" in block.set:
    raise InputError(f"{where}: '' is no field of the configuration")
  lists = {place: value.values for place, value in block.set.items() if isinstance(value, Each)}
  if empty := [place for place, values in lists.items() if not values]:
    raise InputError(f"{where}: {empty[0]} has a list of no values")
  for numbers in itertools.product(*(range(len(values)) for values in lists.values())):
    chosen = {place: lists[place][i] for place, i in zip(lists, numbers, strict=True)}
    texts = (_short(lists[place][i], i) for place, i in zip(lists, numbers, strict=True))
    yield Variant("-".join([block.name, *texts]), dict(block.set) | chosen)


def _short(value: Any, number: int) -> str:
  """A value in a variant's name: itself if it is short, else its number in the list."""
  text = f"{value:g}" if isinstance(value, float) else str(value)
  return text if _NAME.fullmatch(text) and len(text) <= 16 else str(number + 1)


# What the command line may say in place of a study's file: by its name there, where it belongs.
REPLACED = {
  "train_dir": ("data", "train_dir"),
  "val_dir": ("data", "val_dir"),
  "encoder_init": ("optim", "encoder_init"),
}


def load_study(path: str | os.PathLike, hr_dir: str = "", **replaced: str) -> Study:
  """Reads a study from its file.

  Args:
    path: the Python file.
    hr_dir: of the evaluation, in place of what the file says; "" leaves it.
    **replaced: names of `REPLACED`, likewise, for all variants.

  Raises:
    InputError: there is no such file, it fails, or what it returns cannot be used.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise InputError(f"--study={path}: no such file")
  loader = importlib.machinery.SourceFileLoader("_srflow_jax_study", str(path))  # of any suffix
  spec = importlib.util.spec_from_loader(loader.name, loader)
  assert spec is not None
  module = importlib.util.module_from_spec(spec)
  try:
    loader.exec_module(module)
    values = module.get_study()
  except Exception as error:  # a study's file is a program: it may raise anything
    raise InputError(_failure(path, error)) from error
  return read_study(values, hr_dir, **replaced)


def _failure(path: pathlib.Path, error: Exception) -> str:
  """Why a study's file failed, and in which of its lines."""
  if isinstance(error, InputError):
    return str(error)
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == str(path)]
  lines += [error.lineno] if isinstance(error, SyntaxError) and error.lineno else []
  line = f", line {lines[-1]}" if lines else ""
  return f"{path}{line}: {type(error).__name__}: {' '.join(str(error).split())}"


def read_study(values: Any, hr_dir: str = "", **replaced: str) -> Study:
  """Reads a study from what `get_study()` returns; the other arguments are those of `load_study`.

  Raises:
    InputError: a field is unknown, missing, of another type or out of its limits.
  """
  study = read(Study, values, "study")
  replaced = {name: os.path.expanduser(path) for name, path in replaced.items() if path}

  def mended(config: Mapping[str, Any]) -> Mapping[str, Any]:
    values: dict[str, Any] = dict(config)
    for name, value in replaced.items():
      block, field = REPLACED[name]
      values[block] = dict(as_mapping(values.get(block, {}), f"study: {block}")) | {field: value}
    return values

  variants = tuple(
    v if v.config is None else dataclasses.replace(v, config=mended(v.config))
    for v in study.variants
  )
  evaluation = study.evaluation
  if hr_dir:
    evaluation = dataclasses.replace(evaluation, hr_dir=os.path.expanduser(hr_dir))
  return dataclasses.replace(
    study, base=mended(study.base), variants=variants, evaluation=evaluation
  )
