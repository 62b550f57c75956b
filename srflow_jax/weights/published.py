"""Published checkpoints, of SRFlow and SRFlow-DA and of RRDBs: names and layouts, both ways.

`tensors(model)` pairs every parameter of a model with its published name; reading and writing
follow that one table. Published kernels are `[O, I, k, k]`, ours `[k, k, I, O]`.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from srflow_jax.errors import InputError
from srflow_jax.model.building import (
  PUBLISHED_STEP,
  PUBLISHED_TRANSITION,
  abstract_params,
  parts_of,
)
from srflow_jax.model.kinds import Part
from srflow_jax.model.model import Model
from srflow_jax.model.srflow import SRFlow
from srflow_jax.weights.rrdb_names import SRFLOW, Path, RRDBNames

FLOW_PREFIX = "flowUpsamplerNet."
# A layer that the published checkpoints hold and nothing uses.
UNUSED_PREFIX = f"{FLOW_PREFIX}f."
# Layers of a step that have a net, and what their nets are called.
_CONDITIONED = {"injector": "fFeatures", "coupling": "fAffine"}
# Settings of published kinds that have the same value in every published model.
_PUBLISHED_SETTINGS = {"sees_features": True, "given": ("kept",)}
_UNUSED_CHANNELS = 96
# How many faults of a file's tensors are named.
_MAX_LINES = 20


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One published parameter: its place among ours, its name, and its layout.

  Attributes:
    path: keys into our tree of parameters. A number among them is that of a layer whose parameters
      are stacked with its equals' along the first axis (`srflow_jax.ops.repeated`).
    name: name in the published state dict.
    layout: "kernel" (`[O, I, k, k]`), "matrix" and "vector" (as ours), "map" (`[1, C, 1, 1]`) or
      "scale" (`[C, 1, 1]`).
  """

  path: Path
  name: str
  layout: str

  @property
  def keys(self) -> tuple[str, ...]:
    """Keys into our tree of parameters."""
    return tuple(key for key in self.path if isinstance(key, str))

  @property
  def number(self) -> int | None:
    """The number of its layer among stacked ones; None if layers are not stacked."""
    return next((key for key in self.path if isinstance(key, int)), None)

  def of(self, array: Any) -> Any:
    """Our array of this parameter, taken from the stacked array under its keys."""
    return array if self.number is None else array[self.number]

  def to_ours(self, array: np.ndarray) -> np.ndarray:
    """Changes a published array to our layout."""
    if self.layout == "kernel":
      return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    return array.reshape(-1) if self.layout in ("map", "scale") else array

  def to_published(self, array: np.ndarray) -> np.ndarray:
    """Changes our array to the published layout."""
    if self.layout == "kernel":
      return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    shape = {"map": (1, -1, 1, 1), "scale": (-1, 1, 1)}.get(self.layout, array.shape)
    return array.reshape(shape)

  def published_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The published array's shape, from the one under our keys."""
    shape = shape if self.number is None else shape[1:]
    if self.layout == "kernel":
      return (*shape[:1:-1], *shape[:2])
    return {"map": (1, *shape, 1, 1), "scale": (*shape, 1, 1)}.get(self.layout, shape)


def _conv(path: Path, name: str) -> Iterator[Tensor]:
  yield Tensor((*path, "kernel"), f"{name}.weight", "kernel")
  yield Tensor((*path, "bias"), f"{name}.bias", "vector")


def _zero_conv(path: Path, name: str, inner: Path = ("conv",)) -> Iterator[Tensor]:
  yield from _conv((*path, *inner), name)
  yield Tensor((*path, "logs"), f"{name}.logs", "scale")


def _actnorm(path: Path, name: str) -> Iterator[Tensor]:
  yield Tensor((*path, "bias"), f"{name}.actnorm.bias", "map")
  yield Tensor((*path, "logs"), f"{name}.actnorm.logs", "map")


def _conditioner_names(spec: Part, net: str) -> tuple[str, list[str], str]:
  """Published names of a net's first, hidden and last convolutions; activations are counted."""
  num_hidden, residual_every = spec.get("num_hidden"), spec.get("residual_every")
  if not residual_every:  # one sequence
    hidden = [f"{net}.{2 * i + 2}" for i in range(num_hidden)]
    return f"{net}.0", hidden, f"{net}.{2 * num_hidden + 2}"
  hidden = []
  for i in range(num_hidden):
    group, place = divmod(i, residual_every)
    of_group = f"{group}." if residual_every < num_hidden else ""
    hidden.append(f"{net}2.{of_group}{2 * place}")
  return f"{net}1.0", hidden, f"{net}3.0"


def _conditioner(spec: Part, path: Path, net: str) -> Iterator[Tensor]:
  first, hidden, last = _conditioner_names(spec, net)
  layers = [("first_norm", first)]
  layers += [(f"hidden_norm_{i}", name) for i, name in enumerate(hidden)]
  yield Tensor((*path, "first_kernel"), f"{first}.weight", "kernel")
  for i, name in enumerate(hidden):
    yield Tensor((*path, f"hidden_{i}", "kernel"), f"{name}.weight", "kernel")
  for norm, name in layers:
    if spec.get("normalize"):
      yield from _actnorm((*path, norm), name)
    else:
      yield Tensor((*path, norm, "bias"), f"{name}.bias", "vector")
  yield from _zero_conv((*path, "last"), last)


def encoder_tensors(model: Model, names: RRDBNames = SRFLOW) -> Iterator[Tensor]:
  """The encoder's parameters, in order of execution."""
  num_ups = model.scale.bit_length() - 1
  for path, name in names.convolutions(model.encoder_part.get("num_blocks"), num_ups):
    yield from _conv(path, name)


