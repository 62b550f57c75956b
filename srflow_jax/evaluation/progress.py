"""What an evaluation has measured so far, so that a killed one goes on where it was."""

import dataclasses
import hashlib
import json
import os
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any

from srflow_jax.errors import InputError
from srflow_jax.evaluation.inputs import EvalImage
from srflow_jax.evaluation.report import Row
from srflow_jax.files import regular_file, write_whole

FILE = "progress.jsonl"


class Progress:
  """A file with one row on each line, under a first line that says what was measured.

  Args:
    folder: Where the file lies while the evaluation runs.
    about: All that decides what is measured; rows of anything else are dropped.
  """

  def __init__(self, folder: pathlib.Path, about: str) -> None:
    """See the class."""
    self._path = folder / FILE
    self._rows: dict[tuple[str, str], Row] = {}
    lines = []
    if self._path.exists():
      with regular_file(self._path) as file:
        lines = file.read().split(b"\n")
    if lines and lines[0] == about.encode():
      for line in lines[1:]:
        try:
          row = _read(Row, json.loads(line))
        except (ValueError, RecursionError):
          continue  # the line that was being written, or a damaged one: it is measured again
        self._rows[row.image, row.system] = row
    # Written anew, so that a broken last line is not continued.
    lines = about, *map(_line, self._rows.values())
    write_whole(self._path, "".join(f"{line}\n" for line in lines))

  def __len__(self) -> int:
    return len(self._rows)

  def get(self, image: str, system: str) -> Row | None:
    """The row of an image and a system if it was measured."""
    return self._rows.get((image, system))

  def add(self, row: Row) -> None:
    """Notes a row, when all files that belong to it are written."""
    try:
      with open(self._path, "a") as file:
        file.write(f"{_line(row)}\n")
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
      raise InputError(f"{self._path}: cannot be written: {error.strerror}") from None
    self._rows[row.image, row.system] = row

  def finish(self) -> None:
    """Removes the file: the next evaluation measures anew."""
    self._path.unlink()


def _line(row: Row) -> str:
  return json.dumps(dataclasses.asdict(row))


def fingerprint(about: Mapping[str, Any], images: list[EvalImage]) -> str:
  """A digest of everything that decides an evaluation's numbers.

  Args:
    about: How the evaluation is made. The command and the like do not count.
    images: The images. Their names, sizes and files' dates count.
  """
  settings = {key: value for key, value in about.items() if key not in ("command", "hr_dir")}
  files = [
    [image.name, image.hr_size, *(_date(path) for path in (image.hr_path, image.lr_path) if path)]
    for image in images
  ]
  text = json.dumps([settings, files], sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()


def _date(path: pathlib.Path) -> tuple[str, int, int]:
  status = path.stat()
  return str(path), status.st_size, status.st_mtime_ns


def _read(kind: Any, value: Any) -> Any:
  """A value of JSON as the type that it was written from: numbers may be infinite, or NaN.

  Raises:
    ValueError: it is of another type.
  """
  if isinstance(kind, types.UnionType):
    kind, nothing = typing.get_args(kind)
    return None if value is None and nothing is types.NoneType else _read(kind, value)
  if typing.get_origin(kind) is tuple and isinstance(value, list):
    item, *rest = typing.get_args(kind)
    if rest == [...] or len(value) == 1 + len(rest):
      return tuple(_read(item, v) for v in value)
  elif dataclasses.is_dataclass(kind) and isinstance(value, dict):
    hints = typing.get_type_hints(kind)
    if value.keys() == hints.keys():
      return kind(**{name: _read(hints[name], part) for name, part in value.items()})
  elif kind is float and type(value) in (int, float):
    return value
  elif type(value) is kind:
    return value
  raise ValueError(f"not of type {kind}")
