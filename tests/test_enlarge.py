"""Photographs of every kind, enlarged: by a tiny model, and by the small one of the repository."""

import functools
import pathlib

import jax
import numpy as np
import pytest
import safetensors
import tifffile  # of scikit-image
from PIL import Image, ImageCms

import srflow_jax
from models import random_params
from srflow_jax import checkpoints, enlarging
from srflow_jax.enlarging import Settings, enlarge_photographs
from srflow_jax.errors import InputError
from srflow_jax.evaluation import metrics
from srflow_jax.images import read_image
from srflow_jax.model.building import build_model
from srflow_jax.model.features import Given
from srflow_jax.ops.resize import bicubic_resize
from srflow_jax.photographs import Photograph, read_photograph, write_photograph
from srflow_jax.runs import ChosenTemperature, write_config, write_temperature
from srflow_jax.weights import files
from srflow_jax.weights.loading import load_model
from test_api import small_config

SCALE = 4
SIZE = 13, 17


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  config = small_config()
  params = random_params(build_model(config.model), dtype=np.float32)
  params = jax.tree.map(lambda leaf: 0.3 * leaf if leaf.ndim >= 4 else leaf, params)
  write_config(folder, config)
  with checkpoints.writer(folder, keep=1) as writer:
    writer.save(0, {"params": jax.tree.map(jax.numpy.asarray, params)})
  return folder


@pytest.fixture(scope="module", autouse=True)
def one_loading(workdir):
  """Programs are compiled once for all tests of this file."""
  run = checkpoints.load_run(workdir)
  sampler = enlarging.Sampler(run.model, run.params)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(enlarging, "load_model", lambda _: run)
    patch.setattr(enlarging, "Sampler", lambda *_: sampler)
    yield sampler


def colours(dtype=np.uint8, channels=3):
  coarse = np.random.default_rng(0).integers(0, 256, (2, 3, 4), dtype=np.uint8)
  levels = bicubic_resize(coarse, 8)[: SIZE[0], : SIZE[1], :channels]
  return levels if dtype == np.uint8 else levels.astype(np.uint16) * 256 + levels[::-1]


