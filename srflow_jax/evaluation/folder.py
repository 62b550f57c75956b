"""The folder that an evaluation writes: one evaluation has it at a time, and it holds one alone.

FOLDER/lock            held by the process that evaluates
FOLDER/files.json      what the evaluation writes, so that the next one can remove it
FOLDER/progress.jsonl  see `progress.py`
"""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence

from srflow_jax.errors import InputError
from srflow_jax.files import read_json, write_json
from srflow_jax.runs import lock_workdir

_MANIFEST = "files.json"


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
  """Makes a folder, sees that it can be written, and keeps other evaluations out of it.

  Args:
    path: The folder.

  Raises:
    InputError: It cannot be written, or another process has it.
  """
  try:
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
      pass
  except OSError as error:
    raise InputError(f"{path}: cannot be written: {error.strerror}") from None
  with lock_workdir(path):
    yield


def check_names(folder: pathlib.Path, files: Sequence[pathlib.Path]) -> None:
  """Refuses files, relative to a folder, that the file system could not hold side by side.

  Raises:
    InputError: A name is too long, or one file would have to be a folder too.
  """
  longest = os.pathconf(folder, "PC_NAME_MAX")
  taken = set(files)
  for file in files:
    if long := [part for part in file.parts if len(os.fsencode(part)) > longest]:
      raise InputError(f"{folder / file}: cannot be written: {long[0][:40]}... is too long a name")
    if both := taken.intersection(file.parents):
      raise InputError(
        f"{folder / both.pop()} would be an image's file and a folder of {file.name}: rename one"
      )


def check_apart(folder: pathlib.Path, *inputs: str) -> None:
  """Refuses a folder of images ('' for none) that is the folder itself, and would get its output.

  Raises:
    InputError: One of them is.
  """
  for path in inputs:
    if path and os.path.realpath(path) == os.path.realpath(folder):
      raise InputError(f"{folder} is the folder of images: give another --output_dir")


def check_loss(
  folder: pathlib.Path, files: Sequence[pathlib.Path], inputs: Iterable[pathlib.Path]
) -> None:
  """Refuses to remove or replace what no earlier evaluation wrote, and all that is evaluated now.

  Args:
    folder: Where the evaluations are.
    files: What this one writes, relative to the folder.
    inputs: The images that it reads.

  Raises:
    InputError: It names the file; or the note of what an earlier one wrote is damaged.
  """
  noted = set(_noted(folder / _MANIFEST))
  # Links to files are replaced themselves, those to folders are followed.
  own = noted.union(files)
  real = {parent: os.path.realpath(folder / parent) for parent in {file.parent for file in own}}
  lost = {os.path.join(real[file.parent], file.name) for file in own}
  for path in inputs:
    if os.path.join(os.path.realpath(path.parent), path.name) in lost:
      raise InputError(
        f"{path} is to be evaluated, and would be removed as an output of {folder}: give another "
        "--output_dir"
      )
  for file in files:
    if file not in noted and os.path.lexists(folder / file):
      raise InputError(
        f"{folder / file} is there already, and is no evaluation's: give another --output_dir"
      )


def begin(folder: pathlib.Path, files: Sequence[pathlib.Path]) -> None:
  """Removes what an earlier evaluation wrote and notes what this one will.

  Nothing but the files that were so noted is removed, and folders that this leaves empty.

  Args:
    folder: Where the evaluations are.
    files: What this one writes, relative to the folder.

  Raises:
    InputError: The note is damaged, or a file cannot be removed.
  """
  manifest = folder / _MANIFEST
  try:
    for file in _noted(manifest):
      (folder / file).unlink(missing_ok=True)
      for parent in list(file.parents)[:-1]:  # all but the folder itself
        with contextlib.suppress(OSError):  # the folder holds something else, or is gone
          (folder / parent).rmdir()
  except OSError as error:
    raise InputError(f"{error.filename}: cannot be written: {error.strerror}") from None
  write_json(manifest, [os.fspath(file) for file in files])


def _noted(manifest: pathlib.Path) -> list[pathlib.PurePath]:
  if not manifest.exists():
    return []
  names = read_json(manifest)
  if not isinstance(names, list) or not all(
    isinstance(name, str) and "\0" not in name for name in names
  ):
    raise InputError(f"{manifest}: not a list of files; remove it")
  files = [pathlib.PurePath(name) for name in names]
  if pathlib.PurePath("lock") in files:
    raise InputError(f"{manifest}: lock is not an evaluation's to remove; remove the list")
  if outside := [file for file in files if file.is_absolute() or ".." in file.parts]:
    raise InputError(f"{manifest}: {outside[0]} lies outside of the folder; remove the list")
  return files
