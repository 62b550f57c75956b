import contextlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import ml_collections
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from srflow_jax.data import make_train_iterator, validation_batches
from srflow_jax.data.plan import SplitInputs
from srflow_jax.data.prepare import prepare
from srflow_jax.data.tiles import TileGrid
from srflow_jax.data.verify import verify
from srflow_jax.errors import InputError
from srflow_jax.images import read_image, write_png
from srflow_jax.ops.resize import bicubic_resize

ROOT = pathlib.Path(__file__).resolve().parents[1]


def png(image):
  file = io.BytesIO()
  Image.fromarray(image).save(file, format="PNG", compress_level=1)
  return file.getvalue()


def write_zip(path, members):
  with zipfile.ZipFile(path, "w") as archive:
    for name, content in members.items():
      archive.writestr(name, content)
  return str(path)


def noise(seed, height=72, width=100):
  return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def div2k(tmp_path):
  """The published archives with small images; LR is no bicubic, so that it is known again."""
  paths = {}
  for split, numbers in (("train", range(1, 4)), ("valid", range(801, 803))):
    hr = {number: noise(number) for number in numbers}
    paths[f"{split}_hr"] = write_zip(
      tmp_path / f"DIV2K_{split}_HR.zip",
      {f"DIV2K_{split}_HR/": b""}
      | {f"DIV2K_{split}_HR/{number:04d}.png": png(image) for number, image in hr.items()},
    )
    paths[f"{split}_lr"] = write_zip(
      tmp_path / f"DIV2K_{split}_LR_bicubic_X4.zip",
      {
        f"DIV2K_{split}_LR_bicubic/X4/{number:04d}x4.png": png(image[::4, ::4])
        for number, image in hr.items()
      },
    )
  return paths


def records(folder, split="train"):
  return list(tfds.builder_from_directory(folder).as_data_source(split))


def train_config(folder, **changes):
  fields = dict(
    train_dir=str(folder),
    val_dir="",
    hr_patch=32,
    batch_size=4,
    flips=True,
    rotations=False,
    num_workers=0,
    cache_mb=64,
    val_patches=4,
  )
  return ml_collections.ConfigDict(fields | changes)


def test_tiles_cover_the_image_with_as_few_as_can_be_on_whole_lr_pixels():
  for scales, tile, overlap in (((4,), 64, 0), ((2, 3), 48, 12), ((2, 4, 8), 64, 32)):
    grid = TileGrid(scales, tile, overlap)
    for size in range(grid.unit, 400, 7):
      corners, side = grid.corners(size), grid.side(size)
      assert corners[0] == 0 and corners[-1] + side == size // grid.unit * grid.unit
      assert all(corner % grid.unit == 0 for corner in corners)
      steps = np.diff(corners)
      assert np.all((steps > 0) & (steps <= side - overlap))
      if len(corners) > 1:  # one tile fewer would leave a gap
        assert (len(corners) - 2) * (tile - overlap) + tile < size // grid.unit * grid.unit


def test_photographs_become_tiles_of_their_own_pixels(shared, tmp_path):
  sources = tmp_path / "photos"
  for name in ("bridge", "wine"):
    write_png(sources / "album" / f"{name}.png", read_image(shared / f"photos/{name}.png"))
  metadata = prepare(tmp_path / "set", {"train": SplitInputs([str(sources)])}, [2, 3, 4], tile=240)
  found = {"bridge": 0, "wine": 0}
  images = {name: read_image(shared / f"photos/{name}.png") for name in found}
  lr = {(n, s): bicubic_resize(image, 1 / s) for n, image in images.items() for s in (2, 3, 4)}
  for record in records(tmp_path / "set"):
    name, top, left = record["name"].decode(), record["top"], record["left"]
    found[name] += 1
    for key, whole, scale in [("hr", images[name], 1)] + [
      (f"lr_x{scale}", lr[name, scale], scale) for scale in (2, 3, 4)
    ]:
      y, x, side = top // scale, left // scale, 240 // scale
      np.testing.assert_array_equal(record[key], whole[y : y + side, x : x + side])
  assert found == {info["name"]: info["tiles"] for info in metadata["images"]["train"]}
  assert metadata["images"]["train"][0]["sources"] == {"hr": "photos/album/bridge.png"}
  assert metadata["images"]["train"][0]["size"] == list(images["bridge"].shape[:2])
  assert verify(tmp_path / "set", num_workers=1)["digest"] == metadata["digest"]


