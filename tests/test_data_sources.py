import io
import os
import pathlib

import ml_collections
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from srflow_jax.data import make_train_iterator, validation_batches
from srflow_jax.data.cache import PairCache
from srflow_jax.data.folders import FolderSource, photographs
from srflow_jax.data.pairs import Pair, RandomPatch
from srflow_jax.data.sources import open_source
from srflow_jax.errors import InputError
from srflow_jax.images import write_png


def noise(seed, height=48, width=64):
  return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def config(train_dir, **changes):
  fields = dict(
    train_dir=str(train_dir),
    val_dir="",
    hr_patch=32,
    batch_size=4,
    flips=False,
    rotations=False,
    num_workers=0,
    cache_mb=64,
    val_patches=4,
  )
  return ml_collections.ConfigDict(fields | changes)


@pytest.fixture
def paired(tmp_path):
  """HR and LR folders named as DIV2K's; LR is no bicubic, so that it is known again."""
  for number in range(3):
    write_png(tmp_path / f"HR/{number}.png", noise(number))
    write_png(tmp_path / f"LR/X4/{number}x4.png", noise(number)[::4, ::4])
  return tmp_path


def test_paired_folders_give_their_own_lr(paired):
  spec = f"{paired}/HR:{paired}/LR"
  source = open_source(config(spec), 4, "train")
  assert [source[index].name for index in range(3)] == [f"{paired}/HR/{n}.png" for n in range(3)]
  batch = next(make_train_iterator(config(spec), 4, 0))
  np.testing.assert_array_equal(batch["lr"], batch["hr"][:, ::4, ::4])
  (batch,) = validation_batches(config("", val_dir=spec), 4)
  np.testing.assert_array_equal(batch["lr"], batch["hr"][:, ::4, ::4])


def test_a_folder_whose_name_holds_a_colon_is_a_folder(tmp_path):
  write_png(tmp_path / "a:b/1.png", noise(1))
  assert len(open_source(config(tmp_path / "a:b"), 4, "train")) == 1


def test_mismatched_pairs_are_named(paired):
  spec = f"{paired}/HR:{paired}/LR"
  os.rename(paired / "LR/X4/1x4.png", paired / "LR/X4/9x4.png")
  with pytest.raises(InputError, match=r"HR/1\.png: no LR image of that name"):
    open_source(config(spec), 4, "train")
  (paired / "HR/1.png").unlink()
  with pytest.raises(InputError, match=r"LR/X4/9x4\.png: no HR image of that name"):
    open_source(config(spec), 4, "train")
  write_png(paired / "HR/9.png", noise(9, 48, 80))
  write_png(paired / "LR/X4/9x4.png", noise(9, 12, 16))
  with pytest.raises(InputError, match=r"9x4\.png: 16x12 pixels is not 1/4 of 80x48 of .*9\.png"):
    open_source(config(spec), 4, "train")
  with pytest.raises(InputError, match="neither a folder nor HR_FOLDER:LR_FOLDER"):
    open_source(config(f"{spec}:more"), 4, "train")
  with pytest.raises(InputError, match="none: no such folder"):
    open_source(config(f"{paired}/HR:{paired}/none"), 4, "train")


def test_an_unreadable_folder_is_named(paired):
  folder = paired / "HR/closed"
  folder.mkdir(mode=0)
  if os.geteuid() == 0:
    for parent in (paired, *list(paired.parents)[:3]):
      os.chmod(parent, 0o755)
    os.seteuid(65534)  # the superuser may read anything
  try:
    with pytest.raises(InputError, match="closed: cannot be read: Permission denied"):
      open_source(config(paired / "HR"), 4, "train")
  finally:
    if os.getuid() == 0:
      os.seteuid(0)


def as_file(value):
  if not isinstance(value, np.ndarray):
    return value
  file = io.BytesIO()
  Image.fromarray(value).save(file, format="PNG")
  file.seek(0)
  return file


def prepare_tfds(data_dir: pathlib.Path, features, examples, file_format="array_record") -> None:
  """Prepares a data set `div2k/bicubic_x4` as TFDS's own builder lays it out."""

  class Div2k(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="bicubic_x4"),)
    pkg_dir_path = data_dir

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples(split) for split in ("train", "validation")}

    def _generate_examples(self, split):
      for number, example in enumerate(examples):
        # TFDS encodes arrays with TensorFlow, and takes files as they are.
        yield f"{split}{number}", {key: as_file(value) for key, value in example.items()}

  builder = Div2k(data_dir=data_dir, config="bicubic_x4", file_format=file_format)
  builder.download_and_prepare()


