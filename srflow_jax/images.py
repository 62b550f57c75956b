"""Photographs on disk: which files are images, and their pixels as 8-bit RGB.

Every image of this project is read here, so that each kind of file is accepted or refused in one
way, by name (`photographs.py` also reads the kinds that cannot be cut to 8-bit RGB unsaid):

* PNG, JPEG, WebP, BMP, TIFF and GIF files are read, and only regular files.
* 8-bit RGB, grey, black and white, palette and CMYK images become RGB (CMYK by Pillow's formula).
* Pixels stay as they are stored: no colour profile is applied. An RGB image's ICC profile can be
  read beside its pixels and written with what was made of them, so that colours are shown alike.
* An alpha channel is dropped where every pixel is opaque; real transparency has no RGB value and is
  refused.
* 16-bit and floating-point images are refused, because cutting them to 8 bits would change them
  unsaid; so are animations and files of several pages. Of a camera's multi-picture JPEG the first
  picture counts.
* The orientation that a camera noted in EXIF or XMP is applied, wherever it stands in the file.
"""

import contextlib
import dataclasses
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from srflow_jax.errors import InputError, one_line
from srflow_jax.files import regular_file, whole_file
from srflow_jax.image_headers import bits_per_channel, has_late_orientation, is_complete

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
# Pillow warns of images of half as many pixels as it refuses, without their names.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_ORIENTATION = 0x0112  # EXIF tag
# What Pillow raises for damaged files, by format and by where the damage lies.
_DAMAGE = (
  OSError,
  SyntaxError,
  ValueError,
  EOFError,
  struct.error,
  LookupError,
  TypeError,
  AssertionError,
  ArithmeticError,
  MemoryError,
  RuntimeError,
  Image.DecompressionBombError,
)


@dataclasses.dataclass(frozen=True)
class Picture:
  """An image's pixels and what their numbers mean.

  Attributes:
    pixels: uint8 RGB `[H, W, 3]`, upright.
    profile: The ICC profile that the file gives for its RGB values, or None. `write_png` takes it.
  """

  pixels: np.ndarray
  profile: bytes | None = None


def read_image(path: str | os.PathLike, size: tuple[int, int] | None = None) -> np.ndarray:
  """Reads an image file's pixels; see `read_picture`."""
  return read_picture(path, size).pixels


def read_picture(path: str | os.PathLike, size: tuple[int, int] | None = None) -> Picture:
  """Reads an image file.

  Args:
    path: An image file.
    size: The height and width that it had when it was checked, or None.

  Returns:
    Its pixels, upright, and profile.

  Raises:
    InputError: It cannot be read, is no image, is damaged, is of a kind that is refused, or is of
      another size; the message names the file.
  """
  with regular_file(path) as file:
    return decode_picture(file, os.fspath(path), size)


def rgb_profile(path: str | os.PathLike) -> bytes | None:
  """The profile of `read_picture`, from the file's header alone."""
  with regular_file(path) as file:
    return profile_of(open_image(file, os.fspath(path)))


def decode_picture(file: BinaryIO, name: str, size: tuple[int, int] | None = None) -> Picture:
  """Decodes an image from an open, seekable binary file, such as an archive's member.

  Args:
    file: The file, at its beginning.
    name: What error messages call it.
    size: As in `read_picture`.

  Returns:
    Its pixels, upright, and profile.

  Raises:
    InputError: As `read_picture`.
  """
  image = open_image(file, name)
  picture = Picture(to_rgb(image, name), profile_of(image))
  actual = picture.pixels.shape[:2]
  if size is not None and actual != tuple(size):
    raise InputError(
      f"{name}: {actual[1]}x{actual[0]} pixels, but {size[1]}x{size[0]} when it was checked: it "
      "has changed since"
    )
  return picture