def flow_tensors(model: SRFlow) -> Iterator[Tensor]:
  """The flow's parameters. Published layers are numbered through, squeezes and splits included."""
  index = 0
  for s, stage in enumerate(model.stage_specs):
    nets = {part.kind: part.get("net") for part in stage.step if part.kind in _CONDITIONED}
    index += stage.squeeze > 1
    for i in range(stage.transition_steps + stage.steps):
      layer = f"{FLOW_PREFIX}layers.{index}"
      path = ("flow", f"stages_{s}", "transitions", i)
      if i >= stage.transition_steps:
        path = ("flow", f"stages_{s}", "steps", i - stage.transition_steps)
      yield from _actnorm((*path, "actnorm"), layer)
      yield Tensor((*path, "mixer", "matrix", "kernel"), f"{layer}.invconv.weight", "matrix")
      if i >= stage.transition_steps:
        for kind, name in _CONDITIONED.items():
          net = (*path, kind, "conditioner")
          yield from _conditioner(nets[kind], net, f"{layer}.affine.{name}")
      index += 1
    if stage.split:
      path = ("flow", f"stages_{s}", "prior")
      yield from _zero_conv(path, f"{FLOW_PREFIX}layers.{index}.conv", inner=())
      index += 1


def check_published(model: Model) -> None:
  """Refuses a model that has a part without published names, by `InputError`; it names the part."""
  for part in parts_of(model):
    if not part.cls.has_published_names:
      raise InputError(f"there are no published names for the {part.cls.place} {part.kind!r}")
    for name, value in part.settings:
      if value != _PUBLISHED_SETTINGS.get(name, value):
        raise InputError(f"there are no published names for a {part.kind} with {name} = {value!r}")
  for i, spec in enumerate(model.stage_specs if isinstance(model, SRFlow) else ()):
    layers = [part.kind for part in (*spec.transition, *spec.step)]
    if layers != [*PUBLISHED_TRANSITION, *PUBLISHED_STEP] or spec.keep:
      raise InputError(f"there are no published names for the layers of stage {i}")


def has_published_names(model: Model) -> bool:
  """Whether all of a model's parts have published names."""
  try:
    check_published(model)
  except InputError:
    return False
  return True


def tensors(model: Model, names: RRDBNames = SRFLOW) -> Iterator[Tensor]:
  """All parameters of a model with their published names; `names` are the encoder's.

  Raises:
    InputError: a part is of a kind that nobody has published names for.
  """
  check_published(model)
  yield from encoder_tensors(model, names)
  if isinstance(model, SRFlow):
    yield from flow_tensors(model)


def unused_tensors(model: SRFlow) -> dict[str, np.ndarray]:
  """Zeros for the layer that nothing uses: the published programs load no file without it.

  It is a 3x3 convolution from the features that the flow sees to 96 channels: 276,576 numbers for
  the 320 features of every published model (what the papers count and the flows do not have).
  """
  features = model.encoder_part.unbound(scale=model.scale).feature_channels
  return {
    f"{UNUSED_PREFIX}0.weight": np.zeros((_UNUSED_CHANNELS, features, 3, 3), np.float32),
    f"{UNUSED_PREFIX}0.bias": np.zeros(_UNUSED_CHANNELS, np.float32),
  }


def from_state_dict(
  model: Model, state_dict: Mapping[str, np.ndarray], names: RRDBNames = SRFLOW
) -> dict[str, Any]:
  """Turns a published state dict into the model's parameters; `names` are the encoder's.

  Raises:
    InputError: tensors are missing, surplus or misshapen; a line for each, up to 20.
  """
  # A damaged number of blocks or steps must not make an endless table.
  limit = 2 * len(state_dict) + 1000
  table = list(itertools.islice(tensors(model, names), limit))
  if len(table) == limit:
    raise InputError(f"holds {len(state_dict)} tensors, its model has more than {limit}")
  abstract = flatten_dict(abstract_params(model))
  known = {tensor.name for tensor in table}
  problems = [f"missing tensor {name}" for name in sorted(known - set(state_dict))]
  for name in sorted(set(state_dict) - known):
    if not name.startswith(UNUSED_PREFIX):
      problems.append(f"surplus tensor {name}")
  table = [tensor for tensor in table if tensor.name in state_dict]
  for tensor in table:
    shape = np.shape(state_dict[tensor.name])
    wanted = tensor.published_shape(abstract[tensor.keys].shape)
    if shape != wanted:
      problems.append(f"tensor {tensor.name} has shape {shape}, the model's is {wanted}")
  if problems:  # before any memory is taken for sizes that may be damaged
    if more := problems[_MAX_LINES:]:
      problems[_MAX_LINES:] = [f"and {len(more)} more such lines"]
    raise InputError("\n".join(problems))
  params = {}
  for tensor in table:
    array = np.asarray(state_dict[tensor.name])
    ours = params.setdefault(tensor.keys, np.empty(abstract[tensor.keys].shape, array.dtype))
    tensor.of(ours)[:] = tensor.to_ours(array)
  return unflatten_dict(params)


def to_state_dict(
  model: Model, params: Mapping[str, Any], names: RRDBNames = SRFLOW
) -> dict[str, np.ndarray]:
  """Turns a model's parameters into a published state dict; `names` are the encoder's."""
  flat = flatten_dict(params)
  return {t.name: t.to_published(np.asarray(t.of(flat[t.keys]))) for t in tensors(model, names)}
