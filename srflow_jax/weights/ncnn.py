"""RRDBs in ncnn's two files: `.param`, the graph as text, and `.bin`, the weights in its order.

Sources: ncnn's documentation of its formats ("param and model file structure").
"""

import pathlib
from collections import Counter
from typing import Any

import numpy as np

from srflow_jax.errors import InputError
from srflow_jax.weights.rrdb_names import BASICSR

SUFFIXES = (".param", ".bin")
_MAGIC = "7767517"
_FLOAT16_TAG, _FLOAT32_TAG = 0x01306B47, 0
_LAYERS = {"Input", "Convolution", "Split", "Concat", "Eltwise", "BinaryOp", "Interp"}


def pair(path: pathlib.Path) -> list[pathlib.Path]:
  """The graph's file and the weights' one, given either."""
  return [path.with_suffix(suffix) for suffix in SUFFIXES]


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads an RRDB.

  Args:
    path: the `.param` or the `.bin` file; the other lies beside it.

  Returns:
    Tensors in BasicSR's names; and {"global_skip": where the graph's skip starts}.

  Raises:
    InputError: a file is missing or damaged, or the network is not an RRDB.
  """
  graph, weights = pair(path)
  for file in (graph, weights):
    if not file.is_file():
      raise InputError(f"{file}: no such file; {path.name} needs it")
  layers = _layers(graph)
  convolutions = [layer for layer in layers if layer[0] == "Convolution"]
  num_ups = Counter(kind for kind, *_ in layers)["Interp"]
  num_blocks, rest = divmod(len(convolutions) - 4 - num_ups, 15)
  if rest or num_blocks < 1:
    raise InputError(f"{graph}: not an RRDB: {len(convolutions)} convolutions, {num_ups} resizings")
  skip = _global_skip(graph, layers, convolutions[0], convolutions[15 * num_blocks + 1])

  names = [name for _, name in BASICSR.convolutions(num_blocks, num_ups)]
  data, offset, tensors = weights.read_bytes(), 0, {}
  for name, (_, _, _, options) in zip(names, convolutions, strict=True):
    kernel, bias, offset = _convolution(weights, data, offset, options)
    tensors |= {f"{name}.weight": kernel, f"{name}.bias": bias}
  if offset != len(data):
    raise InputError(f"{weights}: {len(data) - offset} bytes more than {graph.name} tells of")
  return tensors, {"global_skip": skip}


Layer = tuple[str, list[str], list[str], dict[str, str]]  # kind, inputs, outputs, options


def _layers(path: pathlib.Path) -> list[Layer]:
  layers = []
  try:
    magic, counts, *lines = path.read_text("ascii").splitlines()
    for line in lines:
      kind, _, num_inputs, num_outputs, *rest = line.split()
      ends = int(num_inputs), int(num_inputs) + int(num_outputs)
      options = dict(option.split("=", 1) for option in rest[ends[1] :])
      layers.append((kind, rest[: ends[0]], rest[ends[0] : ends[1]], options))
    whole = magic.strip() == _MAGIC and len(layers) == int(counts.split()[0])
  except (ValueError, IndexError):
    whole = False
  if not whole:
    raise InputError(f"{path}: not a whole ncnn graph")
  if strange := sorted({kind for kind, *_ in layers} - _LAYERS):
    raise InputError(f"{path}: not an RRDB: has {', '.join(strange)}")
  return layers


def _global_skip(path: pathlib.Path, layers: list[Layer], first: Layer, trunk: Layer) -> str:
  """Follows the inputs of the sum after the trunk to where they come from."""
  origin = {}  # of each blob, past copies
  for kind, inputs, outputs, _ in layers:
    for output in outputs:
      origin[output] = origin[inputs[0]] if kind == "Split" else output
  first_map, trunk_map, last_block = first[2][0], trunk[2][0], origin[trunk[1][0]]
  for kind, inputs, _, _ in layers:
    sources = {origin[blob] for blob in inputs}
    if kind in ("BinaryOp", "Eltwise") and trunk_map in sources:
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

  out, size, has_bias, num_weights = (int(options.get(key, 0)) for key in ("0", "1", "5", "6"))
  if not has_bias or num_weights % max(1, out * size * size):
    raise InputError(f"{path.with_suffix('.param')}: not an RRDB: convolution with {options}")
  tag = int(take("<u4", 1)[0])
  if tag not in (_FLOAT16_TAG, _FLOAT32_TAG):
    raise InputError(f"{path}: weights stored as {tag:#x}, neither float16 nor float32")
  kernel = take("<f2" if tag == _FLOAT16_TAG else "<f4", num_weights)
  shape = (out, num_weights // (out * size * size), size, size)
  return kernel.reshape(shape), take("<f4", out), offset
