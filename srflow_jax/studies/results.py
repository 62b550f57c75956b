"""The results of a study as one long table, `runs.csv`, of which all else is made."""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Iterable, Sequence

from srflow_jax.errors import InputError
from srflow_jax.files import regular_file, write_whole

FAILED = "failed"  # the metric whose value is not a number but why a run failed
SEVERAL = " + "  # between the kinds of devices that one run was on


@dataclasses.dataclass(frozen=True)
class Row:
  """One number.

  Attributes:
    variant: the variant's name, or `study.BICUBIC`.
    learning_rate: of the run.
    seed: of the run.
    step: of training, after which it was measured.
    image: the image's name; "" for what is of the whole run.
    metric: what was measured.
    value: the number; of `FAILED` a text.
    commit: of the code, with "-changed" if files differ from it.
    device: the kind of device; all of them, with `SEVERAL` between, if the run was moved.
    config: a digest of the run's configuration.
  """

  variant: str
  learning_rate: float
  seed: int
  step: int
  image: str
  metric: str
  value: float | str
  commit: str
  device: str
  config: str


_FIELDS = tuple(field.name for field in dataclasses.fields(Row))
_READERS = {"learning_rate": float, "seed": int, "step": int}


def write_rows(path: pathlib.Path, rows: Iterable[Row]) -> None:
  """Writes a table, whole or not at all; `InputError` if it cannot be written."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(_FIELDS)
  for row in rows:
    writer.writerow([getattr(row, name) for name in _FIELDS])
  write_whole(path, text.getvalue().encode("utf-8", "backslashreplace"))


def read_rows(path: pathlib.Path) -> list[Row]:
  """Reads a table.

  Raises:
    InputError: it cannot be read, or is not what `write_rows` wrote; the line is named.
  """
  with regular_file(path) as file:
    text = file.read().decode("utf-8", "replace")
  lines = csv.reader(io.StringIO(text))
  if tuple(next(lines, ())) != _FIELDS:
    raise InputError(f"{path}: its first line must be {','.join(_FIELDS)}")
  rows = []
  for number, cells in enumerate(lines, start=2):
    try:
      named = dict(zip(_FIELDS, cells, strict=True))
      values = {name: _READERS.get(name, str)(cell) for name, cell in named.items()}
      if values["metric"] != FAILED:
        values["value"] = float(values["value"])
      rows.append(Row(**values))
    except ValueError as error:
      raise InputError(f"{path}, line {number}: damaged ({error})") from None
  return rows


def collect(folders: Sequence[pathlib.Path], path: pathlib.Path, kept: bool = False) -> list[Row]:
  """Puts the tables of all runs together, in order, and writes them as one.

  Args:
    folders: with the tables of each run; what a run has not measured yet is left out.
    path: where to.
    kept: whether rows that are there stay if they are of runs without tables: of a study's folder
      that came without all of its runs.
  """
  rows = [
    row for folder in folders for table in sorted(folder.glob("*.csv")) for row in read_rows(table)
  ]
  if kept and path.exists():
    there = {row.config for row in rows}
    rows += [row for row in read_rows(path) if row.config not in there]
  write_rows(path, rows)
  return rows
