"""Files of tensors: reading `.safetensors`, `.pth` and ncnn's pairs, writing `.safetensors`."""

import json
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from srflow_jax.errors import InputError
from srflow_jax.weights import named, ncnn

# Where training scripts keep a network's state dict; the first that a file has is taken.
CONTAINERS = ("params_ema", "params", "state_dict")
# In the header of a `.safetensors` of ours: the `model` block of its configuration, as JSON.
MODEL_KEY = "srflow_jax.model"


def read(source: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads all tensors of a file.

  Args:
    source: a `.safetensors`, `.pth`, `.pt`, `.param` or `.bin` file, or a name of `named.FINDERS`.

  Returns:
    Tensors by name, float32, state dicts taken out of their containers; and what the file says
    beyond that: "model", the `model` block that our own export wrote, and "global_skip", which
    ncnn's graph shows. Both only where known.

  Raises:
    InputError: the file cannot be read, is damaged, or holds what is not finite floats.
  """
  path = paths(source)[0]
  if not path.is_file():
    raise InputError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
  readers = {
    ".safetensors": _read_safetensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
    **dict.fromkeys(ncnn.SUFFIXES, ncnn.read),
  }
  if path.suffix not in readers:
    raise InputError(f"{path}: must be one of {', '.join(readers)}")
  try:
    tensors, facts = readers[path.suffix](path)
  except OSError as error:
    raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
  return {name: _checked(path, name, array) for name, array in _taken_out(tensors).items()}, facts


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
  try:
    _write_bytes(path, safetensors.numpy.save(tensors, header))
  except OSError as error:
    raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def _write_bytes(path: pathlib.Path, content: bytes) -> None:
  """Replaces a file, whole or not at all, with the permissions that the umask leaves."""
  partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
  # Exclusive creation follows no link that somebody put there.
  descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
  try:
    with open(descriptor, "wb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  try:
    with safetensors.safe_open(path, "numpy") as file:
      header = file.metadata() or {}
      tensors = {name: file.get_tensor(name) for name in file.keys()}
    model = {"model": json.loads(header[MODEL_KEY])} if MODEL_KEY in header else {}
  except (safetensors.SafetensorError, ValueError, TypeError) as error:
    raise InputError(f"{path}: not a whole .safetensors: {error}") from None
  return tensors, model


def _read_torch(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  try:
    import torch
  except ImportError:
    raise InputError(
      f"{path}: PyTorch reads it: pip install torch, or convert it to .safetensors"
    ) from None
  try:
    content = torch.load(path, map_location="cpu", weights_only=True)
  except OSError:
    raise
  except Exception as error:  # what it raises for a damaged file is not one class
    reason = str(error).split("\n")[0]
    raise InputError(
      f"{path}: not a .pth of tensors alone, and nothing else is loaded: {reason}"
    ) from None

  def tensors(value: Any, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, torch.Tensor):
      value = value.detach()
      yield prefix, (value.float() if value.is_floating_point() else value).numpy()
    elif isinstance(value, Mapping):
      for key, inner in value.items():
        yield from tensors(inner, f"{prefix}.{key}" if prefix else str(key))

  return dict(tensors(content, "")), {}


def _taken_out(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
  for container in CONTAINERS:
    prefix = f"{container}."
    if any(name.startswith(prefix) for name in tensors):
      return {
        name.removeprefix(prefix): array
        for name, array in tensors.items()
        if name.startswith(prefix)
      }
  return tensors


def _checked(path: pathlib.Path, name: str, array: np.ndarray) -> np.ndarray:
  if not (np.issubdtype(array.dtype, np.floating) or array.dtype == ml_dtypes.bfloat16):
    raise InputError(f"{path}: tensor {name} is of type {array.dtype}, not floats")
  array = array.astype(np.float32)
  if not np.isfinite(array).all():
    raise InputError(f"{path}: tensor {name} has values that are not finite")
  return array
