import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from srflow_jax import images, listing
from srflow_jax.errors import InputError


def gradient(height=20, width=30):
  """A smooth image that JPEG keeps nearly unchanged."""
  ramps = np.linspace(20, 230, width), np.linspace(40, 200, height)[:, None], 128
  return np.stack(np.broadcast_arrays(*ramps), -1).astype(np.uint8)


def write(path, image, **options):
  image.save(path, **options)
  return path


@pytest.mark.parametrize(
  "suffix, tolerance",
  [
    ("png", 0),
    ("jpg", 8),
    ("JPEG", 8),
    ("webp", 8),
    ("bmp", 0),
    ("tif", 0),
    ("TIFF", 0),
    ("gif", 40),
  ],
)
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
    (write(tmp_path / "g.png", rgb, format="TGA"), "not a PNG, JPEG or WebP"),
    (write(tmp_path / "h.tif", sixteen), "16-bit"),
    (write(tmp_path / "i.tif", Image.fromarray(np.zeros((9, 9), np.float32))), "32-bit"),
    (write(tmp_path / "j.tif", rgb, **frames), "several pages"),
    (write(tmp_path / "k.gif", rgb, **frames), "animated"),
    (write(tmp_path / "l.gif", palette, transparency=0), "transparent"),
  ]
  for path, reason in cases:
    for read in (images.read_image, lambda p: images.check_images([p])):
      with pytest.raises(InputError, match=reason) as error:
        read(path)
      assert path.name in str(error.value) and "\n" not in str(error.value)


def test_sixteen_bit_rgb_is_refused_though_pillow_would_cut_it(tmp_path):
  # Pillow writes no such file: a 1x1 image, built by hand.
  header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
  data = chunk(b"IDAT", zlib.compress(b"\0" + b"\x12\x34" * 3))
  path = tmp_path / "deep.png"
  path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))
  for read in (images.read_image, images.image_size, lambda p: images.check_images([p])):
    with pytest.raises(InputError, match=r"deep\.png.*16-bit"):
      read(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "gif"])
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


def exif_of(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  return exif


def chunk(kind, data):
  return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_late_chunk(path, kind, data):
  """A PNG with a chunk between its pixels and its end, where Pillow writes none."""
  Image.fromarray(gradient()).save(path)
  content = path.read_bytes()
  path.write_bytes(content[:-12] + chunk(kind, data) + content[-12:])
  return path


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def late_exif(path, orientation):
  with_late_chunk(path, b"eXIf", exif_of(orientation).tobytes()[6:])


def late_raw_profile(path, orientation):
  data = exif_of(orientation).tobytes().hex()
  text = f"\nexif\n{len(data) // 2:8}\n{data}\n".encode()
  with_late_chunk(path, b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))


def late_xmp(path, orientation):
  with_late_chunk(path, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % orientation)


def by_pillow(path, orientation):
  Image.fromarray(gradient()).save(path, exif=exif_of(orientation), quality=95, lossless=True)


def early_xmp(path, orientation):
  info = PngImagePlugin.PngInfo()
  info.add_itxt("XML:com.adobe.xmp", (XMP % orientation).decode())
  Image.fromarray(gradient()).save(path, pnginfo=info)