def decode_image(file: BinaryIO, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
  """Decodes an image's pixels; see `decode_picture`."""
  return decode_picture(file, name, size).pixels


def to_rgb(image: Image.Image, name: str) -> np.ndarray:
  """The pixels of a PIL image, as `read_image` gives those of a file.

  Args:
    image: An image, opened or made.
    name: What error messages call it.

  Returns:
    uint8 RGB `[H, W, 3]`, upright by the image's EXIF orientation.

  Raises:
    InputError: It is damaged, or of a kind that is refused.
  """
  _check_mode(image, name)
  with damage_named(name):
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
      image = image.convert("RGBA")
      if image.getchannel("A").getextrema()[0] < 255:
        raise InputError(f"{name}: the image has transparent pixels; save it without transparency")
    return np.asarray(image.convert("RGB"))


def image_size(path: str | os.PathLike) -> tuple[int, int]:
  """Reads an image's size from its header.

  Args:
    path: An image file.

  Returns:
    Height and width in pixels, upright.

  Raises:
    InputError: It cannot be read, is no image, or its header tells a kind that is refused.
  """
  with regular_file(path) as file:
    return upright_size(open_image(file, os.fspath(path)), file, os.fspath(path))


def check_images(paths: Sequence[str | os.PathLike]) -> list[tuple[int, int]]:
  """Checks many images, all but without decoding: their headers, and that no file was cut short.

  It is meant for the beginning of a long run. A damaged stream shows only when it is decoded, which
  is done here just for images with an alpha channel, to see whether they are opaque, and for BMP,
  TIFF and GIF files, whose ends tell nothing.

  Args:
    paths: Image files.

  Returns:
    Height and width of each, upright.

  Raises:
    InputError: For the first file that `image_size` refuses, or that is truncated or transparent.
  """
  sizes = []
  for path in paths:
    with regular_file(path) as file:
      sizes.append(check_image(file, os.fspath(path)))
  return sizes


def check_image(file: BinaryIO, name: str) -> tuple[int, int]:
  """Checks an image in an open, seekable binary file, as `check_images` does.

  Args:
    file: The file, at its beginning.
    name: What error messages call it.

  Returns:
    Height and width, upright.

  Raises:
    InputError: As `check_images`.
  """
  image = open_image(file, name)
  size = upright_size(image, file, name)
  if not check_end(image, file, name) or image.has_transparency_data:
    file.seek(0)
    decode_image(file, name, size)
  return size


def check_end(image: Image.Image, file: BinaryIO, name: str) -> bool:
  """Whether an opened image's file ends as its format says; False where only decoding tells.

  Raises:
    InputError: It does not.
  """
  has_end = is_complete(image.format, file)
  if has_end is False:
    raise InputError(f"{name}: the image is truncated")
  return bool(has_end)


def check_bytes(file: BinaryIO, name: str, num_bytes: int) -> None:
  """Refuses a file that is far larger than its pixels, as an archive's member may expand to.

  Sound files have at most 16 bytes a pixel, and 64 MiB of metadata.

  Args:
    file: The file, at its beginning.
    name: What error messages call it.
    num_bytes: How many bytes it holds.

  Raises:
    InputError: It is, or is no image.
  """
  width, height = open_image(file, name).size
  if num_bytes > 16 * width * height + 2**26:
    raise InputError(
      f"{name}: {num_bytes:,} bytes, far more than an image of {width}x{height} pixels holds"
    )


def write_png(path: str | os.PathLike, image: np.ndarray, profile: bytes | None = None) -> None:
  """Writes an image as PNG, whole or not at all, making its folder if need be.

  Args:
    path: Where to.
    image: uint8 RGB `[H, W, 3]`.
    profile: The ICC profile of its RGB values, from `read_picture`.

  Raises:
    InputError: The file cannot be written.
  """
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
    raise ValueError(f"not a uint8 image [H, W, 3]: {image.dtype} {list(image.shape)}")
  with whole_file(path, make_folder=True) as file:
    # Level 1 takes a third of the default's time for a few per cent more bytes.
    Image.fromarray(image).save(file, format="PNG", compress_level=1, icc_profile=profile)


def read_written_png(path: str | os.PathLike) -> np.ndarray:
  """Reads what `write_png` has written, of any size.

  Pillow's limit on the pixels of a file, which guards against files made to exhaust the memory,
  does not count here: give it this project's own files alone.

  Returns:
    uint8 RGB `[H, W, 3]`.

  Raises:
    InputError: It cannot be read or is damaged.
  """
  with regular_file(path) as file:
    with damage_named(os.fspath(path)):
      image = PngImagePlugin.PngImageFile(file)
    return to_rgb(image, os.fspath(path))


def open_image(file: BinaryIO, name: str, deep: bool = False) -> Image.Image:
  """Opens an image without decoding it and refuses what its header suffices to refuse.

  Args:
    file: As in `decode_picture`.
    name: Likewise.
    deep: Whether 16-bit images pass, whose pixels `srflow_jax.photographs` can read.

  Raises:
    InputError: It is refused.
  """
  try:
    image = Image.open(file, formats=_FORMATS)
    bits = bits_per_channel(image, file)
    is_animated = image.format != "MPO" and getattr(image, "is_animated", False)
  except UnidentifiedImageError:
    raise InputError(f"{name}: not a PNG, JPEG or WebP image, nor BMP, TIFF or GIF") from None
  except Image.DecompressionBombError:
    raise InputError(f"{name}: more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels") from None
  except _DAMAGE as error:
    raise InputError(f"{name}: the image is damaged or truncated ({one_line(error)})") from None
  if bits > 8 and not (deep and bits == 16):
    raise InputError(f"{name}: {bits}-bit images are not supported; convert it to 8-bit RGB")
  if bits <= 8:
    _check_mode(image, name)
  if is_animated:
    raise InputError(f"{name}: animated images and files of several pages are not supported")
  return image


@contextlib.contextmanager
def damage_named(name: str) -> Iterator[None]:
  """Makes an `InputError` that names the image of whatever Pillow raises where it is damaged."""
  try:
    yield
  except InputError:
    raise
  except _DAMAGE as error:
    raise InputError(f"{name}: the image is damaged or truncated ({one_line(error)})") from None


def _check_mode(image: Image.Image, name: str) -> None:
  if image.mode not in _MODES:
    kind = f"{image.format or 'PIL'} {image.mode}"
    raise InputError(f"{name}: {kind} images are not supported; convert it to 8-bit RGB")


def profile_of(image: Image.Image, space: bytes = b"RGB ") -> bytes | None:
  """An image's ICC profile if it is one for a space: that of a CMYK image does not fit RGB."""
  profile = image.info.get("icc_profile")
  fits = isinstance(profile, bytes) and profile[16:20] == space and profile[36:40] == b"acsp"
  return profile if fits else None


def upright_size(image: Image.Image, file: BinaryIO, name: str) -> tuple[int, int]:
  """Height and width as they are once the EXIF orientation is applied."""
  width, height = image.size
  if image.format == "TIFF":  # Pillow has turned the size already
    return height, width
  try:
    if image.format == "PNG":
      # Pillow would decode every PNG without EXIF data before its pixels to look behind them:
      # 100 ms an image, minutes for DIV2K's headers.
      if has_late_orientation(file):
        image.load()
      exif = Image.Image.getexif(image)
    else:
      exif = image.getexif()
    is_turned = exif.get(_ORIENTATION, 1) in (5, 6, 7, 8)
  except _DAMAGE as error:
    raise InputError(f"{name}: the image is damaged or truncated ({one_line(error)})") from None
  return (width, height) if is_turned else (height, width)
