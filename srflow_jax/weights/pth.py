"""PyTorch's files of tensors, `.pth` and `.pt`. PyTorch is imported here, and here alone."""

import pathlib
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from srflow_jax.errors import InputError


def read(
  path: pathlib.Path, containers: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads a state dict: a mapping from names to tensors.

  Args:
    path: the file. Nothing in it is run: PyTorch loads tensors and plain values alone.
    containers: where the file may keep the state dict; the first that it has is taken, else the
      file is one itself. What lies deeper is not looked at.

  Returns:
    Tensors by name, floats as float32; and no facts.

  Raises:
    InputError: PyTorch is missing, or the file is damaged or holds other than plain tensors.
  """
  try:
    import torch
  except ImportError:
    raise InputError(
      f"{path}: PyTorch reads it: pip install torch, or convert it to .safetensors"
    ) from None
  _check_archive(path)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # a file gets one line, which is ours
      content = torch.load(path, map_location="cpu", weights_only=True)
  except (OSError, MemoryError):
    raise
  except Exception as error:  # for a damaged file it raises errors of several classes
    reason = str(error).split("\n")[0]
    raise InputError(
      f"{path}: not a .pth of tensors alone, and nothing else is loaded: {reason}"
    ) from None
  if isinstance(content, Mapping):
    inner = (content[name] for name in containers if name in content)
    content = next((value for value in inner if isinstance(value, Mapping)), content)
  if not isinstance(content, Mapping):
    raise InputError(f"{path}: holds a {type(content).__name__}, not tensors by name")
  tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
  return {str(name): _array(path, name, tensor) for name, tensor in tensors.items()}, {}


def _check_archive(path: pathlib.Path) -> None:
  """Refuses an archive that would unpack to more than its size: PyTorch compresses nothing."""
  try:
    with zipfile.ZipFile(path) as archive:
      unpacked = sum(member.file_size for member in archive.infolist())
  except (zipfile.BadZipFile, ValueError, NotImplementedError):
    return  # PyTorch's older format, or damaged: PyTorch finds out
  if unpacked > path.stat().st_size:
    raise InputError(f"{path}: a compressed or damaged archive: PyTorch writes neither")


def _array(path: pathlib.Path, name: Any, tensor: Any) -> np.ndarray:
  where = f"{path}: tensor {name}"
  if str(tensor.layout) != "torch.strided" or tensor.is_quantized:
    raise InputError(f"{where} is sparse or quantized, not a plain one")
  if tensor.device.type != "cpu":
    raise InputError(f"{where} has no values: it is on the device {tensor.device}")
  if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
    # A few bytes could stand for terabytes.
    raise InputError(f"{where} of shape {tuple(tensor.shape)} repeats fewer values: save its copy")
  tensor = tensor.detach()
  try:
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
  except (TypeError, RuntimeError) as error:
    reason = str(error).split("\n")[0]
    raise InputError(f"{where} is not a plain one: {reason}") from None