@pytest.mark.parametrize(
  "name, make",
  [
    ("a.png", by_pillow),
    ("a.png", early_xmp),
    ("a.png", late_exif),
    ("a.png", late_raw_profile),
    ("a.png", late_xmp),
    ("a.jpg", by_pillow),
    ("a.webp", by_pillow),
    ("a.tif", by_pillow),
  ],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_turns_size_and_pixels_alike(tmp_path, name, make, orientation):
  path = tmp_path / name
  make(path, orientation)
  upright = gradient()[:, ::-1] if orientation in (2, 4, 5, 7) else gradient()
  turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
  upright = np.rot90(upright, turns)
  np.testing.assert_allclose(images.read_image(path).astype(int), upright, atol=8)
  for size in (images.image_size(path), *images.check_images([path])):
    assert size == upright.shape[:2]
  images.read_image(path, upright.shape[:2])
  np.testing.assert_allclose(
    images.to_rgb(Image.open(path), "an image").astype(int), upright, atol=8
  )


def test_an_image_that_changed_since_it_was_checked(tmp_path):
  path = write(tmp_path / "a.png", Image.fromarray(gradient()))
  (size,) = images.check_images([path])
  write(path, Image.fromarray(gradient()[:7]))
  with pytest.raises(InputError) as caught:
    images.read_image(path, size)
  assert str(caught.value) == (
    f"{path}: 30x7 pixels, but 30x20 when it was checked: it has changed since"
  )


def test_profiles_of_rgb_images_are_carried(tmp_path):
  srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  grey = srgb[:16] + b"GRAY" + srgb[20:]
  cases = [
    ("a.png", {"icc_profile": srgb}, srgb),
    ("a.jpg", {"icc_profile": srgb}, srgb),
    ("a.webp", {"icc_profile": srgb}, srgb),
    ("a.tif", {"icc_profile": srgb}, srgb),
    ("b.png", {}, None),
    ("c.png", {"icc_profile": grey}, None),
    ("d.png", {"icc_profile": b"no profile"}, None),
  ]
  for name, options, profile in cases:
    picture = images.read_picture(write(tmp_path / name, Image.fromarray(gradient()), **options))
    assert picture.profile == profile, name
    images.write_png(tmp_path / "out.png", picture.pixels, picture.profile)
    again = images.read_picture(tmp_path / "out.png")
    assert again.profile == profile, name
    np.testing.assert_array_equal(again.pixels, picture.pixels)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (2, 300)])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "gif"])
def test_thin_images_are_read(tmp_path, size, suffix):
  path = write(tmp_path / f"a.{suffix}", Image.fromarray(gradient(*size)))
  assert images.check_images([path]) == [size] == [images.read_image(path).shape[:2]]


def test_what_was_written_is_read_beyond_pillows_limit(tmp_path, monkeypatch):
  images.write_png(tmp_path / "a.png", gradient())
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
  with pytest.raises(InputError, match=r"a\.png: more than 200 pixels"):
    images.read_image(tmp_path / "a.png")
  np.testing.assert_array_equal(images.read_written_png(tmp_path / "a.png"), gradient())
  (tmp_path / "a.png").write_bytes(b"\x89PNG")
  with pytest.raises(InputError, match=r"a\.png: the image is damaged"):
    images.read_written_png(tmp_path / "a.png")


def test_pil_images_are_refused_like_files():
  for mode, line in (("I;16", "PIL I;16 images"), ("F", "PIL F images")):
    with pytest.raises(InputError, match=f"lr: {line}"):
      images.to_rgb(Image.new(mode, (4, 4)), "lr")
  with pytest.raises(InputError, match="lr: the image has transparent pixels"):
    images.to_rgb(Image.new("RGBA", (4, 4)), "lr")


