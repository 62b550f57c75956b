"""A weights file as a model: recognised, and completed where tensors leave something open."""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from srflow_jax.errors import InputError
from srflow_jax.images import read_image
from srflow_jax.model.building import build_model
from srflow_jax.model.encoders import Encoder
from srflow_jax.model.features import Given
from srflow_jax.model.kinds import read_part
from srflow_jax.model.residual_encoders import GLOBAL_SKIPS
from srflow_jax.ops.resize import bicubic_resize
from srflow_jax.weights import files, named, own_names
from srflow_jax.weights.published import FLOW_PREFIX, from_state_dict
from srflow_jax.weights.recognise import ModelConfig, published_taps, recognise, recognise_encoder
from srflow_jax.weights.rrdb_names import RRDBNames, recognise_names

# What an enlargement of a photograph must reach, and by how much it must beat that with the other
# skip, for the two to be told apart. With Real-ESRGAN's weights they are 13 dB apart.
_GOOD_PSNR, _CLEAR_DB = 16.0, 3.0
_PHOTOGRAPH_SIZE = 128  # pixels a side of its crop
# What `recognise_encoder` leaves open.
_NOT_SHOWN = ("model.encoder.taps", "model.encoder.global_skip")


@dataclasses.dataclass(frozen=True)
class CheckpointFile:
  """What a file holds.

  Attributes:
    model_config: a `model` block as `build_model` takes it.
    params: the parameters of that model.
    notes: what tensors did not show and how it was settled, for the user.
    sources: what was read, as `files.read` takes it: more than one where a flow's encoder has a
      file of its own.
  """

  model_config: ModelConfig
  params: dict[str, Any]
  notes: tuple[str, ...]
  sources: tuple[str, ...]


def read_checkpoint(
  source: str, given: Mapping[str, Any] | None = None, encoder_only: bool = False
) -> CheckpointFile:
  """Reads published weights: of a flow with its encoder, or of an RRDB alone.

  Args:
    source: what `files.read` takes.
    given: the `model` block of a configuration, which the file must agree with. It settles what
      tensors do not show: the taps, and the global skip if no measurement can.
    encoder_only: leave a flow in the file and in the block aside.

  Raises:
    InputError: the file cannot be read, its tensors are not those of a model or of the one that is
      given; a line for each.
  """
  tensors, facts = files.read(source)
  try:
    if "model" in facts and own_names.are_own_names(tensors):
      return _read_own(source, facts, tensors, given, encoder_only)
    names = recognise_names(tensors)
    if encoder_only:
      tensors = {n: array for n, array in tensors.items() if not n.startswith(FLOW_PREFIX)}
    found = (
      _own_model(facts["model"], tensors, names) if "model" in facts else recognise(tensors, names)
    )
    if encoder_only:
      found |= {"stages": (), "encoder": found["encoder"] | {"taps": ()}}
    if "global_skip" in facts:
      found["encoder"]["global_skip"] = facts["global_skip"]
    notes = _settle_taps(found, given) + _settle_skip(found, given, tensors, names)
    if given is not None and (lines := differences(given, found, encoder_only)):
      raise InputError("\n".join(lines))
    params = from_state_dict(build_model(found), tensors, names)
  except InputError as error:
    raise InputError("\n".join(f"{source}: {line}" for line in str(error).split("\n"))) from None
  return CheckpointFile(found, params, tuple(notes), (source,))


def _read_own(
  source: str,
  facts: Mapping[str, Any],
  tensors: Mapping[str, np.ndarray],
  given: Mapping[str, Any] | None,
  encoder_only: bool,
) -> CheckpointFile:
  """As `read_checkpoint`, of a file with our own names, whose header tells all."""
  block = facts["model"]
  # Modules are not imported because a file says so.
  if unknown := [name for name in facts.get("plugins", ()) if name not in sys.modules]:
    raise InputError(f"it has parts of {', '.join(unknown)}: give a configuration with that plugin")
  model = build_model(block)
  if given is not None and (lines := differences(given, block, encoder_only)):
    raise InputError("\n".join(lines))
  parts = ("encoder",) if encoder_only else model.parts
  if "encoder" not in facts:
    return CheckpointFile(block, own_names.from_state_dict(model, tensors, parts), (), (source,))
  encoder = facts["encoder"]
  if encoder not in named.SHIPPED:
    known = ", ".join(named.SHIPPED)
    raise InputError(f"its header names the encoder {encoder!r}, which is none of {known}")
  if any(name.startswith("encoder/") for name in tensors):
    raise InputError(f"it has an encoder, though its header names {encoder}")
  params = read_checkpoint(encoder, block, encoder_only=True).params
  if not encoder_only:
    params |= own_names.from_state_dict(model, tensors, ("flow",))
  return CheckpointFile(block, params, (), (source, encoder))


def differences(
  given: Mapping[str, Any], found: Mapping[str, Any], encoder_only: bool = False
) -> list[str]:
  """Says in which fields a configuration's `model` block differs from a file's, a line for each.

  Taps count only where a flow sees them; with `encoder_only` nothing counts but scale and encoder.
  """
  given, found = (
    _plain(block) | {"encoder": _all_settings(block["encoder"])} for block in (given, found)
  )
  if encoder_only:
    found = {part: found[part] for part in ("scale", "encoder")}
  if not found.get("stages"):
    found["encoder"].pop("taps", None)
  lines = []
  if "stages" in found and len(given["stages"]) != len(found["stages"]):
    counts = len(given["stages"]), len(found.pop("stages"))
    lines.append("config.model.stages are {}, not {}".format(*counts))
  given = _flat(given, "config.model")
  for field, value in _flat(found, "config.model").items():
    if field not in given:
      lines.append(f"config has no {field}, which is {value!r}")
    elif given[field] != value:
      lines.append(f"{field} is {given[field]!r}, not {value!r}")
  return lines


