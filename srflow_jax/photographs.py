"""Photographs to be enlarged: of more kinds than those that are trained on, and written alike.

Beside what `images.py` reads these are transparent ones and 16-bit PNG and TIFF files. An image's
kind (grey or colour, 8 or 16 bits, transparent or not) is kept, so that what is made of it can be
written as the same kind of PNG.
"""

import dataclasses
import os
import struct
import sys
import zlib
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from srflow_jax.errors import InputError
from srflow_jax.files import regular_file, whole_file
from srflow_jax.image_headers import bits_per_channel
from srflow_jax.images import check_end, damage_named, open_image, profile_of, upright_size

_GREY_MODES = ("1", "L", "LA")
_NATIVE = "L" if sys.byteorder == "little" else "B"
_PNG_COLOUR_TYPES = {(True, False): 0, (True, True): 4, (False, False): 2, (False, True): 6}


@dataclasses.dataclass(frozen=True)
class Photograph:
  """An image's pixels, upright, and what their numbers mean.

  Attributes:
    pixels: uint8 or uint16 `[H, W, C]`: C is 1 for a grey image and 3 for a coloured one.
    alpha: Of the same type, `[H, W, 1]`; None where every pixel is opaque.
    profile: The ICC profile of the pixels, or None.
  """

  pixels: np.ndarray
  alpha: np.ndarray | None = None
  profile: bytes | None = None

  @property
  def is_grey(self) -> bool:
    """Whether it has one channel."""
    return self.pixels.shape[-1] == 1

  @property
  def white(self) -> int:
    """The number that stands for white: 255 or 65535."""
    return int(np.iinfo(self.pixels.dtype).max)


def read_photograph(path: str | os.PathLike) -> Photograph:
  """Reads an image file of any kind.

  Raises:
    InputError: It cannot be read, is no image, is damaged, or is of a kind that is refused: an
      animation, 32-bit numbers, 16-bit ones that Pillow does not read; the message names the file.
  """
  name = os.fspath(path)
  with regular_file(path) as file:
    image = open_image(file, name, deep=True)
    if bits_per_channel(image, file) == 16:
      channels = _deep(image, file, name)
      is_grey = channels.shape[-1] <= 2
    else:
      is_grey = image.mode in _GREY_MODES
      channels = _of_8_bits(image, is_grey, name)
  space = b"GRAY" if is_grey else b"RGB "
  colours = 1 if is_grey else 3
  alpha = channels[..., colours:] if channels.shape[-1] > colours else None
  if alpha is not None and alpha.min() == np.iinfo(alpha.dtype).max:
    alpha = None
  return Photograph(channels[..., :colours], alpha, profile_of(image, space))


def photograph_size(path: str | os.PathLike) -> tuple[int, int]:
  """Height and width of a photograph, upright; only kinds of file that have no end are decoded.

  Raises:
    InputError: It cannot be read, is no image, is truncated, or its header tells a kind that is
      refused.
  """
  name = os.fspath(path)
  with regular_file(path) as file:
    image = open_image(file, name, deep=True)
    if bits_per_channel(image, file) == 16:
      _check_deep(image, name)
    size = upright_size(image, file, name)
    has_end = check_end(image, file, name)
  if not has_end:
    read_photograph(path)
  return size


def write_photograph(path: str | os.PathLike, photograph: Photograph) -> None:
  """Writes a photograph as a PNG of its kind, whole or not at all, making its folder if need be.

  Raises:
    InputError: The file cannot be written.
  """
  parts = [photograph.pixels] if photograph.alpha is None else [photograph.pixels, photograph.alpha]
  channels = np.concatenate(parts, axis=-1)
  with whole_file(path, make_folder=True) as file:
    if channels.dtype == np.uint16:
      file.write(_deep_png(channels, photograph.profile))
    else:
      image = Image.fromarray(channels[..., 0] if channels.shape[-1] == 1 else channels)
      image.save(file, format="PNG", compress_level=1, icc_profile=photograph.profile)