def touch(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(gradient()).save(folder / name)


def listed(folder, **options):
  return [str(path.relative_to(folder)) for path in listing.list_images(folder, **options)]


def test_listing(tmp_path):
  touch(tmp_path, "b/2.PNG", "a.jpeg", "b/1.webp", "c.jpg", "d.bmp", "e.tif", "f.TIFF", "g.gif")
  touch(tmp_path, "folder.png/x.png")
  for name in ("notes.txt", "._a.png", ".cache/x.png", "Thumbs.db", "@eaDir/a.jpeg/S.jpg"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("no image")
  (tmp_path / "b" / "loop").symlink_to(tmp_path)
  images = ["a.jpeg", "b/1.webp", "b/2.PNG", "c.jpg", "d.bmp", "e.tif", "f.TIFF"]
  assert listed(tmp_path) == [*images, "folder.png/x.png", "g.gif"]


def test_what_this_project_wrote_into_the_folder_is_left_out(tmp_path):
  touch(tmp_path, "a.png", "run/evaluation/samples/m/a_00.png", "out/new/samples/a_00.png")
  touch(tmp_path, "done/samples/a_00.png", "done/sheets/a.png", "cut/samples/a_00.png")
  (tmp_path / "run/checkpoints").mkdir()
  for name in ("run/config.json", "done/summary.json", "cut/progress.jsonl"):
    (tmp_path / name).touch()
  assert listed(tmp_path) == ["a.png", "out/new/samples/a_00.png"]
  assert listed(tmp_path, leave_out=[tmp_path / "out/../out/new"]) == ["a.png"]
  assert listed(tmp_path, leave_out=[tmp_path / "none"]) == ["a.png", "out/new/samples/a_00.png"]
  # Who names such a folder means it.
  assert listed(tmp_path / "run", leave_out=[tmp_path / "run"]) == ["evaluation/samples/m/a_00.png"]


@pytest.mark.parametrize(
  "make, line",
  [
    (os.mkfifo, "x.png: cannot be read: not a regular file"),
    (lambda path: path.symlink_to("/dev/zero"), "x.png: cannot be read: not a regular file"),
    (lambda path: path.symlink_to("none"), "x.png: cannot be read: No such file or directory"),
    (lambda path: path.symlink_to("x.png"), "x.png: cannot be read: Too many levels of symbolic"),
    (
      lambda path: path.with_name(os.fsdecode(b"\xe9.png")).touch(),
      r"\xe9.png: the name is not UTF-8; rename it",
    ),
    (
      lambda path: path.with_name("a\nb.png").touch(),
      r"a\nb.png: the name has a control character; rename it",
    ),
    (
      lambda path: touch(path.parent, os.fsdecode(b"\xff") + "/x.png"),
      r"\xff/x.png: the name is not UTF-8; rename it",
    ),
  ],
)
def test_what_only_looks_like_an_image_is_refused_before_it_is_opened(tmp_path, make, line):
  make(tmp_path / "x.png")
  with pytest.raises(InputError) as caught:
    listing.list_images(tmp_path)
  assert str(caught.value).startswith(f"{tmp_path}/{line}")
  assert "\n" not in str(caught.value)
  str(caught.value).encode()


@pytest.mark.parametrize("read", [images.read_image, lambda path: images.check_images([path])])
def test_a_fifo_and_a_device_are_refused_at_once(tmp_path, read):
  os.mkfifo(tmp_path / "x.png")
  for path in (tmp_path / "x.png", "/dev/zero"):
    with pytest.raises(InputError, match="cannot be read: not a regular file"):
      read(path)


def test_bad_folders(tmp_path):
  with pytest.raises(InputError, match="no such folder"):
    listing.list_images(tmp_path / "missing")
  (tmp_path / "file").write_text("x")
  with pytest.raises(InputError, match="not a folder"):
    listing.list_images(tmp_path / "file")
  (tmp_path / "empty").mkdir()
  with pytest.raises(InputError, match="no image"):
    listing.list_images(tmp_path / "empty")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path):
  folder = tmp_path / "closed"
  folder.mkdir(mode=0)
  with pytest.raises(InputError, match=r"closed.*cannot be read"):
    listing.list_images(folder)


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


def test_a_large_image_is_no_warning_without_a_name(tmp_path):
  side = int(1.1 * Image.MAX_IMAGE_PIXELS**0.5)
  path = write(tmp_path / "large.png", Image.new("1", (side, side)))
  program = "import sys; from srflow_jax import images; print(images.image_size(sys.argv[1]))"
  command = [sys.executable, "-c", program, str(path)]
  said = subprocess.run(command, capture_output=True, text=True, check=True)
  assert said.stdout == f"({side}, {side})\n" and not said.stderr
