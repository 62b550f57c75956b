"""Archives hold regular images of bounded size, or are refused in one line."""

import io
import os
import stat
import struct
import tarfile
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from srflow_jax.data.archives import hr_images
from srflow_jax.errors import InputError
from test_images import gradient


def png(width=40, height=40):
  file = io.BytesIO()
  Image.fromarray(gradient(height, width)).save(file, format="PNG")
  return file.getvalue()


def zipped(*members):
  """A zip of (name, content, Unix mode or 0)."""

  def write(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
      for name, content, mode in members:
        info = zipfile.ZipInfo(name)
        info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
        with archive.open(info, "w", force_zip64=True) as file:
          for part in [content] if isinstance(content, bytes) else content:
            file.write(part)

  return write


def tarred(*members):
  """A tar of (name, content, type); a link leads to its content."""

  def write(path):
    with tarfile.open(path, "w") as archive:
      for name, content, kind in members:
        info = tarfile.TarInfo(name)
        info.type = kind
        if kind == tarfile.REGTYPE:
          info.size = len(content)
        else:
          info.linkname = content.decode()
        archive.addfile(info, io.BytesIO(content))

  return write


def edited(write, change):
  """What `write` writes, its bytes changed."""

  def edit(path):
    write(path)
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content) or content)

  return edit


def in_central_directory(offset, value):
  def change(content):
    start = content.index(b"PK\x01\x02")
    content[start + offset : start + offset + len(value)] = value

  return change


def bomb():
  """A sound PNG, and half a gigabyte of nothing behind its end."""
  yield png()
  for _ in range(8):
    yield bytes(2**26)


def text_bomb():
  """A PNG whose comment expands to 200 MB."""
  content = png()
  data = b"Comment\0\0" + zlib.compress(bytes(2 * 10**8))
  chunk = struct.pack(">I", len(data)) + b"zTXt" + data
  chunk += struct.pack(">I", zlib.crc32(b"zTXt" + data))
  return content[:33] + chunk + content[33:]


