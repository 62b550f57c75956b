"""Reading and writing single files safely.

What is written appears under its name whole or not at all, whenever the process or the machine
stops. What is read must be a regular file: a FIFO or a device would block or never end.
"""

import contextlib
import json
import os
import pathlib
import secrets
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

from srflow_jax.errors import InputError

PARTIAL = ".partial"  # ends the names of files that are being written

_MAX_JSON_BYTES = 2**28


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, make_folder: bool = False) -> Iterator[BinaryIO]:
  """Opens a file for writing that gets its name only once everything is on the disk.

  The bytes go to a new file beside it, created exclusively under a hidden random name, so that no
  link is followed and two writers never share a file. At the end of the `with` block the file is
  synchronised and renamed; a file of that name is replaced, and a link of that name is replaced
  rather than followed. If the block raises, nothing is left.

  Args:
    path: Where to.
    make_folder: Whether to make the folder that it lies in.

  Yields:
    The file, open for writing bytes.

  Raises:
    InputError: The file cannot be written, for instance because the disk is full.
  """
  path = pathlib.Path(path)
  part = path.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
  try:
    if make_folder:
      path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o666)
    try:
      with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.replace(part, path)
    except BaseException:
      part.unlink(missing_ok=True)
      raise
    sync_folder(path.parent)
  except OSError as error:
    raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
  """Writes a file by `whole_file`, and encodes text as UTF-8."""
  with whole_file(path) as file:
    file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: str | os.PathLike, content: Any) -> None:
  """Writes a JSON file by `whole_file`; raises `ValueError` for values that JSON cannot hold."""
  write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def sync_folder(folder: str | os.PathLike) -> None:
  """Makes the names in a folder, as they are now, survive a loss of power."""
  descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


@contextlib.contextmanager
def regular_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
  """Opens a regular file, or a link to one, for reading.

  Args:
    path: The file.

  Yields:
    The file, open for reading bytes.

  Raises:
    InputError: It is missing, cannot be read, or is a folder, FIFO, socket or device. Errors of
      reading within the `with` block count as well.
  """
  try:
    # Not blocking: the opening of a FIFO would otherwise wait for a writer.
    with open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as file:
      if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise InputError(f"{path}: cannot be read: not a regular file")
      yield file
  except OSError as error:
    raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


class NoJSONError(InputError):
  """A file that should hold JSON holds something else."""


def read_json(path: str | os.PathLike) -> Any:
  """Reads the value that a JSON file holds.

  Raises:
    NoJSONError: It is no JSON.
    InputError: It cannot be read, or is larger than 256 MiB.
  """
  with regular_file(path) as file:
    content = file.read(_MAX_JSON_BYTES + 1)
  if len(content) > _MAX_JSON_BYTES:
    raise InputError(f"{path}: larger than {_MAX_JSON_BYTES:,} bytes")
  try:
    value = json.loads(content)
    # Escapes can spell half characters, which no report or file name could be written with.
    json.dumps(value, ensure_ascii=False).encode()
    return value
  except (ValueError, RecursionError) as error:
    reason = getattr(error, "reason", error)  # a UnicodeError's, without the text itself
    raise NoJSONError(f"{path}: damaged, it is no JSON ({reason})") from None
