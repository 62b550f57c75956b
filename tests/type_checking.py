"""What checks the package's annotations while tests run; see `conftest.py`."""

import jax
import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

# An int will do where a float will, and outside of `jit` a NumPy array where one of JAX will.
_CHECK = beartype(
  conf=BeartypeConf(
    is_pep484_tower=True,
    hint_overrides=FrozenDict({jax.Array: jax.Array | np.ndarray}),
  )
)


def checked(function):
  """Checks a function's arguments and result.

  Not those of `__init__`: structs are trees, which JAX also makes of shapes and of placeholders.
  """
  return function if function.__name__ == "__init__" else _CHECK(function)
