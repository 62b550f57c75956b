import os

import numpy as np
import pytest
from PIL import Image

from srflow_jax import images
from srflow_jax.errors import InputError


def gradient(height=20, width=30):
  """A smooth image that JPEG keeps nearly unchanged."""
  ramps = np.linspace(20, 230, width), np.linspace(40, 200, height)[:, None], 128
  return np.stack(np.broadcast_arrays(*ramps), -1).astype(np.uint8)


def write(path, image, **options):
  image.save(path, **options)
  return path


@pytest.mark.parametrize("suffix, tolerance", [("png", 0), ("jpg", 8), ("JPEG", 8), ("webp", 8)])
def test_rgb(tmp_path, suffix, tolerance):
  path = write(tmp_path / f"a.{suffix}", Image.fromarray(gradient()), quality=95)
  image = images.read_image(path)
  assert image.dtype == np.uint8 and image.shape == (20, 30, 3)
  np.testing.assert_allclose(image.astype(int), gradient(), atol=tolerance)
  assert images.image_size(path) == (20, 30)
  assert images.check_images([path]) == [(20, 30)]


def test_modes_that_convert(tmp_path):
  rgb = Image.fromarray(gradient())
  grey = np.asarray(rgb.convert("L"))
  opaque = rgb.convert("RGBA")
  cases = {
    "grey.png": (rgb.convert("L"), np.repeat(grey[..., None], 3, 2)),
    "grey_alpha.png": (rgb.convert("LA"), np.repeat(grey[..., None], 3, 2)),
    "opaque.png": (opaque, gradient()),
    "opaque.webp": (opaque, gradient()),
    "palette.png": (rgb.quantize(64), np.asarray(rgb.quantize(64).convert("RGB"))),
    "bilevel.png": (rgb.convert("1"), np.asarray(rgb.convert("1").convert("RGB"))),
  }
  for name, (image, expected) in cases.items():
    path = write(tmp_path / name, image, lossless=True)
    np.testing.assert_array_equal(images.read_image(path), expected, err_msg=name)
  cmyk = images.read_image(write(tmp_path / "cmyk.jpg", rgb.convert("CMYK"), quality=95))
  np.testing.assert_allclose(cmyk.astype(int), gradient(), atol=10)


def test_kinds_that_are_refused_by_name(tmp_path):
  rgb = Image.fromarray(gradient())
  transparent = rgb.convert("RGBA")
  transparent.putpixel((3, 4), (1, 2, 3, 254))
  palette = rgb.quantize(16)
  sixteen = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
  frames = {"save_all": True, "append_images": [Image.fromarray(gradient()[::-1])]}
  cases = [
    (write(tmp_path / "a.png", transparent), "transparent"),
    (write(tmp_path / "b.png", palette, transparency=0), "transparent"),
    (write(tmp_path / "c.webp", transparent, lossless=True, exact=True), "transparent"),
    (write(tmp_path / "d.png", sixteen), "16-bit"),
    (write(tmp_path / "e.png", rgb, **frames), "animated"),
    (write(tmp_path / "f.webp", rgb, **frames), "animated"),
    (write(tmp_path / "g.png", rgb, format="GIF"), "not a PNG, JPEG or WebP"),
  ]
  for path, reason in cases:
    for read in (images.read_image, lambda p: images.check_images([p])):
      with pytest.raises(InputError, match=reason) as error:
        read(path)
      assert path.name in str(error.value) and "\n" not in str(error.value)


