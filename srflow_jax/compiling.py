"""What XLA's compiler is told where its defaults do not serve this package."""

import functools
import os

import jax
from jax.errors import JaxRuntimeError

_LEVEL = "xla_backend_optimization_level"
_FUSIONS = "xla_cpu_experimental_ynn_fusion_type"

# Kinds of operations that a GPU records, as CUDA graphs, and then launches as a whole. XLA by
# itself leaves out convolutions, and with them nearly all that stands between two of them.
_RECORDED = "xla_gpu_enable_command_buffer"
_KINDS_RECORDED = (
  "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONVOLUTION,WHILE,CONDITIONAL"
)


def compiler_options(level: int | None = None) -> dict[str, str]:
  """Options for `jax.jit(..., compiler_options=)` and for `compile` of what it lowers.

  On a CPU the compiler of jaxlib 0.10 gives convolutions to a library (YNNPACK) that computes those
  of few channels on one core. They are kept from it: Eigen's use all cores.

  On a GPU a program is some thousands of short kernels, which the host launches one by one, slower
  than the device computes them (docs/gpu.md has the figures). They are recorded, so that it
  launches them together.

  On other devices, for what `XLA_FLAGS` names, and for what a version of the compiler does not
  know, its own defaults hold.

  Args:
    level: XLA's level of optimisation on a CPU, 0 to 3, if another one than its default is wanted.
  """
  wanted: dict[str, str] = {}
  match jax.default_backend():
    case "cpu":
      wanted = {_FUSIONS: ""} | ({} if level is None else {_LEVEL: str(level)})
    case "gpu":
      wanted = {_RECORDED: _KINDS_RECORDED}
  named = os.environ.get("XLA_FLAGS", "")
  return {
    name: value for name, value in wanted.items() if name not in named and _is_known(name, value)
  }


@functools.cache
def _is_known(option: str, value: str) -> bool:
  """Whether this version of the compiler has an option and this value of it."""
  try:
    jax.jit(lambda: 0).lower().compile(compiler_options={option: value})
  except JaxRuntimeError as error:
    if not any(said in str(error) for said in ("No such compile option", "is not a valid")):
      raise
    return False
  return True
