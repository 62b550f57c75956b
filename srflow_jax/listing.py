"""Which files of a folder tree or an archive are images."""

import os
import pathlib
import stat
import warnings
from collections.abc import Collection, Sequence

from srflow_jax.errors import InputError, InputWarning

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")

# Kinds of images that are not read. They are named where they lie beside others.
OTHER_SUFFIXES = (
  ".heic",
  ".heif",
  ".avif",
  ".jp2",
  ".j2k",
  ".jpx",
  ".jxl",
  ".jfif",
  ".ppm",
  ".pgm",
)
OTHER_SUFFIXES += (".exr", ".hdr", ".tga", ".dng", ".cr2", ".nef", ".arw", ".psd")

# What systems leave in folders of images, besides all whose name starts with a dot: thumbnails and
# bins of network storage, and the metadata in macOS's archives.
_SYSTEM_FOLDERS = ("@eaDir", "@Recycle", "#recycle", "#snapshot", "$RECYCLE.BIN", "__MACOSX")

# A folder that holds all files of one of these groups was written by this project: a run, an
# interrupted evaluation, a whole one. The images in such a folder are not photographs.
_OUTPUTS = (
  {"config.json", "checkpoints"},
  {"progress.jsonl", "samples"},
  {"summary.json", "samples", "sheets"},
)


def list_images(
  folder: str | os.PathLike, leave_out: Collection[str | os.PathLike] = ()
) -> list[pathlib.Path]:
  """Lists the image files of a folder tree, sorted by path.

  Files are told by suffix; others are passed over, with an `InputWarning` that names those that are
  images of a kind that is not read. Passed over is also what is hidden, what systems keep beside
  images, and what this project has written into folders of the tree.

  Args:
    folder: The folder; links to folders are followed.
    leave_out: Folders of the tree to pass over, such as the one that output goes to.

  Returns:
    The paths, at least one.

  Raises:
    InputError: The folder is missing, is no folder, cannot be read, or has no image; or what has an
      image's name is no regular file or has a name that cannot be written down.
  """
  folder = pathlib.Path(folder)
  if not folder.exists():
    raise InputError(f"{shown(folder)}: no such folder")
  if not folder.is_dir():
    raise InputError(f"{shown(folder)}: not a folder")
  passed_over = {os.path.realpath(path) for path in leave_out}

  def refuse(error: OSError) -> None:
    raise InputError(f"{shown(error.filename)}: cannot be read: {error.strerror}")

  paths, others, visited = [], [], set()
  for root, subfolders, names in os.walk(folder, onerror=refuse, followlinks=True):
    is_top = root == os.fspath(folder)
    status = os.stat(root)
    is_again = (status.st_dev, status.st_ino) in visited  # a link back up the tree
    is_output = any(marks <= {*subfolders, *names} for marks in _OUTPUTS)
    if is_again or (not is_top and (is_output or os.path.realpath(root) in passed_over)):
      subfolders.clear()
      continue
    visited.add((status.st_dev, status.st_ino))
    subfolders[:] = sorted(name for name in subfolders if not is_hidden(name))
    paths += [pathlib.Path(root, name) for name in names if is_image_name(name)]
    others += [os.path.join(root, name) for name in names if is_image_name(name, OTHER_SUFFIXES)]
  check_any(folder, paths, others)
  for path in paths:
    check_name(os.fspath(path), os.fspath(path))
    try:
      is_regular = stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
      raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if not is_regular:
      raise InputError(f"{path}: cannot be read: not a regular file")
  return sorted(paths)


def check_any(where: str | os.PathLike, images: Sequence[object], others: Sequence[str]) -> None:
  """Refuses a folder or archive without images, and names images of kinds that are not read.

  Args:
    where: the folder or archive.
    images: those in it that are read.
    others: paths with other images' suffixes.

  Raises:
    InputError: there are no images.
  """
  what = f"{len(others)} files of kinds that are not read, such as {shown(min(others, default=''))}"
  if not images:
    beside = f"; passed over {what}" if others else ""
    raise InputError(f"{shown(where)}: no image in it (looked for {', '.join(SUFFIXES)}{beside})")
  if others:
    warnings.warn(f"{shown(where)}: passed over {what}", InputWarning, stacklevel=2)


def is_image_name(path: str, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
  """Whether a path's suffix is an image's, and no part of it is hidden."""
  parts = pathlib.PurePosixPath(path).parts
  return path.lower().endswith(suffixes) and not any(is_hidden(part) for part in parts)


def is_hidden(name: str) -> bool:
  """Whether a folder or file is passed over, as hidden or as one that a system keeps."""
  return name in _SYSTEM_FOLDERS or (name.startswith(".") and name not in (".", ".."))


def check_name(name: str, where: str) -> None:
  """Refuses names that reports and tables cannot hold.

  Raises:
    InputError: The name is not UTF-8, or has a line break or another control character; `where`,
      escaped, is what the message names.
  """
  if any(ord(character) < 32 or ord(character) == 127 for character in name):
    raise InputError(f"{shown(where)}: the name has a control character; rename it")
  check_utf8(name, where, "the name is not UTF-8; rename it")


def check_utf8(text: str, where: str, reason: str = "not UTF-8") -> None:
  """Refuses text that no file could hold; `where`, escaped, is what the message names."""
  try:
    text.encode()
  except UnicodeEncodeError:
    raise InputError(f"{shown(where)}: {reason}") from None


def shown(path: str | os.PathLike) -> str:
  """A path in one line of UTF-8, in which everything that is not UTF-8 is escaped."""
  text = os.fspath(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
  return "".join(c if ord(c) >= 32 and ord(c) != 127 else repr(c)[1:-1] for c in text)
