"""What checks the package's annotations while tests run; see `conftest.py`."""

from beartype import BeartypeConf, beartype

_CHECK = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do where a float will


def checked(function):
  """Checks a function's arguments and result.

  Not those of `__init__`: structs are trees, which JAX also makes of shapes and of placeholders.
  """
  return function if function.__name__ == "__init__" else _CHECK(function)
