"""A limit on the time that a test's reader may take."""

import contextlib
import signal
from collections.abc import Iterator


class HangError(BaseException):
  """What is raised in the reader; no `OSError`, which the reader would answer with a line."""


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
  """Raises `HangError` inside the block after so many seconds."""

  def stop(*_):
    raise HangError(f"took more than {seconds} s")

  before = signal.signal(signal.SIGALRM, stop)
  signal.alarm(seconds)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
