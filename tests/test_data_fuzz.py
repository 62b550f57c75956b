"""Random damage to archives, images and data sets: a clear line or a right result, and soon.

Seeded, so that a failure comes again. Each case is tried in this process with a time limit.
"""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from srflow_jax import images
from srflow_jax.data.archives import hr_images
from srflow_jax.data.plan import SplitInputs
from srflow_jax.data.prepare import prepare
from srflow_jax.data.records import RecordSource
from srflow_jax.data.whole_images import whole_images
from srflow_jax.errors import InputError
from test_data_archives import png, tarred, zipped
from test_images import exif_of, gradient
from time_limits import time_limit

pytestmark = pytest.mark.slow

SECONDS = 20  # a case takes milliseconds; this is a hang


def tree(folder):
  """All files below, with their sizes."""
  return {path: path.lstat().st_size for path in folder.rglob("*")}


def outcome(function, path, counts):
  """Counts whether `function(path)` is clear or right; anything else fails the test."""
  before = tree(path.parent)
  try:
    with time_limit(SECONDS):
      function(path)
    counts["right"] += 1
  except InputError as error:
    assert str(path) in str(error) and "\n" not in str(error), str(error)
    str(error).encode()
    counts["clear"] += 1
  assert tree(path.parent) == before


def damaged(content, rng):
  """Some bytes flipped, cut out, doubled or overwritten."""
  content = bytearray(content)
  for _ in range(rng.integers(1, 4)):
    start = int(rng.integers(len(content)))
    size = int(min(rng.integers(1, 60), len(content) - start))
    match rng.integers(5):
      case 0:
        content[start] ^= 1 << int(rng.integers(8))
      case 1:
        del content[start : start + size]
      case 2:
        content[start:start] = content[start : start + size]
      case 3:
        content[start : start + size] = rng.bytes(size)
      case 4:
        del content[start + 1 :]
  return bytes(content)


def image_bytes(suffix, tmp_path):
  path = tmp_path / f"original.{suffix}"
  Image.fromarray(gradient(24, 30)).save(path, exif=exif_of(6))
  return path.read_bytes()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "gif"])
def test_images(tmp_path, suffix):
  rng, counts = np.random.default_rng(1), {"clear": 0, "right": 0}
  content = image_bytes(suffix, tmp_path)
  path = tmp_path / f"x.{suffix}"

  def use(path):
    (size,) = images.check_images([path])
    picture = images.read_picture(path, size)
    assert picture.pixels.shape == (*size, 3) and picture.pixels.dtype == np.uint8

  for _ in range(400):
    path.write_bytes(damaged(content, rng))
    outcome(use, path, counts)
  print(suffix, counts)
  assert counts["clear"] > 50


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_archives(tmp_path, suffix):
  rng, counts = np.random.default_rng(2), {"clear": 0, "right": 0}
  names = ("a/1.png", "a/2.png")
  if suffix == "zip":
    zipped(*((name, png(), 0) for name in names))(tmp_path / "original.zip")
  else:
    tarred(*((name, png(), b"0") for name in names))(tmp_path / "original.tar")
  content = (tmp_path / f"original.{suffix}").read_bytes()

  def use(path):
    for image in hr_images([str(path)]).values():
      image.read(image.size())

  for number in range(400):
    path = tmp_path / f"{number}.{suffix}"  # opened archives are kept by name
    path.write_bytes(damaged(content, rng))
    outcome(use, path, counts)
    path.unlink()
  print(suffix, counts)
  assert counts["clear"] > 50


VALUES = (
  None,
  True,
  -1,
  0,
  1,
  2**70,
  1e308,
  "",
  "x",
  "../x",
  "/",
  [],
  {},
  [[]],
  {"a": 1},
  "\ud800",
)


def places(content):
  """Every (container, key) of a JSON value."""
  if isinstance(content, dict | list):
    for key in content if isinstance(content, dict) else range(len(content)):
      yield content, key
      yield from places(content[key])


@pytest.mark.parametrize("name", ["metadata.json", "dataset_info.json", "features.json"])
def test_descriptions_of_sets(tmp_path, name):
  rng, counts = np.random.default_rng(3), {"clear": 0, "right": 0}
  images.write_png(tmp_path / "photos/a.png", gradient(40, 40))
  inputs = {"train": SplitInputs([str(tmp_path / "photos")])}
  prepare(tmp_path / "set", inputs, [4], 16, 0, 1)
  content = (tmp_path / "set" / name).read_bytes()

  def use(path):
    source = RecordSource(path, "train", 4, 16, 0)
    for index in range(len(source)):
      assert source[index].lr.shape == (4, 4, 3)
    for image in whole_images(path, 4):
      image.read()

  for number in range(300):
    folder = shutil.copytree(tmp_path / "set", tmp_path / f"case/{number}/set")
    if number % 2:
      (folder / name).write_bytes(damaged(content, rng))
    else:
      changed = json.loads(content)
      found = list(places(changed))
      container, key = found[rng.integers(len(found))]
      if rng.integers(4):
        container[key] = VALUES[rng.integers(len(VALUES))]
      else:
        del container[key]
      (folder / name).write_text(json.dumps(changed))
    outcome(use, folder, counts)
    shutil.rmtree(folder)
  print(name, counts)
  assert counts["clear"] > 50


def test_shards_of_sets(tmp_path):
  rng, counts = np.random.default_rng(4), {"clear": 0, "right": 0}
  images.write_png(tmp_path / "photos/a.png", gradient(40, 40))
  inputs = {"train": SplitInputs([str(tmp_path / "photos")])}
  prepare(tmp_path / "set", inputs, [4], 16, 0, 1)
  (shard,) = (tmp_path / "set").glob("*.array_record*")
  content = shard.read_bytes()
  used = np.flatnonzero(np.frombuffer(content, np.uint8))  # the rest is padding

  def use(path):
    source = RecordSource(path, "train", 4, 16, 0)
    for index in range(len(source)):
      source[index]

  for _ in range(300):
    bytes_ = bytearray(content)
    bytes_[rng.choice(used)] ^= 1 << int(rng.integers(8))
    shard.write_bytes(bytes_)
    outcome(use, tmp_path / "set", counts)
  print("shard", counts)
  assert counts["clear"] > 50