def half_transparent(levels):
  alpha = np.full((*SIZE, 1), np.iinfo(levels.dtype).max, levels.dtype)
  alpha[: SIZE[0] // 2] //= 3
  return alpha


def enlarge(paths, tmp_path, **settings):
  settings = {"num_samples": 2, "temperature": 0.5} | settings
  return enlarge_photographs(
    [paths] if isinstance(paths, pathlib.Path) else paths,
    "run",
    str(tmp_path / "out"),
    Settings(**settings),
  )


# What is read and written.


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transparent", [False, True])
def test_each_kind_is_written_and_read_again(dtype, channels, transparent, tmp_path):
  pixels = colours(dtype, channels)
  alpha = half_transparent(pixels) if transparent else None
  write_photograph(tmp_path / "a.png", Photograph(pixels, alpha))
  found = read_photograph(tmp_path / "a.png")
  np.testing.assert_array_equal(found.pixels, pixels)
  assert found.pixels.dtype == dtype and found.is_grey == (channels == 1)
  assert (found.alpha is None) != transparent
  if transparent:
    np.testing.assert_array_equal(found.alpha, alpha)
  # Pillow, which cuts colours of 16 bits to their high bytes, agrees.
  shown = np.asarray(Image.open(tmp_path / "a.png"))
  deep = shown.dtype == np.uint8 and dtype == np.uint16
  theirs = shown.reshape(*SIZE, -1)[..., :channels]
  np.testing.assert_array_equal(theirs, pixels >> 8 if deep else pixels)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_of_16_bits(order, compression, tmp_path):
  for channels, photometric in ((1, "minisblack"), (3, "rgb")):
    pixels = colours(np.uint16, channels)
    path = tmp_path / f"{channels}.tif"
    options = {"byteorder": order, "compression": compression, "photometric": photometric}
    tifffile.imwrite(path, pixels.squeeze(), **options)
    np.testing.assert_array_equal(read_photograph(path).pixels, pixels)


def test_kinds_of_8_bits(tmp_path):
  rgb = Image.fromarray(colours())
  grey = rgb.convert("L")
  cases = {
    "grey.png": (grey, {}, 1, False),
    "bilevel.png": (rgb.convert("1"), {}, 1, False),
    "palette.png": (rgb.quantize(16), {}, 3, False),
    "key.png": (rgb.quantize(16), {"transparency": 0}, 3, True),
    "grey_key.png": (grey, {"transparency": grey.getpixel((3, 3))}, 1, True),
    "opaque.png": (rgb.convert("RGBA"), {}, 3, False),
    "colours.jpg": (rgb, {}, 3, False),
    "ink.jpg": (rgb.convert("CMYK"), {}, 3, False),
  }
  for name, (image, options, channels, transparent) in cases.items():
    image.save(tmp_path / name, **options)
    found = read_photograph(tmp_path / name)
    assert found.pixels.shape == (*SIZE, channels), name
    assert (found.alpha is not None) == transparent, name


# What is made of them.


def test_samples_are_the_model_s(workdir, tmp_path):
  path = tmp_path / "photo.png"
  Image.fromarray(colours()).save(path)
  outcome = enlarge(path, tmp_path, seed=4)
  model = srflow_jax.load(workdir)
  expected = model.sample(colours(), 2, 0.5, seed=4)
  for index, sample in enumerate(expected):
    np.testing.assert_array_equal(read_image(tmp_path / f"out/photo_0{index}.png"), sample)
  assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
    "photo_00.png",
    "photo_01.png",
    "photo_sheet.png",
  ]
  assert outcome.finite and "17x13 to 68x52" in outcome.text and "photo_sheet.png" in outcome.text
  deep = colours().astype(np.uint16) * 257  # the same numbers in 16 bits
  write_photograph(tmp_path / "deep.png", Photograph(deep))
  enlarge(tmp_path / "deep.png", tmp_path, seed=4)
  found = read_photograph(tmp_path / "out/deep_01.png").pixels
  assert found.dtype == np.uint16
  np.testing.assert_allclose(found / 257, expected[1], atol=0.51)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_and_transparent_ones_keep_their_kind(dtype, tmp_path):
  grey = colours(dtype, 1)
  write_photograph(tmp_path / "grey.png", Photograph(grey, half_transparent(grey)))
  enlarge(tmp_path / "grey.png", tmp_path, num_samples=1)
  found = read_photograph(tmp_path / "out/grey_00.png")
  assert found.pixels.dtype == dtype and found.is_grey
  alpha = bicubic_resize(half_transparent(grey).astype(np.float64), SCALE)
  alpha = np.clip(alpha, 0, np.iinfo(dtype).max)
  np.testing.assert_allclose(found.alpha, alpha, atol=0.5001)
  write_photograph(tmp_path / "rgb.png", Photograph(np.repeat(grey, 3, -1)))
  enlarge(tmp_path / "rgb.png", tmp_path, num_samples=1)
  of_rgb = read_photograph(tmp_path / "out/rgb_00.png").pixels
  np.testing.assert_allclose(found.pixels[..., 0], of_rgb.mean(-1), atol=1.01)


def test_a_run_s_chosen_temperature_is_used_and_told(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "run").mkdir()
  write_temperature(tmp_path / "run", ChosenTemperature((0.0, 0.0), 40, 8, 4))
  write_photograph(tmp_path / "a.png", Photograph(colours()))
  enlarge(tmp_path / "a.png", tmp_path, use_chosen=True)
  assert "run: temperature 0/0, as a search chose it at step 40" in capsys.readouterr().out
  assert not (tmp_path / "out" / "a_01.png").exists()  # without noise, all would be equal
  enlarge(tmp_path / "a.png", tmp_path, overwrite=True)
  assert (tmp_path / "out" / "a_01.png").exists() and "search" not in capsys.readouterr().out
  write_temperature(tmp_path / "run", ChosenTemperature((0.5, 0.5, 0.5), 40, 8, 4))
  with pytest.raises(InputError, match="for 3 levels of latents: this model has 2"):
    enlarge(tmp_path / "a.png", tmp_path, use_chosen=True, overwrite=True)


