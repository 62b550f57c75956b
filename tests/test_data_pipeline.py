import functools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import ml_collections
import numpy as np
import pytest
from PIL import Image

from srflow_jax.data import make_train_iterator, photographs, put_ahead, validation_batches
from srflow_jax.data.pairs import Pair, RandomPatch
from srflow_jax.data.sources import describe
from srflow_jax.data.workers import from_workers, run_parallel
from srflow_jax.errors import InputError
from srflow_jax.images import read_image, write_png
from srflow_jax.ops.resize import bicubic_resize


@pytest.fixture
def data_config():
  return ml_collections.ConfigDict(
    dict(
      train_dir="",
      val_dir="",
      hr_patch=32,
      batch_size=4,
      flips=True,
      rotations=True,
      num_workers=0,
      cache_mb=64,
      val_patches=10,
    )
  )


def take(data_config, count, start=0, process_index=0, process_count=1, scale=4, seed=7):
  iterator = make_train_iterator(data_config, scale, seed, start, process_index, process_count)
  batches = [next(iterator) for _ in range(count)]
  iterator.close()
  return batches


def assert_equal(first, second):
  assert len(first) == len(second)
  for a, b in zip(first, second, strict=True):
    assert a.keys() == b.keys() == {"hr", "lr"}
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


def test_bundled_photographs_need_no_download():
  train, validation = photographs("", "train"), photographs("", "validation")
  assert len(train) >= 4 and len(validation) >= 2
  assert not {name for name, _ in train} & {name for name, _ in validation}
  assert all(min(read_image(path).shape[:2]) >= 160 for _, path in train + validation)


def test_batches_have_the_promised_types(data_config):
  (batch,) = take(data_config, 1)
  assert batch["hr"].shape == (4, 32, 32, 3) and batch["hr"].dtype == np.uint8
  assert batch["lr"].shape == (4, 8, 8, 3) and batch["lr"].dtype == np.uint8


def test_order_and_crops_are_equal_for_0_1_and_2_workers_and_after_a_restart(data_config):
  reference = take(data_config, 12)
  restart = int(np.random.default_rng().integers(1, 11))
  for workers in (0, 1, 2):
    data_config.num_workers = workers
    assert_equal(take(data_config, 12 - restart, start=restart), reference[restart:])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_global_batch_without_overlap(data_config, processes):
  whole = take(data_config, 3, start=5)
  shares = [take(data_config, 3, 5, index, processes) for index in range(processes)]
  joined = [
    {name: np.concatenate([share[step][name] for share in shares]) for name in whole[step]}
    for step in range(3)
  ]
  assert_equal(joined, whole)


def test_an_epoch_holds_every_image_once_and_epochs_differ(data_config, tmp_path):
  for value in range(8):
    write_png(tmp_path / f"{value}.png", np.full((40, 40, 3), value, np.uint8))
  data_config.train_dir = str(tmp_path)
  seen = np.concatenate([batch["hr"][:, 0, 0, 0] for batch in take(data_config, 6)]).reshape(3, 8)
  for epoch in seen:
    assert sorted(epoch) == list(range(8))
  assert len({tuple(epoch) for epoch in seen}) > 1


def test_another_seed_gives_other_batches(data_config):
  assert not np.array_equal(take(data_config, 1)[0]["hr"], take(data_config, 1, seed=8)[0]["hr"])


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_lr_patch_is_cut_from_the_lr_of_the_whole_image(scale):
  image = np.random.default_rng(0).integers(0, 256, (77, 91, 3), np.uint8)
  whole = bicubic_resize(image, 1 / scale)
  patch = Pair("x", image).patch(scale, 2, 3, 5)
  np.testing.assert_array_equal(patch["lr"], whole[2:7, 3:8])
  np.testing.assert_array_equal(patch["hr"], image[2 * scale : 7 * scale, 3 * scale : 8 * scale])


def test_random_patches_reach_every_position_and_orientation():
  # Every HR pixel knows its place, so a patch tells where it was cut and how it was turned.
  rows, columns = np.indices((24, 16))
  image = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)
  cut = RandomPatch(scale=4, lr_size=2, flips=True, rotations=True)
  rng = np.random.default_rng(0)
  corners, orientations = set(), set()
  for _ in range(800):
    patch = cut(Pair("x", image, image[::4, ::4]), rng)
    low = patch["hr"].min((0, 1))
    np.testing.assert_array_equal(patch["lr"].min((0, 1)), low)
    corners.add((int(low[0]), int(low[1])))
    orientations.add(
      ((patch["hr"] - low)[0, 0, :2].tobytes(), (patch["hr"] - low)[0, -1].tobytes())
    )
  assert corners == {(row, column) for row in range(0, 17, 4) for column in range(0, 9, 4)}
  assert len(orientations) == 8


