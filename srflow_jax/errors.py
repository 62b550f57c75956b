"""The one error that a user's mistake raises."""


class InputError(ValueError):
  """Something the user gave cannot be used: a path, an image, a flag, a configuration.

  The message is one line that says what is wrong and where. The command line prints it alone, with
  no traceback, and exits with status 2 (`srflow_jax.cli`).
  """