def _of_8_bits(image: Image.Image, is_grey: bool, name: str) -> np.ndarray:
  """uint8 `[H, W, C]`, the last channel alpha if C is even."""
  with damage_named(name):
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
      # By RGBA, since a grey image that names one grey transparent becomes LA in no other way.
      channels = np.asarray(image.convert("RGBA"))
      return channels[..., [0, 3]] if is_grey else channels
    channels = np.asarray(image.convert("L" if is_grey else "RGB"))
    return channels.reshape(*channels.shape[:2], -1)


def _raw_mode(image: Image.Image) -> str:
  """How Pillow calls the order of bytes in an opened file; empty where there is more than one."""
  modes = {tile.args if isinstance(tile.args, str) else tile.args[0] for tile in image.tile}
  return modes.pop() if len(modes) == 1 else ""


def _low_bytes_mode(image: Image.Image) -> str | None:
  """The raw mode in which Pillow reads the low bytes of a 16-bit image; None if it has none.

  Of a 16-bit colour Pillow keeps the high byte alone. Told that the bytes stand in the other order,
  it keeps the low one.
  """
  kind, _, order = _raw_mode(image).partition(";16")
  order = _NATIVE if order == "N" else order
  other = {"B": "L", "L": "B"}.get(order)
  return f"{kind};16{other}" if kind in ("RGB", "RGBA") and kind == image.mode and other else None


def _check_deep(image: Image.Image, name: str) -> None:
  grey_alpha = _raw_mode(image) == "LA;16B" and image.mode == "RGBA"
  readable = image.mode.startswith("I;16") or grey_alpha or _low_bytes_mode(image)
  has_colour_key = "transparency" in image.info
  if not readable or has_colour_key:
    kind = " with one transparent colour" if readable else f" of mode {_raw_mode(image)}"
    raise InputError(f"{name}: 16-bit images{kind} are not supported; convert it to 8-bit RGB")


def _deep(image: Image.Image, file: BinaryIO, name: str) -> np.ndarray:
  """uint16 `[H, W, C]`, the last channel alpha if C is even."""
  _check_deep(image, name)
  if image.mode.startswith("I;16"):
    with damage_named(name):
      image.load()
      return np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)[..., None]
  if _raw_mode(image) == "LA;16B":  # as many bytes a pixel as RGBA of 8 bits
    bytes_ = _read_as(file, name, "RGBA")
    high, low = bytes_[..., 0::2], bytes_[..., 1::2]
  else:
    high = _read_as(file, name, _raw_mode(image))
    low = _read_as(file, name, _low_bytes_mode(image))
  return high.astype(np.uint16) << 8 | low


def _read_as(file: BinaryIO, name: str, raw_mode: str) -> np.ndarray:
  """What Pillow makes of a file, uint8 `[H, W, C]`, if it takes its bytes for those of a mode."""
  file.seek(0)
  image = open_image(file, name, deep=True)
  with damage_named(name):
    image.tile = [
      tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:]))
      for tile in image.tile
    ]
    image.load()
    return np.asarray(ImageOps.exif_transpose(image))


def _deep_png(channels: np.ndarray, profile: bytes | None) -> bytes:
  """A 16-bit PNG, which Pillow does not write of colours (W3C, "PNG Specification", 3rd edition).

  Args:
    channels: uint16 `[H, W, C]`, the last channel alpha if C is even.
    profile: The ICC profile, or None.
  """
  height, width, count = channels.shape
  rows = channels.astype(">u2").view(np.uint8).reshape(height, -1)
  lines = np.empty((height, 1 + rows.shape[1]), np.uint8)
  lines[:, 0] = 2  # filter "Up": each byte less the one above it
  lines[0, 1:] = rows[0]
  lines[1:, 1:] = rows[1:] - rows[:-1]
  colour_type = _PNG_COLOUR_TYPES[count <= 2, count % 2 == 0]
  header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
  chunks = [(b"IHDR", header)]
  if profile is not None:
    chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile)))
  chunks += [(b"IDAT", zlib.compress(lines, level=1)), (b"IEND", b"")]
  parts = [b"\x89PNG\r\n\x1a\n"]
  for kind, data in chunks:
    parts += [struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(kind + data))]
  return b"".join(parts)
