"""What ends a command early, a user's mistake or a signal, and what a user should know of it."""

import numbers
import signal


class InputError(ValueError):
  """Something the user gave cannot be used: a path, an image, a flag, a configuration.

  The message is one line that says what is wrong and where. The command line prints it alone, with
  no traceback, and exits with status 2 (`srflow_jax.cli`).
  """


class Interrupted(Exception):
  """A signal ended a run before its last step; the message says what was saved.

  The command line prints it alone and exits with status 75 (`srflow_jax.cli`).
  """


class InputWarning(UserWarning):
  """Something of what the user gave is not used; the command line prints it as one line, once."""


def is_whole(value: object) -> bool:
  """Whether an argument is a whole number, of Python's or NumPy's kinds, and no truth value."""
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def one_line(error: BaseException, at_most: int = 200) -> str:
  """What an error of a library says, in one line of at most so many characters."""
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) <= at_most else f"{text[: at_most - 3]}..."


def stop_signals() -> tuple[signal.Signals, ...]:
  """The signals that end a run with its state saved: SIGHUP is none under `nohup`."""
  ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
  return signal.SIGTERM, signal.SIGINT, *(() if ignored else (signal.SIGHUP,))
