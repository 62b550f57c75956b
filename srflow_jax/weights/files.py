"""Files of tensors: reading `.safetensors`, `.pth` and ncnn's pairs, writing `.safetensors`."""

import json
import pathlib
import stat
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from srflow_jax.errors import InputError
from srflow_jax.files import write_whole
from srflow_jax.weights import named, ncnn, pth

# Where training scripts keep a network's state dict; the first that a file has is taken.
CONTAINERS = ("params_ema", "params", "state_dict")
# What DataParallel puts before every name of the network that it runs.
_PARALLEL_PREFIX = "module."
# In the header of a `.safetensors` of ours: the `model` block of its configuration, as JSON.
MODEL_KEY = "srflow_jax.model"
# In the header of a `.safetensors` with a flow alone: the name in `named` of its encoder.
ENCODER_KEY = "encoder"
# In the header of a `.safetensors` of ours with parts of other modules: these, with commas between.
PLUGINS_KEY = "srflow_jax.plugins"


def read(source: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads all tensors of a file.

  Args:
    source: a `.safetensors`, `.pth`, `.pt`, `.param` or `.bin` file, or a name of `named.FINDERS`.

  Returns:
    Tensors by name, float32, state dicts taken out of their containers; and what the file says
    beyond that, where it does: "model", the `model` block that our own export wrote; "encoder",
    the name of the encoder that the flow in it was trained on; "plugins", the modules of its parts;
    "global_skip", which ncnn's graph shows.

  Raises:
    InputError: the file cannot be read, is damaged, or holds what is not finite floats.
  """
  path = paths(source)[0]
  readers = {
    ".safetensors": _read_safetensors,
    ".pth": _read_pth,
    ".pt": _read_pth,
    **dict.fromkeys(ncnn.SUFFIXES, ncnn.read),
  }
  if path.suffix not in readers:
    if not path.exists():
      raise InputError(f"{path}: no such file or folder, and none of {', '.join(named.FINDERS)}")
    raise InputError(f"{path}: must be one of {', '.join(readers)}")
  for file in paths(source):
    _check_readable(file, "" if file == path else f"; {path.name} needs it")
  try:
    tensors, facts = readers[path.suffix](path)
  except OSError as error:
    raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
  except MemoryError:
    raise InputError(f"{path}: needs more memory than there is") from None
  return {name: _checked(path, name, array) for name, array in _taken_out(tensors).items()}, facts


def _check_readable(path: pathlib.Path, needed: str) -> None:
  """Refuses what is no regular file that this user may read."""
  try:
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):  # opening a FIFO would wait for a writer
      path.open("rb").close()
  except FileNotFoundError:
    raise InputError(f"{path}: no such file{needed}") from None
  except OSError as error:
    raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
  except ValueError as error:  # a zero byte in its name
    raise InputError(f"{str(path)!r}: cannot be read: {error}") from None
  if not stat.S_ISREG(mode):
    raise InputError(f"{path}: {'is a folder' if stat.S_ISDIR(mode) else 'not a regular file'}")


def paths(source: str) -> list[pathlib.Path]:
  """The files that `read` reads for a source."""
  path = named.FINDERS[source]() if source in named.FINDERS else pathlib.Path(source)
  return ncnn.pair(path) if path.suffix in ncnn.SUFFIXES else [path]


def write(
  path: pathlib.Path,
  tensors: Mapping[str, np.ndarray],
  model_config: Mapping[str, Any],
  facts: Mapping[str, str] | None = None,
) -> None:
  """Writes a `.safetensors`, whole or not at all, with the `model` block in its header.

  Args:
    path: the file to write; one that is there is replaced.
    tensors: by name, of the types that the file shall hold.
    model_config: the `model` block, a mapping that JSON can hold.
    facts: more texts for the header, as "licence" and "origin".

  Raises:
    InputError: it cannot be written.
  """
  # safetensors writes the memory behind an array, whatever its strides say.
  tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
  header = dict(facts or {}) | {MODEL_KEY: json.dumps(model_config)}
  write_whole(path, safetensors.numpy.save(tensors, header))


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  try:
    with safetensors.safe_open(path, "numpy") as file:
      header = file.metadata() or {}
      tensors = {name: file.get_tensor(name) for name in file.keys()}
  except (safetensors.SafetensorError, AttributeError, TypeError, ValueError) as error:
    # The format has types of numbers that NumPy lacks; the library then raises one of the latter.
    raise InputError(f"{path}: not a whole .safetensors: {error}") from None
  if MODEL_KEY not in header:
    return tensors, {}
  facts = {"encoder": header[ENCODER_KEY]} if ENCODER_KEY in header else {}
  if PLUGINS_KEY in header:
    facts["plugins"] = header[PLUGINS_KEY].split(",")
  try:
    return tensors, {"model": json.loads(header[MODEL_KEY])} | facts
  except (ValueError, RecursionError) as error:
    raise InputError(f"{path}: its header's {MODEL_KEY} is damaged: {error}") from None


def _read_pth(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  return pth.read(path, CONTAINERS)


def _taken_out(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
  """The network's tensors, by its own names: out of a container and of `DataParallel`'s prefix."""
  for container in CONTAINERS:
    inside = _under(f"{container}.", tensors)
    if inside:
      tensors = inside
      break
  inside = _under(_PARALLEL_PREFIX, tensors)
  return inside if len(inside) == len(tensors) else tensors


def _under(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {
    name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)
  }


def _checked(path: pathlib.Path, name: str, array: np.ndarray) -> np.ndarray:
  if not (np.issubdtype(array.dtype, np.floating) or array.dtype == ml_dtypes.bfloat16):
    raise InputError(f"{path}: tensor {name} is of type {array.dtype}, not floats")
  if not array.size:  # its other sizes could be anything
    raise InputError(f"{path}: tensor {name} of shape {array.shape} is empty")
  with np.errstate(over="ignore"):  # a float64 too large becomes infinite
    array = array.astype(np.float32)
  if not np.isfinite(array).all():
    raise InputError(f"{path}: tensor {name} has values that are not finite")
  return array