@pytest.mark.parametrize("dtype, channels", [(np.uint8, 3), (np.uint16, 1)])
def test_consistent_samples_are_reduced_to_the_photograph(dtype, channels, tmp_path):
  pixels = colours(dtype, channels) // 2 + np.iinfo(dtype).max // 4  # away from black and white
  write_photograph(tmp_path / "a.png", Photograph(pixels))
  errors = {}
  for consistent in (False, True):
    enlarge(tmp_path / "a.png", tmp_path, consistent=consistent, overwrite=True)
    sample = read_photograph(tmp_path / "out" / "a_01.png")
    assert sample.pixels.dtype == dtype and sample.is_grey == (channels == 1)
    reduced = bicubic_resize(sample.pixels.astype(np.float64), 1 / SCALE)
    errors[consistent] = np.abs(reduced - pixels).max() * 255 / np.iinfo(dtype).max
  assert errors[True] < 0.75 and errors[False] > 2


def test_orientation_and_profile(tmp_path):
  profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned clockwise
  turned = Image.fromarray(np.rot90(colours()))
  turned.save(tmp_path / "turned.png", exif=exif, icc_profile=profile)
  Image.fromarray(colours()).save(tmp_path / "upright.png")
  enlarge([tmp_path / "turned.png", tmp_path / "upright.png"], tmp_path, temperature=0)
  images = [Image.open(tmp_path / f"out/{name}_00.png") for name in ("turned", "upright")]
  np.testing.assert_array_equal(*images)
  assert images[0].info["icc_profile"] == profile and "icc_profile" not in images[1].info
  assert not (tmp_path / "out/upright_01.png").exists()  # without noise all would be equal
  deep = Photograph(colours(np.uint16), None, profile)
  write_photograph(tmp_path / "deep.png", deep)
  assert read_photograph(tmp_path / "deep.png").profile == profile


def test_values_that_are_not_finite_or_exploded_are_named(
  tmp_path, monkeypatch, capsys, one_loading
):
  draw = one_loading.draw

  def broken(*arguments):
    for index, window, pixels in draw(*arguments):
      pixels = np.full_like(pixels, 0.5)
      pixels[0, 0] = (np.nan, 5, 0.5) if index == 1 else 0.5
      yield index, window, pixels

  monkeypatch.setattr(one_loading, "draw", broken)
  Image.fromarray(colours()).save(tmp_path / "a.png")
  outcome = enlarge(tmp_path / "a.png", tmp_path)
  said = capsys.readouterr().err
  assert "a_01.png has 1 values that are not finite" in said and "a_00" not in said
  assert "a_01.png has 1 values outside [-1, 2]" in said
  assert not outcome.finite and outcome.text.splitlines()[-1].startswith("error: ")
  np.testing.assert_array_equal(read_image(tmp_path / "out/a_01.png")[0, 0], (0, 255, 128))


# Mistakes.


def a_photo(folder, name="a.png"):
  (folder / name).parent.mkdir(exist_ok=True)
  Image.fromarray(colours()).save(folder / name)
  return folder / name


def truncated(folder, name="a.png", end=40):
  path = a_photo(folder, name)
  path.write_bytes(path.read_bytes()[:end])
  return path


def whole_and_cut(name):
  return lambda folder: [a_photo(folder), truncated(folder, f"cut{name}", -30)]


def text(folder):
  (folder / "t.png").write_text("x")
  return folder / "t.png"


def float_tiff(folder):
  Image.fromarray(np.zeros((9, 9), np.float32)).save(folder / "f.tif")
  return folder / "f.tif"


def there_already(folder):
  a_photo(folder, "out/a_01.png")
  return a_photo(folder)


