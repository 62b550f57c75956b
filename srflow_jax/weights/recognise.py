"""Which model a published checkpoint is of, from its tensors' names and shapes alone."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from srflow_jax.errors import InputError
from srflow_jax.weights.published import FLOW_PREFIX
from srflow_jax.weights.rrdb_names import RRDBNames

Shapes = Mapping[str, tuple[int, ...]]
ModelConfig = dict[str, Any]

_LAYERS = f"{FLOW_PREFIX}layers."
_MAX_UPS = 4
# The blocks that published flows see. SRFlow's own x8 release, which alone of all x8 models has
# actnorms in its conditioners, differs from the others.
_TAPS = (1, 8, 15, 22)
_TAPS_OF_SRFLOW_X8 = (1, 3, 5, 7)


def recognise(tensors: Mapping[str, np.ndarray], names: RRDBNames) -> ModelConfig:
  """Derives a `model` block, except what tensors do not show.

  Args:
    tensors: a checkpoint of a flow, or of an encoder alone.
    names: how its encoder is named.

  Returns:
    The block as `build_model` takes it, `stages` empty for an encoder alone. In `encoder`,
    `global_skip` is None where names do not show it, and `taps` are as many None as there are taps.

  Raises:
    InputError: a tensor that shows a size is missing, or the layers are no flow of this family.
  """
  shapes = {name: array.shape for name, array in tensors.items()}
  model = {**recognise_encoder(shapes, names), "stages": ()}
  if not any(name.startswith(_LAYERS) for name in shapes):
    return model

  layers = _layers(shapes)
  model["stages"] = _stages(layers)
  net = next(layer for layer in layers if _kind(layer) == "step")
  model["conditioner"], num_features = _conditioner(net)
  encoder = model["encoder"]
  encoder["taps"] = (None,) * (num_features // encoder["width"] - 1)
  return model


def recognise_encoder(shapes: Shapes, names: RRDBNames) -> ModelConfig:
  """Derives `scale` and `encoder` of a `model` block, as `recognise` does, `taps` left empty."""
  width = _shape(shapes, f"{names.first}.weight")[0]
  growth = _shape(shapes, f"{names.block.format(block=0, dense=1, conv=1)}.weight")[0]
  ups = [up for up in range(1, _MAX_UPS + 1) if f"{names.up_name(up)}.weight" in shapes]
  if not ups:
    raise InputError(f"missing tensor {names.up_name(1)}.weight")
  encoder = {
    "width": width,
    "growth": growth,
    "num_blocks": names.num_blocks(shapes),
    "taps": (),
    "global_skip": names.global_skip,
  }
  return {"scale": 2 ** max(ups), "encoder": encoder}


def published_taps(model: ModelConfig) -> tuple[int, ...] | None:
  """The blocks that the flow of a published checkpoint sees; None if the model is not published."""
  encoder = model["encoder"]
  if (len(encoder["taps"]), encoder["num_blocks"]) != (len(_TAPS), 23):
    return None
  is_srflow_x8 = model["conditioner"]["normalize"] and model["scale"] == 8
  return _TAPS_OF_SRFLOW_X8 if is_srflow_x8 else _TAPS


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
  if name not in shapes:
    raise InputError(f"missing tensor {name}")
  if len(shapes[name]) not in (2, 4):
    raise InputError(f"tensor {name} has shape {shapes[name]}: not a convolution's")
  return shapes[name]


def _layers(shapes: Shapes) -> list[dict[str, tuple[int, ...]]]:
  """Shapes by name inside the layer, for each place up to the last; empty for a squeeze."""
  layers: dict[int, dict[str, tuple[int, ...]]] = {}
  for name, shape in shapes.items():
    if match := re.fullmatch(rf"{re.escape(_LAYERS)}(\d{{1,9}})\.(.+)", name):
      layers.setdefault(int(match.group(1)), {})[match.group(2)] = shape
  if not layers:
    raise InputError(f"no tensor {_LAYERS}NUMBER.NAME: not a conditional flow")
  # A damaged number must not make a long list of squeezes.
  if max(layers) > 2 * len(layers) + 8:
    raise InputError(f"{_LAYERS}{max(layers)} is the {len(layers)}. layer only")
  return [layers.get(i, {}) for i in range(max(layers) + 1)]


def _kind(layer: Shapes) -> str:
  if not layer:
    return "squeeze"
  if any(name.startswith("affine.") for name in layer):
    return "step"
  return "split" if any(name.startswith("conv.") for name in layer) else "transition"


def _channels(layer: Shapes, place: int) -> int:
  """Channels that a layer with tensors takes."""
  name = "conv.weight" if _kind(layer) == "split" else "invconv.weight"
  if len(layer.get(name, ())) not in (2, 4):
    raise InputError(f"missing tensor {_LAYERS}{place}.{name}")
  if name == "invconv.weight":
    return layer[name][0]
  return layer[name][1] + layer[name][0] // 2  # what is kept, and mean and logs of the rest


def _stages(layers: list[Shapes]) -> tuple[dict[str, Any], ...]:
  stages, channels, before = [], 3, None
  for place, layer in enumerate(layers):
    kind = _kind(layer)
    starts = kind == "squeeze" or before in (None, "split")
    if starts or (kind, before) == ("transition", "step"):
      stages.append({"squeeze": 1, "transition_steps": 0, "steps": 0, "split": False})
    before = kind
    if kind == "squeeze":
      continue
    stage, own = stages[-1], _channels(layer, place)
    if own != channels:
      stage["squeeze"] = int((own / channels) ** 0.5)
      if stage["squeeze"] ** 2 * channels != own:
        raise InputError(
          f"{_LAYERS}{place} has {own} channels: no squeeze makes them of {channels}"
        )
      channels = own
    if kind == "split":
      stage["split"] = True
      channels -= channels // 2
    else:
      stage["steps" if kind == "step" else "transition_steps"] += 1
  if not any(stage["steps"] for stage in stages):
    raise InputError(f"no layer of {_LAYERS}* has tensors affine.*: not a conditional flow")
  return tuple(stages)


def _conditioner(layer: Shapes) -> tuple[dict[str, Any], int]:
  """The conditioner block, from one conditional step's injector; and the features that it takes."""
  kernels = {
    match.group(1): shape
    for name, shape in layer.items()
    if len(shape) == 4 and (match := re.fullmatch(r"affine\.fFeatures(.+)\.weight", name))
  }
  # Names are ".N" for convolution N/2 of a sequence without skips; with skips "1.0", then "2.N", or
  # "2.GROUP.N" if there are several groups, then "3.0".
  grouped = [name for name in kernels if name.startswith("2.")]
  groups = {name.split(".")[1] for name in grouped if name.count(".") == 2}
  num_hidden = len(grouped) if grouped else len(kernels) - 2
  if num_hidden < 0 or (groups and num_hidden % len(groups)):
    raise InputError(f"conditioner nets of {len(kernels)} convolutions: {', '.join(kernels)}")
  first = "1.0" if grouped else ".0"
  hidden = grouped[0] if grouped else ".2"
  if first not in kernels or hidden not in kernels:
    raise InputError(f"missing tensor: conditioner nets of convolutions {', '.join(kernels)}")
  block = {
    "width": kernels[first][0],
    "num_hidden": num_hidden,
    "hidden_kernel": kernels[hidden][2] if num_hidden else 3,
    "residual_every": num_hidden // max(1, len(groups)) if grouped else 0,
    "normalize": f"affine.fFeatures{first}.actnorm.bias" in layer,
  }
  return block, kernels[first][1]
