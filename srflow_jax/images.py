"""Photographs on disk: which files are images, and their pixels as 8-bit RGB.

Every image of this project is read here, so that each kind of file is accepted or refused in one
way, by name:

* 8-bit RGB, grey, black and white, palette and CMYK images become RGB (CMYK by Pillow's formula;
  colour profiles are not applied to any image).
* An alpha channel is dropped where every pixel is opaque; real transparency has no RGB value and is
  refused.
* 16-bit and floating-point images are refused, because cutting them to 8 bits would change them
  unsaid; so are animations. Of a camera's multi-picture JPEG the first picture counts.
* The orientation that a camera noted in EXIF is applied.
"""

import os
import pathlib
import struct
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from srflow_jax.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_ORIENTATION = 0x0112  # EXIF tag
# What Pillow raises for damaged files, by format and by where the damage lies.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error)


def list_images(folder: str | os.PathLike) -> list[pathlib.Path]:
  """Lists the PNG, JPEG and WebP files of a folder tree, sorted by path.

  Files are told by suffix: others are passed over, and so is all whose name starts with a dot.

  Args:
    folder: The folder; links to folders are followed.

  Returns:
    The paths, at least one.

  Raises:
    InputError: The folder is missing, is no folder, cannot be read, or has no image.
  """
  folder = pathlib.Path(folder)
  if not folder.exists():
    raise InputError(f"{folder}: no such folder")
  if not folder.is_dir():
    raise InputError(f"{folder}: not a folder")

  def refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read: {error.strerror}")

  paths, visited = [], set()
  for root, subfolders, names in os.walk(folder, onerror=refuse, followlinks=True):
    status = os.stat(root)
    if (status.st_dev, status.st_ino) in visited:  # a link back up the tree
      subfolders.clear()
      continue
    visited.add((status.st_dev, status.st_ino))
    subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
    paths += [
      pathlib.Path(root, name)
      for name in names
      if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
  if not paths:
    raise InputError(f"{folder}: no image in it (looked for {', '.join(SUFFIXES)})")
  return sorted(paths)


def read_image(path: str | os.PathLike) -> np.ndarray:
  """Reads an image file.

  Args:
    path: A PNG, JPEG or WebP file.

  Returns:
    uint8 RGB `[H, W, 3]`, upright.

  Raises:
    InputError: It cannot be read, is no image, is damaged, or is of a kind that is refused; the
      message names the file.
  """
  try:
    with open(path, "rb") as file:
      return decode_image(file, os.fspath(path))
  except OSError as error:
    raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def decode_image(file: BinaryIO, name: str) -> np.ndarray:
  """Decodes an image from an open, seekable binary file, such as an archive's member.

  Args:
    file: The file, at its beginning.
    name: What error messages call it.

  Returns:
    uint8 RGB `[H, W, 3]`, upright.

  Raises:
    InputError: As `read_image`.
  """
  image = _open(file, name)
  try:
    image.load()
  except _DAMAGE as error:
    raise InputError(f"{name}: the image is damaged or truncated ({error})") from None
  image = ImageOps.exif_transpose(image)
  if image.has_transparency_data:
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema()[0] < 255:
      raise InputError(f"{name}: the image has transparent pixels; save it without transparency")
  return np.asarray(image.convert("RGB"))


def image_size(path: str | os.PathLike) -> tuple[int, int]:
  """Reads an image's size from its header.

  Args:
    path: A PNG, JPEG or WebP file.

  Returns:
    Height and width in pixels, upright.

  Raises:
    InputError: It cannot be read, is no image, or its header tells a kind that is refused.
  """
  try:
    with open(path, "rb") as file:
      return decode_size(file, os.fspath(path))
  except OSError as error:
    raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def decode_size(file: BinaryIO, name: str) -> tuple[int, int]:
  """Reads an image's size from the header of an open, seekable binary file.

  Args:
    file: The file, at its beginning.
    name: What error messages call it.

  Returns:
    Height and width in pixels, upright.

  Raises:
    InputError: As `image_size`.
  """
  return _size(_open(file, name))


def check_images(paths: Sequence[str | os.PathLike]) -> list[tuple[int, int]]:
  """Checks many images, all but without decoding: their headers, and that no file was cut short.

  It is meant for the beginning of a long run. A damaged stream shows only when it is decoded, which
  is done here just for images with an alpha channel, to see whether they are opaque.

  Args:
    paths: PNG, JPEG or WebP files.

  Returns:
    Height and width of each, upright.

  Raises:
    InputError: For the first file that `image_size` refuses, or that is truncated or transparent.
  """
  sizes = []
  for path in paths:
    try:
      with open(path, "rb") as file:
        image = _open(file, os.fspath(path))
        sizes.append(_size(image))
        if not _COMPLETE[image.format](file):
          raise InputError(f"{path}: the image is truncated")
        if image.has_transparency_data:
          file.seek(0)
          decode_image(file, os.fspath(path))
    except OSError as error:
      raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
  return sizes


def rgb_profile(path: str | os.PathLike) -> bytes | None:
  """The colour profile of an image file, for what is made of its pixels.

  Args:
    path: A PNG, JPEG or WebP file.

  Returns:
    The ICC profile, if there is one and it is of RGB: of grey and CMYK images the pixels that are
    read here have no profile any more.

  Raises:
    InputError: As `image_size`.
  """
  try:
    with open(path, "rb") as file:
      profile = _open(file, os.fspath(path)).info.get("icc_profile")
  except OSError as error:
    raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
  return profile if profile and profile[16:20] == b"RGB " else None


def write_png(path: str | os.PathLike, image: np.ndarray, profile: bytes | None = None) -> None:
  """Writes an image as PNG, making its folder if need be.

  Args:
    path: Where to.
    image: uint8 RGB `[H, W, 3]`.
    profile: The ICC profile that goes with its numbers.

  Raises:
    InputError: The file cannot be written.
  """
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
    raise ValueError(f"not a uint8 image [H, W, 3]: {image.dtype} {list(image.shape)}")
  path = pathlib.Path(path)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Level 1 takes a third of the default's time for a few per cent more bytes.
    Image.fromarray(image).save(path, format="PNG", compress_level=1, icc_profile=profile)
  except OSError as error:
    raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def _open(file: BinaryIO, name: str) -> Image.Image:
  """Opens an image without decoding it and refuses what its header suffices to refuse."""
  try:
    image = Image.open(file, formats=_FORMATS)
  except UnidentifiedImageError:
    raise InputError(f"{name}: not a PNG, JPEG or WebP image") from None
  except Image.DecompressionBombError:
    raise InputError(f"{name}: more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels") from None
  except _DAMAGE as error:
    raise InputError(f"{name}: the image is damaged or truncated ({error})") from None
  if image.mode not in _MODES or (image.format == "PNG" and _png_bit_depth(file) == 16):
    kind = "16-bit" if image.format == "PNG" else f"{image.format} {image.mode}"
    raise InputError(f"{name}: {kind} images are not supported; convert it to 8-bit RGB")
  if image.format != "MPO" and getattr(image, "is_animated", False):
    raise InputError(f"{name}: animated images are not supported")
  return image


def _size(image: Image.Image) -> tuple[int, int]:
  """Returns height and width as they are once the EXIF orientation is applied."""
  width, height = image.size
  if image.format == "PNG" and "exif" not in image.info:
    # Pillow would decode a PNG to look for EXIF data behind its pixels, where writers do not put
    # it: 100 ms an image, minutes for DIV2K's headers.
    return height, width
  return (width, height) if image.getexif().get(_ORIENTATION, 1) >= 5 else (height, width)


def _png_bit_depth(file: BinaryIO) -> int:
  """Bits a channel: Pillow opens 16-bit RGB as if it were 8-bit, so the header itself is read."""
  position = file.tell()
  file.seek(24)
  depth = file.read(1)[0]
  file.seek(position)
  return depth


def _png_is_complete(file: BinaryIO) -> bool:
  """Walks the chunks' lengths up to the end mark; the chunks themselves are not read."""
  end = file.seek(0, os.SEEK_END)
  position = 8
  while position + 12 <= end:
    file.seek(position)
    length, kind = struct.unpack(">I4s", file.read(8))
    position += length + 12
    if kind == b"IEND":
      return position <= end
  return False


def _jpeg_is_complete(file: BinaryIO) -> bool:
  """Looks for the end mark behind the first scan; what lies before it may hold a thumbnail's."""
  file.seek(2)
  while len(header := file.read(4)) == 4:
    marker, length = struct.unpack(">HH", header)
    if marker == 0xFFDA:  # start of scan: in its data, a plain FF D9 is the end mark alone
      return b"\xff\xd9" in file.read()
    file.seek(length - 2, os.SEEK_CUR)
  return False


# Pillow's WebP decoder refuses a truncated file when it opens it.
_COMPLETE = {
  "PNG": _png_is_complete,
  "JPEG": _jpeg_is_complete,
  "MPO": _jpeg_is_complete,
  "WEBP": lambda file: True,
}
