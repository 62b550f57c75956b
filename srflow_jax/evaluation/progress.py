"""What an evaluation has measured so far, so that a killed one goes on where it was."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from srflow_jax.errors import InputError
from srflow_jax.evaluation.evaluator import Scores
from srflow_jax.evaluation.inputs import EvalImage
from srflow_jax.evaluation.metrics import LpipsScores
from srflow_jax.evaluation.report import Row

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
    lines = self._path.read_text().splitlines() if self._path.exists() else []
    if lines and lines[0] == about:
      for line in lines[1:]:
        try:
          row = _row(json.loads(line))
        except ValueError:
          break  # the line that was being written
        self._rows[row.image, row.system] = row
    # Written anew, so that a broken last line is not continued.
    self._append("w", about, *(json.dumps(dataclasses.asdict(row)) for row in self._rows.values()))

  def __len__(self) -> int:
    return len(self._rows)

  def get(self, image: str, system: str) -> Row | None:
    """The row of an image and a system if it was measured."""
    return self._rows.get((image, system))

  def add(self, row: Row) -> None:
    """Notes a row, when all files that belong to it are written."""
    self._append("a", json.dumps(dataclasses.asdict(row)))
    self._rows[row.image, row.system] = row

  def finish(self) -> None:
    """Removes the file: the next evaluation measures anew."""
    self._path.unlink()

  def _append(self, mode: str, *lines: str) -> None:
    try:
      with open(self._path, mode) as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
      raise InputError(f"{self._path}: cannot be written: {error.strerror}") from None


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


def _row(content: Mapping[str, Any]) -> Row:
  return Row(
    content["image"], content["system"], tuple(content["size"]), _scores(content["scores"])
  )


def _scores(content: Mapping[str, Any] | None) -> Scores | None:
  if content is None:
    return None
  fields = dict(_tuples(content))
  if fields["lpips"] is not None:
    fields["lpips"] = LpipsScores(**_tuples(fields["lpips"]))
  return Scores(**{**fields, "other_uint8": _scores(fields["other_uint8"])})


def _tuples(content: Mapping[str, Any]) -> dict[str, Any]:
  return {key: tuple(v) if isinstance(v, list) else v for key, v in content.items()}