MISTAKES = {
  "none": (lambda f: [], {}, "name the photographs"),
  "missing": (lambda f: f / "no.png", {}, r"no\.png: cannot be read: No such file"),
  "folder": (lambda f: f, {}, r"is a folder: name the photographs in it, as .*\*\.jpg"),
  "text": (text, {}, "t.png: not a PNG"),
  "damaged": (truncated, {}, r"a\.png"),
  "cut": (whole_and_cut(".png"), {}, r"cut\.png: the image is truncated"),
  "cut JPEG": (whole_and_cut(".jpg"), {}, r"cut\.jpg: the image is truncated"),
  "cut TIFF": (whole_and_cut(".tif"), {}, r"cut\.tif: the image is damaged or truncated"),
  "floats": (float_tiff, {}, r"f\.tif: 32-bit images"),
  "twice": (lambda f: [a_photo(f), a_photo(f, "b/a.png")], {}, "under one name"),
  "there": (there_already, {}, r"out/a_01\.png is there already: give another --out"),
  "itself": (lambda f: [a_photo(f, "out/a.png"), a_photo(f, "out/a_00.png")],
             {"overwrite": True}, r"a_00\.png is a photograph that would be overwritten"),
  "scale": (a_photo, {"scale": 3}, "scale is 3: run enlarges by 4"),
  "samples": (a_photo, {"num_samples": 0}, "num_samples is 0"),
  "many samples": (a_photo, {"num_samples": 10**8}, "num_samples is 100000000"),
  "temperature": (a_photo, {"temperature": -1.0}, "temperature is -1"),
  "name": (lambda f: a_photo(f, "x" * 248 + ".png"), {}, "too long a name"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_before_anything_is_written(name, tmp_path):
  make, settings, message = MISTAKES[name]
  paths = make(tmp_path)
  before = sorted(tmp_path.rglob("*.png"))
  with pytest.raises(InputError, match=message) as error:
    enlarge(paths, tmp_path, **settings)
  assert "\n" not in str(error.value) and sorted(tmp_path.rglob("*.png")) == before


def test_damage_that_shows_when_decoded_takes_back_nothing_that_was_told(tmp_path, capsys):
  whole, damaged = a_photo(tmp_path), a_photo(tmp_path, "b.png")
  content = bytearray(damaged.read_bytes())
  content[content.index(b"IDAT") + 20] ^= 0xFF
  damaged.write_bytes(content)
  with pytest.raises(InputError, match=r"b\.png: the image is damaged"):
    enlarge([whole, damaged], tmp_path)
  assert capsys.readouterr().out.startswith(f"{whole}: 17x13 to 68x52, ")


@pytest.mark.parametrize("out", ["", "out"])
def test_no_folder_is_made_or_taken_by_mistake(out, tmp_path, monkeypatch):
  photograph = a_photo(tmp_path)
  monkeypatch.chdir(tmp_path)
  before = sorted(tmp_path.rglob("*"))
  wrong = Settings(scale=None if not out else 3)
  with pytest.raises(InputError, match="scale is 3" if out else "--out= names no folder"):
    enlarge_photographs([photograph], "run", out, wrong)
  assert sorted(tmp_path.rglob("*")) == before


def test_what_is_there_is_replaced_if_that_is_asked_for(tmp_path):
  path = a_photo(tmp_path)
  enlarge(path, tmp_path)
  enlarge(path, tmp_path, seed=1, overwrite=True)


# The models of the repository.


def test_the_small_model_beats_bicubic(golden_metrics):
  """LPIPS of a sample of a crop of a photograph: 0.419, bicubic's 0.662."""
  hr = golden_metrics[0]["gt"]
  lr = bicubic_resize(hr, 1 / SCALE)
  run = load_model("x4_small")
  sr = jax.jit(functools.partial(run.model.apply, method="sample"))(
    {"params": run.params}, jax.random.key(0), Given((lr[None] / 255).astype(np.float32)), 0.7
  )
  ours = metrics.to_uint8(np.asarray(sr).reshape(1, *hr.shape))
  theirs = bicubic_resize(lr, SCALE)[None]
  assert metrics.lpips_scores(ours, hr).mean < 0.7 * metrics.lpips_scores(theirs, hr).mean
  assert (
    np.abs(bicubic_resize(ours[0], 1 / SCALE).astype(float) - lr).mean() < 1
  )  # 0.65 grey levels


@pytest.mark.parametrize("name", ["x4_realsr", "x4_small"])
def test_shipped_files_say_whose_they_are(name):
  (path,) = files.paths(name)
  with safetensors.safe_open(path, "numpy") as file:
    facts = file.metadata()
    assert {file.get_tensor(key).dtype for key in file.keys()} == {np.dtype(np.float16)}
    has_encoder = any(key.startswith("encoder/") for key in file.keys())
  assert "CC BY-SA 4.0" in facts["licence"] and "CC0" in facts["origin"]
  assert has_encoder != (facts.get("encoder") == "realsr")
  assert path.stat().st_size < {"x4_realsr": 12_000_000, "x4_small": 8_000_000}[name]
