"""Images in folders and in the archives that DIV2K and Flickr2K are published as."""

import dataclasses
import functools
import io
import lzma
import os
import pathlib
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import BinaryIO, TypeVar

import numpy as np

from srflow_jax.errors import InputError, one_line
from srflow_jax.images import check_bytes, check_image, check_images, decode_image, read_image
from srflow_jax.listing import (
  OTHER_SUFFIXES,
  check_any,
  check_name,
  is_image_name,
  list_images,
  shown,
)

T = TypeVar("T")

# What zipfile and tarfile raise for damaged archives and members (encrypted ones: RuntimeError).
_DAMAGE = (
  zipfile.BadZipFile,
  tarfile.TarError,
  zlib.error,
  lzma.LZMAError,
  struct.error,
  EOFError,
  RuntimeError,
  ValueError,
  LookupError,
  ArithmeticError,
  TypeError,
  AttributeError,
  MemoryError,
  OSError,
)


@dataclasses.dataclass(frozen=True)
class ImageFile:
  """An image on disk or in an archive.

  Attributes:
    container: the folder, zip or tar file that was given.
    member: path inside it.
  """

  container: pathlib.Path
  member: str

  def __str__(self) -> str:
    return str(self.path)

  @property
  def path(self) -> pathlib.Path:
    """Its path, which goes through the archive if it lies in one."""
    return self.container / self.member

  def read(self, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes it to uint8 [H, W, 3].

    Args:
      size: height and width that it had when it was checked, or None.

    Raises:
      InputError: it is damaged, or of another size.
    """
    if self.container.is_dir():
      return read_image(self.path, size)
    return self._of_member(lambda file: decode_image(file, str(self), size))

  def size(self) -> tuple[int, int]:
    """Height and width, from its header; `InputError` if it is no image or visibly cut short."""
    if self.container.is_dir():
      return check_images([self.path])[0]
    return self._of_member(lambda file: check_image(file, str(self)))

  def stamp(self) -> list:
    """What tells this file from another version of it: path, bytes, time of change."""
    path = self.path if self.container.is_dir() else self.container
    status = os.stat(path)
    return [str(self.path.absolute()), status.st_size, status.st_mtime_ns]

  def _of_member(self, use: Callable[[BinaryIO], T]) -> T:
    """Calls `use` with the archive's member as an open file, and returns what that gives."""
    archive = _open_archive(self.container)
    try:
      if isinstance(archive, zipfile.ZipFile):
        with archive.open(self.member) as file:
          check_bytes(file, str(self), archive.getinfo(self.member).file_size)
          file.seek(0)
          content = file.read()  # reading all of it compares its checksum
        return use(io.BytesIO(content))
      with archive.extractfile(self.member) as file:
        check_bytes(file, str(self), archive.getmember(self.member).size)
        file.seek(0)
        return use(file)
    except InputError:
      raise
    except _DAMAGE as error:
      raise InputError(f"{self}: damaged in the archive ({one_line(error)})") from None


@functools.lru_cache(maxsize=16)
def _open_archive(path: pathlib.Path) -> zipfile.ZipFile | tarfile.TarFile:
  """Opens a zip or tar file, which must be a regular file."""
  if not path.is_file():
    raise InputError(f"{path}: neither a folder nor a regular file")
  try:
    if zipfile.is_zipfile(path):
      return zipfile.ZipFile(path)
    return tarfile.open(path, "r:")
  except PermissionError as error:
    raise InputError(f"{path}: cannot be read: {error.strerror}") from None
  except _DAMAGE:
    raise InputError(f"{path}: not a zip or uncompressed tar archive, or truncated") from None


def hr_images(paths: Sequence[str]) -> dict[str, ImageFile]:
  """The HR images of folders and archives, by name: the path inside the images' common folder.

  Where a container has folders whose names end in `_HR`, as Flickr2K's archive does beside those
  of its LR images, only these count.

  Raises:
    InputError: a container cannot be read or has no image, or two images have one name.
  """
  named = {}
  for path in paths:
    members = _members(path)
    marked = [m for m in members if any(part.endswith("_HR") for part in _folders(m))]
    _add(named, path, marked or members)
  return named


def lr_images(paths: Sequence[str], scales: Sequence[int]) -> dict[int, dict[str, ImageFile]]:
  """Given LR images by scale and name.

  An image is of scale s if it lies in a folder `Xs`, or if the names in its container end in marks
  of scales and its own name in `xs`. In DIV2K both hold: `DIV2K_train_LR_bicubic/X4/0001x4.png`.
  If one scale is asked for and there are images without such a mark, all are of that scale: then a
  name such as `fox4` need not mean anything.

  Raises:
    InputError: as `hr_images`, or a container has no image of any of the scales.
  """
  named = {}
  for path in paths:
    members = _members(path)
    all_marked = all(re.search(r"x\d+$", _stem(m)) for m in members)
    by_scale = {}
    for scale in scales:
      marked = [m for m in members if f"X{scale}" in _folders(m)]
      if not marked and (all_marked or len(scales) > 1):
        marked = [m for m in members if re.search(rf"x{scale}$", _stem(m))]
      if marked:
        by_scale[scale] = marked
    if not by_scale and len(scales) == 1:
      by_scale = {scales[0]: members}
    if not by_scale:
      asked = ", ".join(str(scale) for scale in scales)
      raise InputError(f"{path}: no LR image of scale {asked} in it (a folder X4 or names in x4)")
    for scale, marked in by_scale.items():
      _add(named.setdefault(scale, {}), path, marked)
  return named


def _members(path: str) -> list[str]:
  """Paths of the images in a folder or archive, sorted."""
  if not path:
    raise InputError("an empty name among the folders and archives: is there a comma too many?")
  container = pathlib.Path(path)
  if not container.exists():
    raise InputError(f"{shown(path)}: no such folder or archive")
  if container.is_dir():
    return [file.relative_to(container).as_posix() for file in list_images(container)]
  archive = _open_archive(container)
  try:
    kinds = _zip_kinds(archive) if isinstance(archive, zipfile.ZipFile) else _tar_kinds(archive)
  except _DAMAGE as error:
    raise InputError(f"{path}: the archive is damaged or truncated ({one_line(error)})") from None
  names = [name for name, kind in kinds if is_image_name(name) and kind != "a folder"]
  check_any(path, names, [name for name, _ in kinds if is_image_name(name, OTHER_SUFFIXES)])
  kinds = dict(kinds)
  for name in names:
    check_name(name, f"{path}/{name}")
    if kinds[name] != "a file":
      raise InputError(f"{path}/{name}: {kinds[name]}; only regular files are read")
    if name.startswith("/") or ".." in pathlib.PurePosixPath(name).parts:
      raise InputError(f"{path}/{name}: the name leads out of the archive")
  return sorted(names)


def _zip_kinds(archive: zipfile.ZipFile) -> list[tuple[str, str]]:
  """Name and kind of each member."""
  kinds = []
  for info in archive.infolist():
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where no Unix has written it
    is_file = kind in (0, stat.S_IFREG)
    is_folder = info.is_dir() or kind == stat.S_IFDIR
    kinds.append(
      (info.filename, "a folder" if is_folder else "a file" if is_file else "a link or device")
    )
  return kinds


def _tar_kinds(archive: tarfile.TarFile) -> list[tuple[str, str]]:
  """Name and kind of each member."""
  return [
    (info.name, "a folder" if info.isdir() else "a file" if info.isreg() else "a link or device")
    for info in archive.getmembers()
  ]


def _folders(member: str) -> Sequence[str]:
  return pathlib.PurePosixPath(member).parent.parts


def _stem(member: str) -> str:
  return pathlib.PurePosixPath(member).stem


def _add(named: dict[str, ImageFile], path: str, members: Sequence[str]) -> None:
  common = os.path.commonpath([os.path.dirname(member) for member in members])
  for member in members:
    name = pathlib.PurePosixPath(member).with_suffix("").relative_to(common).as_posix()
    image = ImageFile(pathlib.Path(path), member)
    if name in named:
      raise InputError(f"{image}: two images of one name, the other is {named[name]}")
    named[name] = image