def test_published_archives_give_both_splits_with_their_own_lr(div2k, tmp_path):
  splits = {
    "train": SplitInputs([div2k["train_hr"]], [div2k["train_lr"]]),
    "validation": SplitInputs([div2k["valid_hr"]], [div2k["valid_lr"]]),
  }
  metadata = prepare(tmp_path / "set", splits, [4], tile=64, num_workers=1)
  assert [i["name"] for i in metadata["images"]["train"]] == ["0001", "0002", "0003"]
  assert metadata["images"]["validation"][1]["sources"] == {
    "hr": "DIV2K_valid_HR.zip/DIV2K_valid_HR/0802.png",
    "lr_x4": "DIV2K_valid_LR_bicubic_X4.zip/DIV2K_valid_LR_bicubic/X4/0802x4.png",
  }
  for split in ("train", "validation"):
    for record in records(tmp_path / "set", split):
      np.testing.assert_array_equal(record["lr_x4"], record["hr"][::4, ::4])
  (batch,) = validation_batches(train_config(tmp_path / "set"), 4)  # its own validation split
  np.testing.assert_array_equal(batch["lr"], batch["hr"][:, ::4, ::4])
  batch = next(make_train_iterator(train_config(tmp_path / "set"), 4, 0))
  assert batch["hr"].shape == (4, 32, 32, 3)


def test_flickr2k_tar_yields_its_hr_folder_and_its_lr_folders(tmp_path):
  image = noise(0)
  path = tmp_path / "Flickr2K.tar"
  with tarfile.open(path, "w") as archive:
    for name, content in {
      "Flickr2K/Flickr2K_HR/000001.png": png(image),
      "Flickr2K/Flickr2K_LR_bicubic/X2/000001x2.png": png(image[::2, ::2]),
      "Flickr2K/Flickr2K_LR_bicubic/X4/000001x4.png": png(image[::4, ::4]),
      "Flickr2K/._junk.png": b"",
    }.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  inputs = SplitInputs([str(path)], [str(path)])
  metadata = prepare(tmp_path / "set", {"train": inputs}, [2, 4], tile=72, num_workers=1)
  assert [info["name"] for info in metadata["images"]["train"]] == ["000001"]
  for record in records(tmp_path / "set"):
    for scale in (2, 4):
      np.testing.assert_array_equal(record[f"lr_x{scale}"], record["hr"][::scale, ::scale])


