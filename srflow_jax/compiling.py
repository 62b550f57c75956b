"""What XLA's compiler is told on a CPU, where its defaults do not serve this package."""

import functools
import os

import jax
from jax.errors import JaxRuntimeError

_LEVEL = "xla_backend_optimization_level"
_FUSIONS = "xla_cpu_experimental_ynn_fusion_type"


def compiler_options(level: int | None = None) -> dict[str, str]:
  """Options for `jax.jit(..., compiler_options=)` and for `compile` of what it lowers.

  Of jaxlib 0.10 the compiler gives convolutions to a library (YNNPACK) that computes those of few
  channels on one core. They are kept from it: Eigen's use all cores. On other devices, and for what
  `XLA_FLAGS` names, the compiler's own defaults hold.

  Args:
    level: XLA's level of optimisation, 0 to 3, if another one than its default is wanted.
  """
  if jax.default_backend() != "cpu":
    return {}
  options = {_FUSIONS: ""} if _is_known(_FUSIONS) else {}
  if level is not None:
    options[_LEVEL] = str(level)
  named = os.environ.get("XLA_FLAGS", "")
  return {name: value for name, value in options.items() if name not in named}


@functools.cache
def _is_known(option: str) -> bool:
  """Whether this version of the compiler has an option that may be empty."""
  try:
    jax.jit(lambda: 0).lower().compile(compiler_options={option: ""})
  except JaxRuntimeError as error:
    if "No such compile option" not in str(error):
      raise
    return False
  return True