IMAGE = tfds.features.Image(shape=(None, None, 3), encoding_format="png")


def test_tfds_name_reads_hr_and_lr(tmp_path, monkeypatch):
  examples = [{"hr": noise(n), "lr": noise(n)[::4, ::4]} for n in range(3)]
  prepare_tfds(tmp_path, {"hr": IMAGE, "lr": IMAGE}, examples)
  monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
  monkeypatch.setattr(
    "tensorflow_datasets.core.utils.file_utils.list_data_dirs", lambda *_, **__: [str(tmp_path)]
  )
  for spec in ("tfds:div2k/bicubic_x4", tmp_path / "div2k/bicubic_x4/2.0.0"):
    source = open_source(config(spec), 4, "train")
    assert sorted(source[i].hr.tobytes() for i in range(3)) == sorted(
      example["hr"].tobytes() for example in examples
    )
    for workers in (0, 1):
      batch = next(make_train_iterator(config(spec, num_workers=workers), 4, 0))
      np.testing.assert_array_equal(batch["lr"], batch["hr"][:, ::4, ::4])
    (batch,) = validation_batches(config(spec), 4)  # its own validation split
    np.testing.assert_array_equal(batch["lr"], batch["hr"][:, ::4, ::4])
  with pytest.raises(InputError, match="is not 1/2 of"):
    open_source(config("tfds:div2k/bicubic_x4"), 2, "train")
  with pytest.raises(InputError, match=r"tfds:div2k/bicubic_x8: not prepared in .*TFDS_DATA_DIR"):
    open_source(config("tfds:div2k/bicubic_x8"), 8, "train")


def test_tfds_images_without_lr_get_matlab_bicubic(tmp_path):
  prepare_tfds(tmp_path, {"image": IMAGE}, [{"image": noise(0)}])
  pair = open_source(config(tmp_path / "div2k/bicubic_x4/2.0.0"), 4, "train")[0]
  assert pair.lr is None
  np.testing.assert_array_equal(pair.hr, noise(0))


def test_tfds_sets_that_cannot_serve_are_refused(tmp_path):
  prepare_tfds(tmp_path, {"label": np.int32}, [{"label": 1}])
  folder = tmp_path / "div2k/bicubic_x4/2.0.0"
  with pytest.raises(InputError, match="no features hr and lr, nor image, but label"):
    open_source(config(folder), 4, "train")
  info = folder / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  with pytest.raises(InputError, match="prepared as tfrecord, which needs TensorFlow to read"):
    open_source(config(folder), 4, "train")
  info.write_text("{")
  with pytest.raises(InputError, match=r"dataset_info\.json: ") as caught:
    open_source(config(folder), 4, "train")
  assert "\n" not in str(caught.value)


def test_cache_keeps_the_latest_within_its_bytes():
  image = noise(0)
  cache, loads = PairCache(2 * image.nbytes), []

  def get(key):
    return cache.get(key, lambda: loads.append(key) or Pair(key, image))

  for key in ("a", "b", "a", "c", "a", "b"):
    assert get(key).name == key
  assert loads == ["a", "b", "c", "b"]
  small = PairCache(image.nbytes - 1)
  assert [small.get("a", lambda: Pair("a", image)).name for _ in range(2)] == ["a", "a"]


def test_grey_and_palette_images_are_read_as_rgb(tmp_path):
  Image.fromarray(noise(0)[..., 0]).save(tmp_path / "grey.png")
  Image.fromarray(noise(1)).quantize(16).save(tmp_path / "palette.png")
  batch = next(make_train_iterator(config(tmp_path), 4, 0))
  assert batch["hr"].shape == (4, 32, 32, 3)


def test_lr_made_once_of_cached_images_is_that_of_patches(hr_dir):
  paths = [path for _, path in photographs(str(hr_dir), "train")]
  patch = RandomPatch(4, 3, flips=True, rotations=True)
  cached, uncached = (FolderSource(paths, 4, 12, cache_bytes) for cache_bytes in (10**8, 0))
  for index in range(len(paths)):
    assert cached[index].lr is not None and uncached[index].lr is None
    for seed in range(4):
      images = [patch(s[index], np.random.default_rng(seed)) for s in (cached, uncached)]
      for name in ("hr", "lr"):
        np.testing.assert_array_equal(images[0][name], images[1][name])
