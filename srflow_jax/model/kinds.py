"""Places and kinds: how a configuration names the parts that a model is built from.

A *place* is a role in the model, such as the net of a coupling; a *kind* is one class that can play
it. A kind says where it belongs by its base class, and what it is called by a decorator:

    @kind("shallow")
    class Shallow(Net):
      width: int = limited(32, at_least=1)

    config.model.conditioner = {"kind": "shallow", "width": 16}

The fields that the class itself declares are the keys of the block, with their types and limits
(`srflow_jax.blocks`). What its place leaves open it must define. A block without `kind` is of the
published kind. A class may live in any module: those in `config.plugins` are imported before a
model is built.
"""

import dataclasses
import functools
import hashlib
import importlib
import inspect
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import flax.linen as nn

from srflow_jax import blocks
from srflow_jax.errors import InputError

C = TypeVar("C", bound=type)

_PLACE = "place"  # keys of a field's metadata: it is a part, or several
_PLACES = "places"


class Place:
  """A base class of kinds that can stand in for each other.

  Direct subclasses are places; they say `place`, its name in messages, and `published`, the kind
  that a block without a name means. Fields that they declare are given by whoever builds the part,
  not by the configuration.
  """

  place: ClassVar[str]
  published: ClassVar[str]
  kind: ClassVar[str]  # the name of this class; set by the decorator
  has_published_names: ClassVar[bool] = False  # whether `weights.published` has names for it


_KINDS: dict[type, dict[str, type]] = {}


def place_of(cls: type) -> type:
  """The place that a kind belongs to."""
  return next(base for base in cls.__mro__ if Place in base.__bases__)


def kind(name: str) -> Callable[[C], C]:
  """Registers a class under a name, as a kind of the place that it is derived from.

  Raises:
    TypeError: the class lacks something that its place asks for, or is no dataclass.
    ValueError: another module has a kind of this name.
  """

  def register(cls: C) -> C:
    kinds = _KINDS.setdefault(place_of(cls), {})
    known = kinds.get(name)
    if known is not None and known.__module__ != cls.__module__:
      raise ValueError(
        f"{cls.__module__}: the {place_of(cls).place} {name!r} exists, in {known.__module__}"
      )
    what = f"{cls.__module__}.{cls.__qualname__}, the {place_of(cls).place} {name!r}"
    if missing := [attribute for attribute in dir(cls) if _is_open(cls, attribute)]:
      raise TypeError(f"{what}, does not define {', '.join(missing)}")
    fields = {field.name for field in dataclasses.fields(cls)}
    annotated = inspect.get_annotations(cls).items()  # its own, not those that it inherits
    if {field for field, said in annotated if "ClassVar" not in str(said)} - fields:
      raise TypeError(f"{what}, must be a dataclass: put @dataclasses.dataclass(frozen=True) on it")
    cls.kind = name
    cls.has_published_names = cls.__dict__.get("has_published_names", False)  # not inherited
    kinds[name] = cls
    return cls

  return register


def _is_open(cls: type, attribute: str) -> bool:
  """Whether a class leaves something abstract."""
  return getattr(inspect.getattr_static(cls, attribute), "__isabstractmethod__", False)


def kinds_of(place: type) -> Mapping[str, type]:
  """The kinds of a place, by name."""
  return _KINDS[place]


def part(place: type) -> Any:
  """A field of a kind that is itself a part; where a block leaves it out, the model's is taken."""
  return dataclasses.field(metadata={_PLACE: place})


def parts(place: type) -> Any:
  """A field of a kind that is several parts, in order: a list of blocks, which must be given."""
  return dataclasses.field(metadata={_PLACES: place})


@dataclasses.dataclass(frozen=True)
class Part:
  """A kind of module with its settings: what a configuration's block says, ready to be built.

  Attributes:
    cls: the class.
    settings: names and values of the fields that come from the configuration.
  """

  cls: type
  settings: tuple[tuple[str, Any], ...] = ()

  def __call__(self, **structure: Any) -> Any:
    """Builds the module; `structure` are the fields that the place declares."""
    return self.cls(**dict(self.settings), **structure)

  def unbound(self, **structure: Any) -> Any:
    """Builds the module outside of any model, to ask for its properties."""
    return self(**structure, parent=None)

  @property
  def kind(self) -> str:
    """The name of the kind."""
    return self.cls.kind

  def get(self, name: str) -> Any:
    """A setting, or the class's default for it."""
    fields = {field.name: field.default for field in dataclasses.fields(self.cls)}
    return dict(self.settings).get(name, fields[name])

  def filled(self) -> dict[str, Any]:
    """All settings by name, the class's defaults for those that are left out."""
    return _defaults(self.cls) | dict(self.settings)

  def replace(self, **settings: Any) -> "Part":
    """The same kind with other settings."""
    return Part(self.cls, tuple((dict(self.settings) | settings).items()))