def test_patches_of_a_set_are_patches_of_its_images(div2k, tmp_path):
  prepare(tmp_path / "set", {"train": SplitInputs([div2k["train_hr"]])}, [4], 64, 0, 1)
  images = [noise(number) for number in (1, 2, 3)]
  iterator = make_train_iterator(train_config(tmp_path / "set", flips=False), 4, 0)
  for patch_hr, patch_lr in zip(*next(iterator).values(), strict=True):
    windows = [
      (image, y, x)
      for image in images
      for y in range(0, 41, 4)
      for x in range(0, 69, 4)
      if np.array_equal(image[y : y + 32, x : x + 32], patch_hr)
    ]
    assert len(windows) == 1
    image, y, x = windows[0]
    whole = bicubic_resize(image, 1 / 4)[y // 4 : y // 4 + 8, x // 4 : x // 4 + 8]
    np.testing.assert_array_equal(patch_lr, whole)


@pytest.mark.slow
def test_order_from_a_set_is_equal_for_any_workers_and_after_a_restart(div2k, tmp_path):
  prepare(tmp_path / "set", {"train": SplitInputs([div2k["train_hr"]])}, [4], 64, 0, 1)
  iterator = make_train_iterator(train_config(tmp_path / "set"), 4, 3)
  reference = [next(iterator) for _ in range(6)]
  for workers in (1, 2):
    iterator = make_train_iterator(train_config(tmp_path / "set", num_workers=workers), 4, 3, 2)
    for expected in reference[2:]:
      batch = next(iterator)
      np.testing.assert_array_equal(batch["hr"], expected["hr"])
      np.testing.assert_array_equal(batch["lr"], expected["lr"])
    iterator.close()


def test_the_same_command_again_reuses_and_another_is_refused(div2k, tmp_path):
  inputs = {"train": SplitInputs([div2k["train_hr"]])}
  first = prepare(tmp_path / "set", inputs, [4], 64, 0, 1)
  shard = next((tmp_path / "set").glob("*.array_record*"))
  before = shard.stat().st_mtime_ns
  assert prepare(tmp_path / "set", inputs, [4], 64, 0, 1) == first
  assert shard.stat().st_mtime_ns == before
  with pytest.raises(InputError, match="set: is there already, prepared from other files or with"):
    prepare(tmp_path / "set", inputs, [2], 64, 0, 1)


def test_a_failed_preparation_keeps_what_is_whole_and_goes_on(tmp_path):
  for number in range(20):  # three shards
    write_png(tmp_path / f"photos/{number:02d}.png", noise(number))
  inputs = {"train": SplitInputs([str(tmp_path / "photos")])}
  reference = prepare(tmp_path / "reference", inputs, [4], 64, 0, 1)
  good = (tmp_path / "photos/17.png").read_bytes()
  bad = bytearray(good)
  bad[len(bad) // 2] ^= 0xFF
  (tmp_path / "photos/17.png").write_bytes(bad)
  with pytest.raises(InputError, match=r"photos/17\.png: "):
    prepare(tmp_path / "set", inputs, [4], 64, 0, 1)
  work = tmp_path / "set.incomplete"
  whole = sorted(work.glob("*.array_record*"))
  assert not (tmp_path / "set").exists() and len(whole) == 2
  for path in (tmp_path / "set", work):
    with pytest.raises(InputError, match=f"{path}: only begun"):
      make_train_iterator(train_config(path), 4, 0)
  (tmp_path / "photos/17.png").write_bytes(good)
  times = [path.stat().st_mtime_ns for path in whole]
  names = [path.name for path in whole]
  assert prepare(tmp_path / "set", inputs, [4], 64, 0, 1)["digest"] == reference["digest"]
  assert [(tmp_path / "set" / name).stat().st_mtime_ns for name in names] == times
  assert not work.exists() and not (tmp_path / "set/progress").exists()


@pytest.mark.parametrize(
  "place, begun",
  [("metadata.json", False), ("a.png", True), ("progress/a.png", True), ("photos/a.png", True)],
)
@pytest.mark.parametrize("gives_it", [False, True])
def test_what_no_preparation_has_written_is_not_removed(place, begun, gives_it, tmp_path):
  own = tmp_path / "set.incomplete" / place
  write_png(own, noise(0))
  if begun:
    (tmp_path / "set.incomplete/progress").mkdir(exist_ok=True)
  write_png(tmp_path / "photos/a.png", noise(1))
  folder = own.parent if gives_it else tmp_path / "photos"
  before = own.read_bytes()
  with pytest.raises(InputError, match=r"set\.incomplete/.*: no preparation has written it"):
    prepare(tmp_path / "set", {"train": SplitInputs([str(folder)])}, [4], 64, 0, 1)
  assert own.read_bytes() == before


def test_what_a_killed_preparation_has_left_is_removed(tmp_path):
  write_png(tmp_path / "photos/a.png", noise(1))
  work = tmp_path / "set.incomplete"
  shard = "super_resolution_tiles-train.array_record-00001-of-00009"
  left = [f"{shard}.part", shard, "features.json", f"progress/{shard}.json", "progress/.1f.partial"]
  (work / "progress").mkdir(parents=True)
  for name in left:
    (work / name).write_text("half")
  prepare(tmp_path / "set", {"train": SplitInputs([str(tmp_path / "photos")])}, [4], 64, 0, 1)
  names = {path.name for path in (tmp_path / "set").iterdir()}
  assert names == {
    "super_resolution_tiles-train.array_record-00000-of-00001",
    "features.json",
    "dataset_info.json",
    "metadata.json",
  }


def command(*arguments):
  return [sys.executable, str(ROOT / "prepare_data.py"), *arguments]


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks the workers up in /proc")
def test_killed_preparation_leaves_no_worker_and_is_completed_by_the_same_command(tmp_path):
  photos = tmp_path / "photos"
  for number in range(32):
    write_png(photos / f"{number:02d}.png", noise(number, 400, 400))
  arguments = command(f"--out={tmp_path / 'set'}", f"--train_hr={photos}", "--tile=64")
  process = subprocess.Popen([*arguments, "--num_workers=2"], stderr=subprocess.DEVNULL)
  progress = tmp_path / "set.incomplete/progress"
  while not list(progress.glob("*.json")):
    assert process.poll() is None
    time.sleep(0.01)
  children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
  process.send_signal(signal.SIGKILL)
  process.wait()
  deadline = time.monotonic() + 10
  while any(is_running(child) for child in children):
    assert time.monotonic() < deadline, "a worker outlived its parent by ten seconds"
    time.sleep(0.05)
  assert not (tmp_path / "set").exists()
  kept = len(list(progress.glob("*.json")))
  assert 1 <= kept <= 4
  inputs = {"train": SplitInputs([str(photos)])}
  metadata = prepare(tmp_path / "set", inputs, [4], 64, 0, 1)
  assert verify(tmp_path / "set", 1)["digest"] == metadata["digest"]
  assert len(records(tmp_path / "set")) == 32 * 49


def is_running(pid):
  try:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
  except OSError:
    return False


def test_verify_finds_damage_and_what_is_missing(div2k, tmp_path):
  out = tmp_path / "set"
  with pytest.raises(InputError, match="set: no such folder"):
    verify(out, 1)
  prepare(out, {"train": SplitInputs([div2k["train_hr"]])}, [4], 64, 0, 1)
  (shard,) = out.glob("*.array_record*")
  content = bytearray(shard.read_bytes())
  content[70_000] ^= 1
  shard.write_bytes(content)
  with pytest.raises(InputError, match="array_record-00000-of-00001: damaged"):
    verify(out, 1)
  with pytest.raises(InputError, match=r"array_record-00000-of-00001: damaged, record"):
    iterator = make_train_iterator(train_config(out), 4, 0)
    for _ in range(6):
      next(iterator)
  shard.unlink()
  with pytest.raises(InputError, match="array_record-00000-of-00001: missing"):
    verify(out, 1)
  with pytest.raises(InputError, match="array_record-00000-of-00001: missing"):
    make_train_iterator(train_config(out), 4, 0)
  metadata = json.loads((out / "metadata.json").read_text())
  next(iter(metadata["shards"].values()))["sha256"] = "0"
  (out / "metadata.json").write_text(json.dumps(metadata))
  with pytest.raises(InputError, match=r"metadata\.json: changed"):
    verify(out, 1)


def truncated(content):
  return content[: len(content) // 2]


def mismatched(content):
  del content
  return png(noise(0, 72, 60))


@pytest.mark.parametrize(
  "archive, member, damage, message",
  [
    ("train_hr", "DIV2K_train_HR/0002.png", truncated, "the image is truncated"),
    ("train_hr", "DIV2K_train_HR/0002.png", lambda _: b"text", "not a PNG, JPEG or WebP"),
    ("train_lr", "X4/0002x4.png", truncated, "the image is truncated"),
    ("train_lr", "X4/0002x4.png", mismatched, "60x72 pixels is not 1/4 of 100x72"),
    ("train_lr", "X4/0002x4.png", None, "0002.png: no LR image of that name"),
    ("train_hr", "DIV2K_train_HR/0002.png", None, "0002x4.png: no HR image of that name"),
    ("train_hr", "DIV2K_train_HR/0002.jpg", lambda _: png(noise(0)), "two images of one name"),
    ("train_hr", "DIV2K_train_HR/0002.png", lambda _: png(noise(0, 3, 9)), "9x3 pixels, smaller"),
  ],
)
def test_bad_members_are_named(div2k, tmp_path, archive, member, damage, message):
  with zipfile.ZipFile(div2k[archive]) as file:
    members = {name: file.read(name) for name in file.namelist()}
  (target,) = [name for name in members if name.endswith(member)] or [member]
  if damage is None:
    del members[target]
  else:
    members[target] = damage(members.get(target))
  write_zip(div2k[archive], members)
  with pytest.raises(InputError, match=message) as caught:
    inputs = SplitInputs([div2k["train_hr"]], [div2k["train_lr"]])
    prepare(tmp_path / "set", {"train": inputs}, [4], 64, 0, 1)
  assert "0002" in str(caught.value) and "\n" not in str(caught.value)
  assert not (tmp_path / "set").exists()


def test_damaged_archives_are_named(div2k, tmp_path):
  def attempt(path):
    prepare(tmp_path / "set", {"train": SplitInputs([str(path)])}, [4], 64, 0, 1)

  content = bytearray(pathlib.Path(div2k["train_hr"]).read_bytes())
  short = tmp_path / "short.zip"
  short.write_bytes(content[:-500])
  with pytest.raises(InputError, match=r"short\.zip: not a zip or uncompressed tar"):
    attempt(short)
  flipped = tmp_path / "flipped.zip"
  content[len(content) // 2] ^= 0xFF
  flipped.write_bytes(content)
  with pytest.raises(InputError, match=r"flipped\.zip/DIV2K_train_HR/0002\.png: damaged"):
    attempt(flipped)
  with pytest.raises(InputError, match="none: no such folder or archive"):
    attempt(tmp_path / "none")
  with pytest.raises(InputError, match=r"empty\.zip: no image in it"):
    attempt(write_zip(tmp_path / "empty.zip", {"readme.txt": b""}))


@pytest.mark.parametrize(
  "scales, tile, overlap", [([5], 60, 0), ([], 64, 0), ([4], 66, 0), ([4], 64, 64), ([3, 4], 64, 0)]
)
def test_bad_settings_are_refused(div2k, tmp_path, scales, tile, overlap):
  inputs = {"train": SplitInputs([div2k["train_hr"]])}
  with pytest.raises(InputError, match=r"scales must be|both must be multiples"):
    prepare(tmp_path / "set", inputs, scales, tile, overlap, 1)


def test_lr_images_without_hr_images_or_of_no_scale_asked_for_are_refused(div2k, tmp_path):
  with pytest.raises(InputError, match=r"X4\.zip: LR images without HR images"):
    prepare(tmp_path / "set", {"train": SplitInputs([], [div2k["train_lr"]])}, [4], 64, 0, 1)
  inputs = SplitInputs([div2k["train_hr"]], [div2k["train_lr"]])
  with pytest.raises(InputError, match=r"X4\.zip: no LR image of scale 2, 8"):
    prepare(tmp_path / "set", {"train": inputs}, [2, 8], 64, 0, 1)


def test_a_set_for_another_scale_or_with_small_tiles_is_refused(div2k, tmp_path):
  prepare(tmp_path / "set", {"train": SplitInputs([div2k["train_hr"]])}, [2, 4], 64, 0, 1)
  with pytest.raises(InputError, match="set: prepared for scale 2, 4, not for 8"):
    make_train_iterator(train_config(tmp_path / "set"), 8, 0)
  with pytest.raises(InputError, match="its smallest tile: 64x64 pixels, smaller than the patch"):
    make_train_iterator(train_config(tmp_path / "set", hr_patch=96), 4, 0)
  with pytest.raises(InputError, match="no split validation, only train"):
    validation_batches(train_config("", val_dir=str(tmp_path / "set")), 4)


def test_a_full_disk_is_one_line_and_keeps_nothing_half(tmp_path, monkeypatch):
  write_png(tmp_path / "photos/a.png", noise(0, 800, 800))
  disk = tmp_path / "disk"
  disk.mkdir()
  mounted = subprocess.run(
    ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
  )
  if mounted.returncode:
    pytest.skip("cannot mount a small tmpfs here")
  inputs = {"train": SplitInputs([str(tmp_path / "photos")])}
  try:
    with pytest.raises(InputError, match=r"the tiles take 0\.00 GB more, the disk has 0\.00 GB"):
      prepare(disk / "set", inputs, [4], 400, 0, 1)
    # As if another program filled it meanwhile:
    monkeypatch.setattr("srflow_jax.data.prepare._check_space", lambda *_: None)
    with pytest.raises(InputError, match=r"cannot be written: .*No space left") as caught:
      prepare(disk / "set", inputs, [4], 400, 0, 1)
    assert "\n" not in str(caught.value)
    assert not (disk / "set").exists()
    assert [path.name for path in (disk / "set.incomplete").iterdir()] == ["progress"]
  finally:
    subprocess.run(["umount", str(disk)], check=True)


def test_the_command_prepares_verifies_and_reports_mistakes_in_one_line(div2k, tmp_path):
  out = tmp_path / "set"
  arguments = [f"--out={out}", f"--train_hr={div2k['train_hr']}", "--tile=64", "--num_workers=1"]
  ran = subprocess.run(command(*arguments, "--verify"), capture_output=True, text=True, check=True)
  assert "train: 3 images, 12 tiles" in ran.stdout and "verified" in ran.stdout
  ran = subprocess.run(command(f"--out={out}", "--scales=x"), capture_output=True, text=True)
  assert ran.returncode == 2 and ran.stderr == "error: --scales=x: not a whole number\n"


def contents(folder):
  return {
    path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
  }


@pytest.mark.slow
def test_a_preparation_killed_at_random_ends_with_the_set_of_a_whole_one(tmp_path):
  photos = tmp_path / "photos"
  for number in range(64):
    write_png(photos / f"{number:02d}.png", noise(number, 300, 300))
  flags = [f"--train_hr={photos}", "--tile=64", "--num_workers=2"]
  # Files name the sets' own folder, so both are made under one path.
  out, whole = tmp_path / "set", tmp_path / "whole"
  began = time.monotonic()
  subprocess.run(command(f"--out={out}", *flags), check=True, stderr=subprocess.DEVNULL)
  seconds = time.monotonic() - began
  out.rename(whole)
  rng = np.random.default_rng(0)
  for number in range(8):
    process = subprocess.Popen(command(f"--out={out}", *flags), stderr=subprocess.DEVNULL)
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(rng.uniform(0.2, 1.0) * seconds)
    process.kill()
    kept = len(list((tmp_path / "set.incomplete").glob("*.array_record*")))
    print(f"{number}: status {process.wait()}, {kept} shards", flush=True)
  subprocess.run(command(f"--out={out}", *flags), check=True, stderr=subprocess.DEVNULL)
  found, expected = contents(out), contents(whole)
  assert found.keys() == expected.keys() and len(found) > 8
  # ArrayRecord's files differ from one uninterrupted run to the next, but for their records, of
  # which the metadata hold digests, and which stand in the same order.
  for name, content in expected.items():
    assert ".array_record" in name.name or found[name] == content, name
  assert verify(out, 1)["digest"] == verify(whole, 1)["digest"]
  for record, other in zip(records(out), records(whole), strict=True):
    for feature, value in other.items():
      np.testing.assert_array_equal(record[feature], value)
  assert not (tmp_path / "set.incomplete").exists()
