"""RRDBs in ncnn's two files: `.param`, the graph as text, and `.bin`, the weights in its order.

Sources: ncnn's documentation of its formats ("param and model file structure").
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from srflow_jax.errors import InputError
from srflow_jax.weights.rrdb_names import BASICSR

SUFFIXES = (".param", ".bin")
_MAGIC = "7767517"
_FLOAT16_TAG, _FLOAT32_TAG = 0x01306B47, 0
# The kinds of layers that RRDBs are made of, and how many inputs each may have.
_NUM_INPUTS = {
  "Input": (0,),
  "Convolution": (1,),
  "Split": (1,),
  "Interp": (1,),
  "Concat": range(1, 100),
  "Eltwise": (2,),
  "BinaryOp": (1, 2),  # with 1, the second input is a constant
}


def pair(path: pathlib.Path) -> list[pathlib.Path]:
  """The graph's file and the weights' file, given one of them."""
  return [path.with_suffix(suffix) for suffix in SUFFIXES]


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads an RRDB.

  Args:
    path: the `.param` or the `.bin` file; the other lies beside it.

  Returns:
    Tensors in BasicSR's names; and {"global_skip": where the graph's skip starts}.

  Raises:
    InputError: a file is damaged, or the network is not an RRDB.
    OSError: a file cannot be read.
  """
  graph, weights = pair(path)
  layers = _layers(graph)
  convolutions = [layer for layer in layers if layer.kind == "Convolution"]
  num_ups = sum(layer.kind == "Interp" for layer in layers)
  num_blocks, rest = divmod(len(convolutions) - 4 - num_ups, 15)
  if rest or num_blocks < 1:
    raise InputError(f"{graph}: not an RRDB: {len(convolutions)} convolutions, {num_ups} resizings")
  skip = _global_skip(graph, layers, convolutions[0], convolutions[15 * num_blocks + 1])

  names = [name for _, name in BASICSR.convolutions(num_blocks, num_ups)]
  data, offset, tensors = weights.read_bytes(), 0, {}
  for name, layer in zip(names, convolutions, strict=True):
    kernel, bias, offset = _convolution(weights, data, offset, layer.options)
    tensors |= {f"{name}.weight": kernel, f"{name}.bias": bias}
  if offset != len(data):
    raise InputError(f"{weights}: {len(data) - offset} bytes more than {graph.name} tells of")
  return tensors, {"global_skip": skip}


@dataclasses.dataclass(frozen=True)
class _Layer:
  """A layer of a graph: its kind, the blobs that it takes and makes, and its options."""

  kind: str
  inputs: tuple[str, ...]
  outputs: tuple[str, ...]
  options: dict[str, str]


def _layer(line: str) -> _Layer:
  """Reads one line, `KIND NAME NUM_INPUTS NUM_OUTPUTS INPUT... OUTPUT... KEY=VALUE...`.

  Raises:
    ValueError: it is no such line.
  """
  kind, _, *counts, rest = line.split(maxsplit=4)
  num_inputs, num_outputs = map(int, counts)
  end, words = num_inputs + num_outputs, rest.split()
  if num_inputs < 0 or num_outputs < 1 or end > len(words):
    raise ValueError(f"{num_inputs} inputs and {num_outputs} outputs of {len(words)} words")
  options = dict(option.split("=", 1) for option in words[end:])
  return _Layer(kind, tuple(words[:num_inputs]), tuple(words[num_inputs:end]), options)


def _layers(path: pathlib.Path) -> list[_Layer]:
  layers, made = [], set()
  where = ""
  try:
    magic, counts, *lines = path.read_text("ascii").splitlines()
    if magic.strip() != _MAGIC or len(lines) != int(counts.split()[0]):
      raise ValueError("its first lines do not fit")
    for i, line in enumerate(lines):
      where = f": see line {i + 3}"
      layers.append(_layer(line))
      if missing := set(layers[-1].inputs) - made:
        raise ValueError(f"no layer makes {min(missing)}")
      made.update(layers[-1].outputs)
  except (ValueError, IndexError):
    raise InputError(f"{path}: not a whole ncnn graph{where}") from None
  if strange := sorted({layer.kind for layer in layers} - _NUM_INPUTS.keys()):
    raise InputError(f"{path}: not an RRDB: has {', '.join(strange)}")
  for layer in layers:
    if len(layer.inputs) not in _NUM_INPUTS[layer.kind]:
      raise InputError(f"{path}: not an RRDB: {layer.kind} of {len(layer.inputs)} inputs")
  return layers


def _global_skip(path: pathlib.Path, layers: list[_Layer], first: _Layer, trunk: _Layer) -> str:
  """Follows the inputs of the sum after the trunk to where they come from."""
  origin = {}  # of each blob, past copies
  for layer in layers:
    for output in layer.outputs:
      origin[output] = origin[layer.inputs[0]] if layer.kind == "Split" else output
  (first_map,), (trunk_map,), last_block = first.outputs, trunk.outputs, origin[trunk.inputs[0]]
  for layer in layers:
    sources = {origin[blob] for blob in layer.inputs}
    if layer.kind in ("BinaryOp", "Eltwise") and trunk_map in sources:
      if sources == {trunk_map, first_map}:
        return "first_conv"
      if sources == {trunk_map, last_block}:
        return "last_block"
  raise InputError(f"{path}: not an RRDB: no skip around its trunk")


def _convolution(
  path: pathlib.Path, data: bytes, offset: int, options: dict[str, str]
) -> tuple[np.ndarray, np.ndarray, int]:
  """One convolution's kernel `[O, I, k, k]`, bias `[O]`, and where the next one starts."""

  def take(dtype: str, count: int) -> np.ndarray:
    nonlocal offset
    end = offset + np.dtype(dtype).itemsize * count
    if end > len(data):
      raise InputError(f"{path}: ends early")
    array = np.frombuffer(data, dtype, count, offset)
    offset = end + -end % 4  # padded to whole words
    return array

  try:
    out, size, has_bias, num_weights = (int(options.get(key, 0)) for key in ("0", "1", "5", "6"))
  except ValueError:
    out = size = has_bias = num_weights = 0
  if min(out, size, num_weights) < 1 or has_bias != 1 or num_weights % (out * size * size):
    shown = " ".join(f"{key}={value}" for key, value in options.items())
    raise InputError(f"{path.with_suffix('.param')}: not an RRDB: convolution with {shown[:80]}")
  tag = int(take("<u4", 1)[0])
  if tag not in (_FLOAT16_TAG, _FLOAT32_TAG):
    raise InputError(f"{path}: weights stored as {tag:#x}, neither float16 nor float32")
  kernel = take("<f2" if tag == _FLOAT16_TAG else "<f4", num_weights)
  shape = (out, num_weights // (out * size * size), size, size)
  return kernel.reshape(shape), take("<f4", out), offset