def _all_settings(encoder: Any) -> dict[str, Any]:
  """An encoder's block, with its kind and the defaults of what it leaves out."""
  part = read_part(Encoder, encoder, "config.model.encoder")
  return {"kind": part.kind} | part.filled()


def _plain(block: Mapping[str, Any]) -> dict[str, Any]:
  """A block, a `ConfigDict` or not, as JSON would give it back."""
  return json.loads(json.dumps(ml_collections.ConfigDict(block).to_dict()))


def _flat(value: Any, field: str) -> dict[str, Any]:
  if isinstance(value, dict):
    inner = [(f"{field}.{key}", item) for key, item in value.items()]
  elif isinstance(value, list) and value and isinstance(value[0], dict):
    inner = [(f"{field}[{i}]", item) for i, item in enumerate(value)]
  else:
    return {field: value}
  return {key: leaf for name, item in inner for key, leaf in _flat(item, name).items()}


def _own_model(block: Any, tensors: Mapping[str, np.ndarray], names: RRDBNames) -> ModelConfig:
  """The `model` block of a header that our export wrote, if it is one and the tensors' own."""
  shapes = {name: array.shape for name, array in tensors.items()}
  shown = recognise_encoder(shapes, names)
  try:
    build_model(block)
    flat = _flat(_plain(block), "model")
    for field, value in _flat(_plain(shown), "model").items():
      if field not in flat:
        raise InputError(f"missing key {field}")
      if field not in _NOT_SHOWN and flat[field] != value:
        raise InputError(f"{field} is {flat[field]!r}, by the tensors {value!r}")
    # A damaged number of layers must not be counted up to, nor memory be taken for it.
    largest = max(len(shapes), *(max(shape, default=1) for shape in shapes.values()))
    for field, value in flat.items():
      if isinstance(value, int) and value > largest:
        raise InputError(f"{field} is {value}, more than any size of the tensors")
  except InputError as error:
    raise InputError(f"its header's {files.MODEL_KEY} is damaged: {error}") from None
  return block


def _settle_taps(found: ModelConfig, given: Mapping[str, Any] | None) -> list[str]:
  """Fills in which blocks the flow sees, if it is open, as the configuration or the papers say."""
  encoder = found["encoder"]
  number = len(encoder["taps"])
  if None not in encoder["taps"]:
    return []
  if given is not None:
    encoder["taps"] = tuple(given["encoder"]["taps"])
    if len(encoder["taps"]) != number:
      raise InputError(f"config.model.encoder.taps are {len(encoder['taps'])}, not {number}")
    return []
  published = published_taps(found)
  if published is None:
    raise InputError(f"the flow sees {number} blocks, no tensor shows which: give --config")
  encoder["taps"] = published
  return [
    f"no tensor shows which blocks the flow sees: took {published}, as published; for others give "
    "--config and --config.model.encoder.taps"
  ]


def _settle_skip(
  found: ModelConfig,
  given: Mapping[str, Any] | None,
  tensors: Mapping[str, np.ndarray],
  names: RRDBNames,
) -> list[str]:
  """Fills in where the skip starts, if it is open: where a photograph is enlarged better."""
  encoder = found["encoder"]
  if encoder["global_skip"] is not None:
    return []
  psnr = {skip: _enlargement_psnr(found, skip, tensors, names) for skip in GLOBAL_SKIPS}
  decibels = ", ".join(f"{skip} {value:.1f} dB" for skip, value in psnr.items())
  worse, best = sorted(psnr, key=psnr.get)
  if psnr[best] >= _GOOD_PSNR and psnr[best] - psnr[worse] >= _CLEAR_DB:
    encoder["global_skip"] = best
    return [f"{names.label} names are used with either global skip; a photograph tells: {decibels}"]
  if given is None:
    raise InputError(
      f"{names.label} names are used with either global skip, and a photograph does not tell which "
      f"({decibels}): give --config and --config.model.encoder.global_skip"
    )
  encoder["global_skip"] = given["encoder"]["global_skip"]
  return [f"a photograph does not tell which global skip is meant ({decibels}): took --config's"]


def _enlargement_psnr(
  found: ModelConfig, skip: str, tensors: Mapping[str, np.ndarray], names: RRDBNames
) -> float:
  """PSNR, dB, of a bundled photograph's crop enlarged by the RRDB with this skip."""
  encoder = found["encoder"] | {"global_skip": skip}
  model = build_model(found | {"encoder": encoder, "stages": ()})
  params = from_state_dict(model, tensors, names)
  # Not above: it takes a second to import, and few files are of this kind.
  from srflow_jax.data.folders import photographs

  image = read_image(photographs("", "train")[0][1])
  top, left = ((side - _PHOTOGRAPH_SIZE) // 2 for side in image.shape[:2])
  hr = image[top : top + _PHOTOGRAPH_SIZE, left : left + _PHOTOGRAPH_SIZE]
  lr = (bicubic_resize(hr, 1 / model.scale)[None] / 255).astype(np.float32)
  sr = jax.jit(lambda params: model.apply({"params": params}, Given(lr), method="super_resolve"))(
    params
  )
  error = float(np.mean((np.clip(sr[0], 0, 1) - hr / 255) ** 2))
  return -10 * math.log10(max(error, 1e-10))
