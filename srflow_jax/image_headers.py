"""What an image file's structure tells, where Pillow does not say or would have to decode."""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image

_BITS_PER_SAMPLE = 258  # TIFF tag


def bits_per_channel(image: Image.Image, file: BinaryIO) -> int:
  """Bits a channel of a PNG or TIFF; Pillow opens 16-bit RGB as if it were 8-bit. Else 8."""
  if image.format == "TIFF":
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, 1)
    return max(bits if isinstance(bits, tuple) else (bits,))
  if image.format != "PNG":
    return 8
  position = file.tell()
  file.seek(24)
  depth = file.read(1)[0]
  file.seek(position)
  return depth


def is_complete(image_format: str | None, file: BinaryIO) -> bool | None:
  """Whether a file has its format's end mark; None where only decoding tells."""
  if image_format == "WEBP":
    return True  # Pillow's decoder refuses a truncated file when it opens it
  look = {"PNG": _png_is_complete, "JPEG": _jpeg_is_complete, "MPO": _jpeg_is_complete}
  return look[image_format](file) if image_format in look else None


def has_late_orientation(file: BinaryIO) -> bool:
  """Whether a PNG has metadata that may hold an orientation behind its first pixels."""
  position, has_pixels, is_late = file.tell(), False, False
  for kind, head, _ in _png_chunks(file):
    has_pixels |= kind == b"IDAT"
    is_metadata = kind == b"eXIf" or (
      kind in (b"tEXt", b"zTXt", b"iTXt")
      and head.startswith((b"Raw profile type ", b"XML:com.adobe.xmp"))
    )
    is_late |= has_pixels and is_metadata
  file.seek(position)
  return is_late


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes, bool]]:
  """Kind and first 32 bytes of each chunk, and whether the file holds all of it."""
  end = file.seek(0, os.SEEK_END)
  position = 8
  while position + 12 <= end:
    file.seek(position)
    length, kind = struct.unpack(">I4s", file.read(8))
    head = file.read(min(length, 32))
    position += length + 12
    yield kind, head, position <= end
    if kind == b"IEND":
      return


def _png_is_complete(file: BinaryIO) -> bool:
  return any(kind == b"IEND" and is_whole for kind, _, is_whole in _png_chunks(file))


def _jpeg_is_complete(file: BinaryIO) -> bool:
  """Looks for the end mark behind the first scan; what lies before it may hold a thumbnail's."""
  file.seek(2)
  while len(header := file.read(4)) == 4:
    marker, length = struct.unpack(">HH", header)
    if marker == 0xFFDA:  # start of scan: in its data, a plain FF D9 is the end mark alone
      last = b""
      while block := file.read(2**20):
        if b"\xff\xd9" in last + block:
          return True
        last = block[-1:]
      return False
    if length < 2:
      return False
    file.seek(length - 2, os.SEEK_CUR)
  return False