def test_sixteen_bit_rgb_is_refused_though_pillow_would_cut_it(tmp_path):
  # Pillow writes no such file: a 1x1 image, built by hand.
  import struct
  import zlib

  def chunk(kind, data):
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

  header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
  data = chunk(b"IDAT", zlib.compress(b"\0" + b"\x12\x34" * 3))
  path = tmp_path / "deep.png"
  path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))
  for read in (images.read_image, images.image_size, lambda p: images.check_images([p])):
    with pytest.raises(InputError, match=r"deep\.png.*16-bit"):
      read(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("kept", [0.5, 0.9, 0.999])
def test_truncated(tmp_path, suffix, kept):
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
  path = write(tmp_path / f"cut.{suffix}", Image.fromarray(noise), quality=90)
  data = path.read_bytes()
  path.write_bytes(data[: int(kept * len(data))])
  with pytest.raises(InputError, match=r"cut\..*truncated"):
    images.check_images([path])
  if kept < 0.99:  # a decoder may do without the last bytes
    with pytest.raises(InputError, match=r"cut\."):
      images.read_image(path)


def test_header_cut_or_no_image(tmp_path):
  path = tmp_path / "bad.png"
  whole = write(tmp_path / "good.png", Image.fromarray(gradient())).read_bytes()
  for content in (b"", b"hello", b"<html>" * 100, whole[:10], whole[:30], b"\xff\xd8\xff"):
    path.write_bytes(content)
    for read in (images.read_image, images.image_size, lambda p: images.check_images([p])):
      with pytest.raises(InputError, match=r"bad\.png"):
        read(path)


def test_damaged_in_the_middle(tmp_path):
  path = write(tmp_path / "bad.png", Image.fromarray(gradient()))
  data = bytearray(path.read_bytes())
  data[60] ^= 0xFF
  path.write_bytes(data)
  with pytest.raises(InputError, match=r"bad\.png.*damaged"):
    images.read_image(path)


def test_jpeg_thumbnail_does_not_pass_for_the_end(tmp_path):
  exif = Image.Exif()
  exif[0x010E] = "\xff\xd9 as in a thumbnail"
  path = write(tmp_path / "a.jpg", Image.fromarray(gradient(200, 200)), exif=exif)
  assert images.check_images([path]) == [(200, 200)]
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  with pytest.raises(InputError, match="truncated"):
    images.check_images([path])


def test_exif_orientation(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # the camera was turned by 90 degrees
  path = write(tmp_path / "a.png", Image.fromarray(gradient()), exif=exif)
  np.testing.assert_array_equal(images.read_image(path), np.rot90(gradient(), -1))
  assert images.image_size(path) == (30, 20)


def test_listing(tmp_path):
  for name in ("b/2.PNG", "a.jpeg", "b/1.webp", "c.jpg"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    Image.fromarray(gradient()).save(tmp_path / name)
  for name in ("notes.txt", "._a.png", ".cache/x.png", "Thumbs.db"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("no image")
  (tmp_path / "b" / "loop").symlink_to(tmp_path)
  names = [str(path.relative_to(tmp_path)) for path in images.list_images(tmp_path)]
  assert names == ["a.jpeg", "b/1.webp", "b/2.PNG", "c.jpg"]


def test_bad_folders(tmp_path):
  with pytest.raises(InputError, match="no such folder"):
    images.list_images(tmp_path / "missing")
  (tmp_path / "file").write_text("x")
  with pytest.raises(InputError, match="not a folder"):
    images.list_images(tmp_path / "file")
  (tmp_path / "empty").mkdir()
  with pytest.raises(InputError, match="no image"):
    images.list_images(tmp_path / "empty")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path):
  folder = tmp_path / "closed"
  folder.mkdir(mode=0)
  with pytest.raises(InputError, match=r"closed.*cannot be read"):
    images.list_images(folder)


def test_missing_file_and_folder_as_file(tmp_path):
  for path in (tmp_path / "none.png", tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
      images.read_image(path)


def test_write_png(tmp_path):
  path = tmp_path / "new" / "a.png"
  images.write_png(path, gradient())
  np.testing.assert_array_equal(images.read_image(path), gradient())
  with pytest.raises(InputError, match="cannot be written"):
    images.write_png(path / "b.png", gradient())
  with pytest.raises(ValueError, match="uint8"):
    images.write_png(path, gradient() / 255)
