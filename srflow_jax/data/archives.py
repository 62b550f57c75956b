"""Images in folders and in the archives that DIV2K and Flickr2K are published as."""

import dataclasses
import functools
import io
import os
import pathlib
import tarfile
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from srflow_jax.errors import InputError
from srflow_jax.images import SUFFIXES, check_images, decode_image, decode_size, list_images


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
    """Its path, which leads through the archive if it lies in one."""
    return self.container / self.member

  def read(self) -> np.ndarray:
    """Decodes it to uint8 [H, W, 3]; `InputError` if it is damaged."""
    return decode_image(io.BytesIO(self._bytes()), str(self))

  def size(self) -> tuple[int, int]:
    """Height and width, from its header; `InputError` if it is no image or visibly cut short."""
    if self.container.is_dir():
      return check_images([self.path])[0]
    archive = _open_archive(self.container)
    try:
      if isinstance(archive, zipfile.ZipFile):
        with archive.open(self.member) as file:
          return decode_size(file, str(self))
      return decode_size(archive.extractfile(self.member), str(self))
    except _DAMAGE as error:
      raise InputError(f"{self}: damaged in the archive ({error})") from None

  def stamp(self) -> list:
    """What tells this file from another version of it: path, bytes, time of change."""
    path = self.path if self.container.is_dir() else self.container
    status = os.stat(path)
    return [str(self.path.absolute()), status.st_size, status.st_mtime_ns]

  def _bytes(self) -> bytes:
    try:
      if self.container.is_dir():
        return self.path.read_bytes()
      archive = _open_archive(self.container)
      if isinstance(archive, zipfile.ZipFile):
        return archive.read(self.member)
      return archive.extractfile(self.member).read()
    except _DAMAGE as error:
      raise InputError(f"{self}: damaged in the archive ({error})") from None
    except OSError as error:
      raise InputError(f"{self}: cannot be read: {error.strerror or error}") from None


# What zipfile and tarfile raise for damaged members (encrypted ones: RuntimeError).
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError)


@functools.lru_cache(maxsize=16)
def _open_archive(path: pathlib.Path) -> zipfile.ZipFile | tarfile.TarFile:
  try:
    if zipfile.is_zipfile(path):
      return zipfile.ZipFile(path)
    return tarfile.open(path, "r:")
  except (zipfile.BadZipFile, tarfile.TarError):
    raise InputError(f"{path}: not a zip or uncompressed tar archive, or truncated") from None
  except OSError as error:
    raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


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

  An image is of scale s if it lies in a folder `Xs` or its name ends in `xs` (DIV2K: both), as in
  `DIV2K_train_LR_bicubic/X4/0001x4.png`. Where nothing is so marked and one scale is asked for,
  all are of that scale.

  Raises:
    InputError: as `hr_images`, or a container has no image of any of the scales.
  """
  named = {}
  for path in paths:
    members = _members(path)
    found = {}
    for scale in scales:
      marked = [m for m in members if f"X{scale}" in _folders(m)]
      marked = marked or [m for m in members if _stem(m).endswith(f"x{scale}")]
      if marked:
        found[scale] = marked
    if not found and len(scales) == 1:
      found = {scales[0]: members}
    if not found:
      asked = ", ".join(str(scale) for scale in scales)
      raise InputError(f"{path}: no LR image of scale {asked} in it (a folder X4 or names in x4)")
    for scale, marked in found.items():
      _add(named.setdefault(scale, {}), path, marked)
  return named


def _members(path: str) -> list[str]:
  """Paths of the images in a folder or archive, sorted."""
  container = pathlib.Path(path)
  if not container.exists():
    raise InputError(f"{path}: no such folder or archive")
  if container.is_dir():
    return [file.relative_to(container).as_posix() for file in list_images(container)]
  archive = _open_archive(container)
  try:
    names = archive.namelist() if isinstance(archive, zipfile.ZipFile) else archive.getnames()
  except _DAMAGE as error:
    raise InputError(f"{path}: the archive is damaged or truncated ({error})") from None
  names = [n for n in names if n.lower().endswith(SUFFIXES) and not _hidden(n)]
  if not names:
    raise InputError(f"{path}: no image in it (looked for {', '.join(SUFFIXES)})")
  return sorted(names)


def _hidden(member: str) -> bool:
  return any(part.startswith((".", "__MACOSX")) for part in pathlib.PurePosixPath(member).parts)


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