def test_flips_off_leaves_patches_upright_at_the_same_places(data_config):
  data_config.rotations = False
  with_flips = take(data_config, 4)
  data_config.flips = False
  without = take(data_config, 4)
  flipped = 0
  for a, b in zip(with_flips, without, strict=True):
    for one, other in zip(a["hr"], b["hr"], strict=True):
      same, mirrored = np.array_equal(one, other), np.array_equal(one, other[:, ::-1])
      assert same or mirrored
      flipped += mirrored
  assert 0 < flipped < 16


def test_validation_batches_are_fixed_whole_and_start_with_the_centres(data_config):
  batches = validation_batches(data_config, 4)
  assert [len(batch["hr"]) for batch in batches] == [4, 4]  # 10 patches make two whole batches
  assert_equal(batches, validation_batches(data_config, 4))
  image = read_image(photographs("", "validation")[0][1])
  top, left = (round((size // 4 - 8) / 2) * 4 for size in image.shape[:2])
  np.testing.assert_array_equal(batches[0]["hr"][0], image[top : top + 32, left : left + 32])
  halves = [validation_batches(data_config, 4, index, 2) for index in range(2)]
  for index in range(2):
    half = batches[1]["lr"][2 * index : 2 * index + 2]
    np.testing.assert_array_equal(halves[index][1]["lr"], half)


def test_put_ahead_keeps_the_order_and_runs_ahead():
  put = []
  batches = put_ahead((number for number in range(6)), lambda x: put.append(x) or x, ahead=2)
  assert next(batches) == 0
  assert put == [0, 1, 2]
  assert list(batches) == [1, 2, 3, 4, 5]


def small_tree(folder: pathlib.Path) -> pathlib.Path:
  image = np.random.default_rng(1).integers(0, 256, (48, 48, 3), np.uint8)
  for name in ("a", "b", "c/d"):
    write_png(folder / f"{name}.png", image)
  return folder


def truncate(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[:-200])


def make_text(path: pathlib.Path) -> None:
  path.write_text("not an image")


def make_small(path: pathlib.Path) -> None:
  Image.new("RGB", (31, 100)).save(path)


@pytest.mark.parametrize(
  "damage, message",
  [
    (truncate, "truncated"),
    (make_text, "not a PNG, JPEG or WebP"),
    (make_small, "31x100 pixels, smaller than the patch of 32x32"),
  ],
)
def test_bad_files_are_named_before_training(data_config, tmp_path, damage, message):
  data_config.train_dir = str(small_tree(tmp_path))
  damage(tmp_path / "c/d.png")
  with pytest.raises(InputError, match=message) as caught:
    make_train_iterator(data_config, 4, 0)
  assert str(tmp_path / "c/d.png") in str(caught.value) and "\n" not in str(caught.value)


def test_bad_folders_are_refused(data_config, tmp_path):
  data_config.train_dir = str(tmp_path / "none")
  with pytest.raises(InputError, match="none: no such folder"):
    make_train_iterator(data_config, 4, 0)
  data_config.train_dir = str(tmp_path)
  with pytest.raises(InputError, match="no image in it"):
    make_train_iterator(data_config, 4, 0)


def test_two_images_of_one_name_are_refused(data_config, tmp_path):
  data_config.train_dir = str(small_tree(tmp_path))
  Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg")
  with pytest.raises(InputError, match=r"a\.png: two images of one name, the other is .*a\.jpg"):
    make_train_iterator(data_config, 4, 0)


def test_patch_and_batch_that_do_not_divide_are_refused(data_config):
  with pytest.raises(InputError, match="hr_patch is 32: it must be a multiple of the scale 3"):
    make_train_iterator(data_config, 3, 0)
  with pytest.raises(InputError, match="batch_size is 4"):
    make_train_iterator(data_config, 4, 0, 0, 0, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_that_only_decoding_shows_is_one_line_too(data_config, tmp_path, workers):
  data_config.train_dir, data_config.num_workers = str(small_tree(tmp_path)), workers
  path = tmp_path / "b.png"
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0xFF
  path.write_bytes(content)
  with pytest.raises(InputError, match=r"b\.png: ") as caught:
    take(data_config, 4)
  assert "\n" not in str(caught.value)


def test_a_killed_worker_is_noticed_within_seconds(data_config):
  data_config.num_workers = 2
  earlier = set(multiprocessing.active_children())
  iterator = make_train_iterator(data_config, 4, 0)
  next(iterator)
  workers = set(multiprocessing.active_children()) - earlier
  assert len(workers) == 2
  os.kill(min(worker.pid for worker in workers), signal.SIGKILL)
  began = time.monotonic()
  with pytest.raises(InputError, match=r"a data worker was killed.*, perhaps for want of memory"):
    for _ in range(100):  # those that were ready come first
      next(iterator)
  assert time.monotonic() - began < 30
  for worker in workers:
    worker.join(30)
    assert not worker.is_alive()


def test_batches_of_workers_end_and_fail_as_they_do_without():
  class Batches:
    def __init__(self, items):
      self.items, self.is_closed = iter(items), False

    def __iter__(self):
      return self

    def __next__(self):
      item = next(self.items)
      if isinstance(item, Exception):
        raise item
      return {"hr": np.array(item)}

    def close(self):
      self.is_closed = True

  source = Batches([1, 2])
  assert [int(batch["hr"]) for batch in from_workers(source)] == [1, 2] and source.is_closed
  source = Batches([1, KeyError("x")])
  batches = from_workers(source)
  assert next(batches)["hr"] == 1
  with pytest.raises(KeyError):
    next(batches)
  assert source.is_closed
  source = Batches([1, 2, 3])
  batches = from_workers(source)
  next(batches)
  batches.close()
  assert source.is_closed


def test_data_are_told_apart_by_names_and_sizes(data_config, tmp_path):
  data_config.train_dir = str(small_tree(tmp_path / "a"))
  first = describe(data_config, 4)
  assert first["train"]["images"] == 3 and first["validation"]["images"] == 2
  data_config.train_dir = str(small_tree(tmp_path / "b"))
  assert describe(data_config, 4) == first  # another folder of the same
  os.rename(tmp_path / "b/a.png", tmp_path / "b/z.png")
  renamed = describe(data_config, 4)
  assert renamed["train"] != first["train"] and renamed["validation"] == first["validation"]
  write_png(tmp_path / "a/a.png", np.zeros((48, 48, 3), np.uint8))
  data_config.train_dir = str(tmp_path / "a")
  assert describe(data_config, 4)["train"]["digest"] != first["train"]["digest"]


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks the workers up in /proc")
@pytest.mark.parametrize(
  "how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_no_worker_survives_its_parent(how):
  program = """
    import ml_collections, multiprocessing, time
    from srflow_jax.data import make_train_iterator
    if __name__ == "__main__":
      config = ml_collections.ConfigDict(dict(train_dir="", val_dir="", hr_patch=32, batch_size=4,
          flips=True, rotations=True, num_workers=2, cache_mb=64, val_patches=4))
      iterator = make_train_iterator(config, 4, 0)
      for _ in range(4):
        next(iterator)
      print(*(child.pid for child in multiprocessing.active_children()), flush=True)
      time.sleep(60)
  """
  parent = subprocess.Popen(
    [sys.executable, "-c", textwrap.dedent(program)],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,  # Python's note that it clears up what was left in shared memory
    cwd=pathlib.Path(__file__).resolve().parents[1],
    text=True,
  )
  workers = [int(word) for word in parent.stdout.readline().split()]
  assert len(workers) == 2 and all(os.path.exists(f"/proc/{pid}") for pid in workers)
  parent.send_signal(how)
  parent.wait()
  deadline = time.monotonic() + 10
  while any(alive(pid) for pid in workers):
    assert time.monotonic() < deadline, "a worker outlived its parent by ten seconds"
    time.sleep(0.1)


def alive(pid: int) -> bool:
  try:
    with open(f"/proc/{pid}/stat") as file:
      return file.read().rsplit(")", 1)[1].split()[0] != "Z"
  except OSError:
    return False


def test_workers_leave_ctrl_c_to_their_parent_from_the_start():
  """One that is still importing when it comes would print a traceback."""
  blocked = functools.partial(signal.pthread_sigmask, signal.SIG_BLOCK)
  for mask in run_parallel(blocked, [(), ()], 2):
    assert signal.SIGINT in mask
  assert signal.SIGINT not in blocked(())
