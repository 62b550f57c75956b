"""Standard streams that nobody need read: work goes on when what it prints cannot be written."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO, cast


class Console(io.FileIO):
  """A standard stream's descriptor, which loses what cannot be written.

  Attributes:
    error: What kept something from being written, unless it is that nobody reads any longer.
  """

  error: OSError | None = None

  def __init__(self, number: int) -> None:
    """Takes the descriptor's number; it stays open."""
    super().__init__(number, "w", closefd=False)
    self._is_terminal = self.isatty()

  def write(self, data: Any, /) -> int | None:
    """Writes bytes or loses them; see `io.RawIOBase`."""
    try:
      return super().write(data)
    except OSError as error:
      if error.errno != errno.EPIPE and not self._is_terminal:
        self.error = error
      return memoryview(data).nbytes


@contextlib.contextmanager
def reader_not_needed() -> Iterator[Console | None]:
  """Lets the process's standard streams lose what cannot be written.

  Yields:
    That of standard output; None where it is not the process's own, as in a notebook.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:  # closed: the next file to be opened would be given what is printed
      os.open(os.devnull, os.O_RDWR)
  streams, consoles = {}, {}
  for number, name in ((1, "stdout"), (2, "stderr")):
    stream = getattr(sys, name)
    if stream is getattr(sys, f"__{name}__"):
      streams[name], consoles[name] = stream, Console(number)
      setattr(sys, name, _text_stream(consoles[name], stream))
  try:
    yield consoles.get("stdout")
  finally:
    for name, stream in streams.items():
      getattr(sys, name).flush()
      setattr(sys, name, stream)


def _text_stream(console: Console, like: TextIO | None) -> io.TextIOWrapper:
  """A stream of texts as Python makes it; `like` is Python's, None where it was closed."""
  if not isinstance(like, io.TextIOWrapper):
    return io.TextIOWrapper(io.BufferedWriter(console), "utf-8", "backslashreplace")
  unbuffered = isinstance(like.buffer, io.RawIOBase)  # python -u
  return io.TextIOWrapper(
    cast(BinaryIO, console) if unbuffered else io.BufferedWriter(console),
    like.encoding,
    like.errors,
    line_buffering=like.line_buffering,
    write_through=like.write_through,
  )