ONE = ("x.png", png(), 0)
REFUSED = [
  ("zip", zipped(("/etc/x.png", png(), 0)), "/etc/x.png: the name leads out of the archive"),
  ("zip", zipped(("../x.png", png(), 0)), "../x.png: the name leads out of the archive"),
  ("zip", zipped(("a/../../x.png", png(), 0)), "x.png: the name leads out of the archive"),
  ("zip", zipped(("x.png", b"/etc/passwd", stat.S_IFLNK)), "x.png: a link or device; only regular"),
  ("zip", zipped(("x.png", b"", stat.S_IFIFO)), "x.png: a link or device; only regular files are"),
  ("zip", zipped(("a\nb.png", png(), 0)), r"a\nb.png: the name has a control character"),
  ("zip", zipped(("x.png/", b"", 0)), "no image in it"),
  ("zip", zipped(("x.txt", b"", 0), ("@eaDir/x.png", b"", 0)), "no image in it"),
  ("zip", zipped(("x.png", b"", 0)), "x.png: not a PNG"),
  ("zip", zipped(("x.png", png()[:50], 0)), "x.png: the image is"),
  ("zip", zipped(("x.png", bomb(), 0)), "x.png: 536,87"),
  ("zip", zipped(("x.png", text_bomb(), 0)), "x.png: the image is damaged or truncated"),
  ("zip", zipped(ONE, ONE), "x.png: two images of one name"),
  ("zip", edited(zipped(ONE), lambda c: c[:-30]), "not a zip or uncompressed tar archive"),
  ("zip", edited(zipped(ONE), in_central_directory(42, b"\xff\xff\xff\x7f")), "x.zip"),
  (
    "zip",
    edited(zipped(ONE), in_central_directory(24, b"\xff\xff\xff\x7f")),
    "x.png: 2,147,483",
  ),
  ("zip", edited(zipped(ONE), in_central_directory(20, b"\x03")), "damaged in the archive"),
  ("zip", edited(zipped(ONE), in_central_directory(10, b"\x63")), "damaged in the archive"),
  ("zip", edited(zipped(ONE), in_central_directory(8, b"\x01")), "damaged in the archive"),
  ("zip", edited(zipped(ONE), in_central_directory(0, b"XX")), "not a zip or uncompressed tar"),
  ("zip", edited(zipped(ONE), in_central_directory(46, b"y")), "damaged in the archive"),
  ("zip", lambda path: path.write_bytes(b""), "not a zip or uncompressed tar archive"),
  ("zip", lambda path: path.write_bytes(b"PK\5\6" + b"\xff" * 18), "not a zip or uncompressed tar"),
  ("zip", os.mkfifo, "neither a folder nor a regular file"),
  ("zip", lambda path: path.symlink_to("/dev/zero"), "neither a folder nor a regular file"),
  ("zip", lambda path: path.symlink_to("none"), "no such folder or archive"),
  ("tar", tarred(("x.png", b"/etc/passwd", tarfile.SYMTYPE)), "x.png: a link or device"),
  ("tar", tarred(("x.png", b"../../y.png", tarfile.LNKTYPE)), "x.png: a link or device"),
  ("tar", tarred(("x.png", b"", tarfile.CHRTYPE)), "x.png: a link or device"),
  ("tar", tarred(("x.png", b"", tarfile.BLKTYPE)), "x.png: a link or device"),
  ("tar", tarred(("x.png", b"", tarfile.FIFOTYPE)), "x.png: a link or device"),
  ("tar", tarred(("x.png", b"", tarfile.DIRTYPE)), "no image in it"),
  ("tar", tarred(("../x.png", png(), tarfile.REGTYPE)), "x.png: the name leads out"),
  ("tar", tarred((os.fsdecode(b"\xe9.png"), png(), tarfile.REGTYPE)), r"\xe9.png: the name is not"),
  ("tar", tarred(("x.png", png() + bytes(2**27), tarfile.REGTYPE)), "x.png: 134,217,"),
  ("tar", edited(tarred(("x.png", png(), tarfile.REGTYPE)), lambda c: c[:600]), "x.tar"),
  ("tar", edited(tarred(("x.png", png(), tarfile.REGTYPE)), lambda c: c[:300]), "not a zip or unc"),
]


def use(path):
  return {name: image.read(image.size()) for name, image in hr_images([str(path)]).items()}


@pytest.mark.parametrize("suffix, write, line", REFUSED, ids=range(len(REFUSED)))
def test_each_bad_archive_is_one_line_and_soon(tmp_path, suffix, write, line):
  path = tmp_path / f"x.{suffix}"
  write(path)
  began = time.monotonic()
  with pytest.raises(InputError) as caught:
    use(path)
  assert time.monotonic() - began < 10
  assert line in str(caught.value) and str(path) in str(caught.value)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "suffix, write, names",
  [
    ("zip", zipped(ONE), ["x"]),
    ("zip", zipped(("a/x.png", png(), stat.S_IFREG | 0o644), ("a/x.txt", b"", 0)), ["x"]),
    ("zip", zipped(("x.png/", b"", 0), ("x.png/y.png", png(), 0)), ["y"]),
    ("zip", zipped(ONE, ("__MACOSX/._x.png", b"", 0), ("@eaDir/x.png", b"", 0)), ["x"]),
    ("zip", zipped(("größe.png", png(), 0)), ["größe"]),
    (
      "tar",
      tarred(("x.png", b"", tarfile.DIRTYPE), ("x.png/y.png", png(), tarfile.REGTYPE)),
      ["y"],
    ),
    ("tar", tarred(("./x.png", png(), tarfile.REGTYPE), ("l.txt", b"/", tarfile.SYMTYPE)), ["x"]),
  ],
)
def test_good_archives_are_read(tmp_path, suffix, write, names):
  path = tmp_path / f"x.{suffix}"
  write(path)
  images = use(path)
  assert list(images) == names
  for image in images.values():
    np.testing.assert_array_equal(image, gradient(40, 40))


def test_an_empty_name_in_a_list_is_refused():
  with pytest.raises(InputError, match=r"an empty name .* is there a comma too many"):
    hr_images(["", "x"])