def _structure(cls: type) -> set[str]:
  """Names of a kind's fields that no configuration gives: its place's and every module's."""
  return {"parent", "name", *(field.name for field in dataclasses.fields(place_of(cls)))}


def _defaults(cls: type) -> dict[str, Any]:
  """The values of those of a kind's settings that a block may leave out."""
  structure = _structure(cls)
  return {
    field.name: field.default
    for field in dataclasses.fields(cls)
    if field.name not in structure and field.default is not dataclasses.MISSING
  }


def all_parts(parts: Iterable[Any]) -> "Iterator[Part]":
  """Parts, and the parts that are settings of theirs; what is no part is passed over."""
  for each in parts:
    if isinstance(each, Place):  # a kind that is no module
      yield Part(type(each), tuple(vars(each).items()))
    elif isinstance(each, Part):
      yield each
      yield from all_parts(value for _, value in each.settings)
    elif isinstance(each, tuple):
      yield from all_parts(each)


def import_plugins(modules: Iterable[str]) -> None:
  """Imports the modules that a configuration names as `plugins`, so that their kinds are known.

  Raises:
    InputError: a module cannot be imported.
  """
  for module in modules:
    try:
      importlib.import_module(module)
      plugin_digest(module)
    except Exception as error:  # whatever a researcher's module may raise
      raise InputError(
        f"config.plugins: {module} cannot be imported: {type(error).__name__}: {error}"
      ) from error


@functools.cache
def plugin_digest(module: str) -> str:
  """The SHA-256 of the source of a module, as it was imported; of a package, of all its modules.

  A class may change under the runs that were made with it: their configurations name it all the
  same.
  """
  imported = sys.modules[module]
  own = pathlib.Path(inspect.getfile(imported))
  files = sorted(own.parent.rglob("*.py")) if hasattr(imported, "__path__") else [own]
  digest = hashlib.sha256()
  for file in files:
    digest.update(f"{file.relative_to(own.parent)}\n".encode())
    digest.update(file.read_bytes())
  return digest.hexdigest()


def read_part(
  place: type, block: Any, where: str, defaults: Mapping[type, Any] | None = None
) -> Any:
  """Reads a block that names and sets a part.

  Args:
    place: the place.
    block: a mapping, or a text: the name of a kind all of whose settings have defaults.
    where: the block's place in the configuration, for messages.
    defaults: parts by place, for fields of the kind that are parts and that the block leaves out.

  Returns:
    A `Part` if the place's kinds are modules, which are built within a model; else the kind itself.

  Raises:
    InputError: the kind or a field is unknown, missing or out of range.
  """
  if isinstance(block, str):
    block = {"kind": block}
  block = dict(blocks.as_mapping(block, where))
  hint = f"; a block of another kind is given whole: \"--{where}={{'kind':{block.get('kind')!r}}}\""
  hint = hint if "kind" in block else ""
  kinds = kinds_of(place)
  name = block.pop("kind", place.published)
  if not isinstance(name, str) or name not in kinds:
    raise InputError(f"{where}.kind is {name!r}: one of {', '.join(sorted(kinds))}")
  cls = kinds[name]
  inner = {f.name: f.metadata[_PLACE] for f in dataclasses.fields(cls) if _PLACE in f.metadata}
  settings = {}
  for field, inner_place in inner.items():
    if field in block:
      settings[field] = read_part(inner_place, block.pop(field), f"{where}.{field}", defaults)
    elif defaults and inner_place in defaults:
      settings[field] = defaults[inner_place]
    else:
      raise InputError(f"missing key {where}.{field}")
  several = {f.name: f.metadata[_PLACES] for f in dataclasses.fields(cls) if _PLACES in f.metadata}
  for field, inner_place in several.items():
    if field not in block:
      raise InputError(f"missing key {where}.{field}")
    settings[field] = read_parts(inner_place, block.pop(field), f"{where}.{field}", defaults)
  without = {*inner, *several, *_structure(cls)}
  settings |= blocks.read_fields(cls, block, where, without, hint)
  try:
    if check := getattr(cls, "check_settings", None):
      check(_defaults(cls) | settings)
    return Part(cls, tuple(settings.items())) if issubclass(cls, nn.Module) else cls(**settings)
  except ValueError as error:
    raise InputError(f"{where}: {error}") from error


def read_parts(
  place: type, values: Any, where: str, defaults: Mapping[type, Any] | None = None
) -> tuple[Any, ...]:
  """Reads a list of blocks or names of kinds, each as `read_part` does.

  Raises:
    InputError: it is no list, or as `read_part`.
  """
  if isinstance(values, str | Mapping) or not isinstance(values, list | tuple):
    raise InputError(f"{where} is {values!r}: it must be a list of {place.place}s")
  return tuple(read_part(place, value, f"{where}[{i}]", defaults) for i, value in enumerate(values))
