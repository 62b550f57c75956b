"""Typed blocks: a configuration's mappings become dataclasses, with types and ranges checked.

This is the one reader for all sources of a configuration: the command line, a workdir's
`config.json` and the header of a weights file. What it refuses it names in one line.

    @dataclasses.dataclass(frozen=True)
    class Optim:
      learning_rate: float = limited(above=0.0)
      b1: float = limited(0.9, at_least=0.0, below=1.0)

    optim = read(Optim, {"learning_rate": 2e-4}, "config.optim")
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import ml_collections

from srflow_jax.errors import InputError

T = TypeVar("T")

_READ = "read"  # keys of a field's metadata
_LIMITS = "limits"

_NOUNS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
_PLURALS = {bool: "True or False", int: "whole numbers", float: "numbers", str: "texts"}


@dataclasses.dataclass(frozen=True)
class Limits:
  """The values that a field may have; a limit that is None is not set.

  Attributes:
    at_least: the smallest value.
    above: all values are larger than this.
    at_most: the largest value.
    below: all values are smaller than this.
    one_of: the only values.
  """

  at_least: float | None = None
  above: float | None = None
  at_most: float | None = None
  below: float | None = None
  one_of: tuple[Any, ...] | None = None

  def hold(self, value: Any) -> bool:
    """Whether a value is within the limits."""
    return (
      (self.at_least is None or value >= self.at_least)
      and (self.above is None or value > self.above)
      and (self.at_most is None or value <= self.at_most)
      and (self.below is None or value < self.below)
      and (self.one_of is None or value in self.one_of)
    )

  def __str__(self) -> str:
    if self.one_of is not None:
      return f"one of {', '.join(map(repr, self.one_of))}"
    names = {"at_least": "at least", "above": "above", "at_most": "at most", "below": "below"}
    limits = ((text, getattr(self, name)) for name, text in names.items())
    return " and ".join(f"{text} {_limit(limit)}" for text, limit in limits if limit is not None)


def _limit(value: float) -> str:
  """A limit in text: all digits of a whole number."""
  return str(value) if isinstance(value, int) else f"{value:g}"


def limited(
  default: Any = dataclasses.MISSING,
  *,
  at_least: float | None = None,
  above: float | None = None,
  at_most: float | None = None,
  below: float | None = None,
  one_of: Sequence[Any] | None = None,
) -> Any:
  """A dataclass field whose values (or, of a tuple, whose items) have limits; see `Limits`."""
  limits = Limits(at_least, above, at_most, below, None if one_of is None else tuple(one_of))
  return dataclasses.field(default=default, metadata={_LIMITS: limits})


def read_by(reader: Callable[[Any, str], Any], default: Any = dataclasses.MISSING) -> Any:
  """A dataclass field that `reader(value, where)` reads; it raises `InputError`."""
  return dataclasses.field(default=default, metadata={_READ: reader})


def as_mapping(values: Any, where: str) -> Mapping[str, Any]:
  """Checks that a configuration's value is a block.

  Raises:
    InputError: it is no mapping from names, and `where` is named.
  """
  if isinstance(values, ml_collections.ConfigDict):
    values = values.to_dict()
  if not isinstance(values, Mapping):
    raise InputError(f"{where} is {_shown(values)}: it must be a block of fields")
  if others := [key for key in values if not isinstance(key, str)]:
    raise InputError(f"{where} has the key {_shown(others[0])}: keys must be texts")
  return values


def read(cls: type[T], values: Any, where: str) -> T:
  """Builds a dataclass from a configuration's block.

  Args:
    cls: the dataclass. Fields may be bool, int, float, str, tuples of one of these, dataclasses,
      one of these or None, or have a reader of their own (`read_by`).
    values: the block, a mapping.
    where: its place in the configuration, for messages, as "config.optim".

  Raises:
    InputError: a field is unknown, missing, of another type or out of its limits.
  """
  settings = read_fields(cls, values, where)
  try:
    return cls(**settings)
  except ValueError as error:
    raise InputError(f"{where}: {error}") from error


def read_fields(
  cls: type, values: Any, where: str, without: Collection[str] = (), hint: str = ""
) -> dict[str, Any]:
  """Reads a block's fields as `read` does, but builds nothing.

  Args:
    cls: the dataclass that declares the fields.
    values: the block.
    where: its place in the configuration.
    without: fields of the class that do not come from the configuration.
    hint: what is said beside an unknown field.

  Returns:
    The fields that the block gives, by name; for the others the class has defaults.
  """
  values = as_mapping(values, where)
  fields = {f.name: f for f in dataclasses.fields(cls) if f.init and f.name not in without}
  if unknown := sorted(set(values) - set(fields)):
    known = ", ".join(fields) or "it has none"
    raise InputError(f"unknown key {where}.{unknown[0]}: one of {known}{hint}")
  required = (name for name, field in fields.items() if not _has_default(field))
  if missing := [name for name in required if name not in values]:
    raise InputError(f"missing key {where}.{missing[0]}")
  hints = (
    typing.get_type_hints(cls) if any(isinstance(f.type, str) for f in fields.values()) else {}
  )
  return {
    name: _value(
      value, hints.get(name, fields[name].type), fields[name].metadata, f"{where}.{name}"
    )
    for name, value in values.items()
  }


def _has_default(field: dataclasses.Field) -> bool:
  missing = dataclasses.MISSING
  return field.default is not missing or field.default_factory is not missing


def _value(value: Any, kind: Any, metadata: Mapping[str, Any], where: str) -> Any:
  if _READ in metadata:
    return metadata[_READ](value, where)
  limits = metadata.get(_LIMITS)
  value = _typed(value, kind, where, limits)
  if limits is not None and value is not None:
    for item in value if isinstance(value, tuple) else (value,):
      if not limits.hold(item):
        raise InputError(f"{where} is {_shown(value)}: it must be {limits}")
  return value


def _typed(value: Any, kind: Any, where: str, limits: Limits | None = None) -> Any:
  """A value of a type, or `InputError`; the limits are only named, where a list is missing."""
  if isinstance(kind, types.UnionType):
    kinds = [k for k in typing.get_args(kind) if k is not type(None)]
    if value is None and len(kinds) < len(typing.get_args(kind)):
      return None
    matching = (k for k in kinds if type(value) is k)
    return _typed(value, next(matching, kinds[0]), where, limits)
  if typing.get_origin(kind) is tuple:
    item = typing.get_args(kind)[0]
    if not isinstance(value, list | tuple):
      each = f", each {limits}" if limits else ""
      items = _PLURALS.get(item, "blocks")
      raise InputError(f"{where} is {_shown(value)}: it must be a list of {items}{each}")
    return tuple(_typed(v, item, f"{where}[{i}]") for i, v in enumerate(value))
  if dataclasses.is_dataclass(kind):
    return read(typing.cast(type, kind), value, where)
  if kind not in _NOUNS:
    raise TypeError(f"{where}: fields of type {kind} cannot be read")
  # Python takes a bool for an int; a configuration must not.
  accepted = {bool: bool, int: int, float: int | float, str: str}[kind]
  if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
    raise InputError(f"{where} is {_shown(value)}: it must be {_NOUNS[kind]}")
  if kind is int and not -(2**63) <= value < 2**63:
    raise InputError(f"{where} is {_shown(value)}: it must fit 64 bits")
  if kind is float:
    try:
      value = float(value)
    except OverflowError:
      value = math.inf
    if not math.isfinite(value):
      raise InputError(f"{where} is {_shown(value)}: it must be finite")
  return value


def _shown(value: Any) -> str:
  """A value in one short line."""
  text = " ".join(repr(value).split())
  return text if len(text) <= 80 else f"{text[:77]}..."
