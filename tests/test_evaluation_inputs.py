"""Which images are evaluated."""

import numpy as np
import pytest

from fakes import SCALE
from srflow_jax import images
from srflow_jax.errors import InputError
from srflow_jax.evaluation.inputs import find_images, validation_folders
from srflow_jax.ops.resize import bicubic_resize


def test_hr_is_cropped_and_lr_made_from_the_crop(hr_dir):
  found = find_images(SCALE, str(hr_dir), "")
  assert [image.name for image in found] == ["b/one", "three", "two"]
  assert found[0].hr_size == (48, 64)
  lr, hr = found[0].read(SCALE)
  whole = images.read_image(hr_dir / "b" / "one.png")
  np.testing.assert_array_equal(hr, whole[:48, :64])
  np.testing.assert_array_equal(lr, bicubic_resize(hr, 1 / SCALE))
  assert find_images(16, str(hr_dir), "")[0].hr_size == (48, 64)


def test_pairs_by_name(hr_dir, lr_dir):
  found = find_images(SCALE, str(hr_dir), str(lr_dir))
  lr, hr = found[0].read(SCALE)
  assert lr.shape == (12, 16, 3) and hr.shape == (48, 64, 3)
  np.testing.assert_array_equal(lr, images.read_image(lr_dir / "b" / "onex4.png")[:12, :16])


def test_lr_alone(lr_dir):
  found = find_images(SCALE, "", str(lr_dir))
  assert found[0].hr_size == (52, 68)
  lr, hr = found[0].read(SCALE)
  assert lr.shape == (13, 17, 3) and hr is None


def test_without_folders_those_of_the_configuration(hr_dir, lr_dir, tmp_path):
  assert [image.name for image in find_images(SCALE, "", "")] == ["chelsea", "rocket"]
  assert validation_folders("") == ("", "")
  assert validation_folders(str(hr_dir)) == (str(hr_dir), "")
  assert validation_folders(f"{hr_dir}:{lr_dir}") == (str(hr_dir), str(lr_dir))
  (tmp_path / "dataset_info.json").write_text("{}")
  for data_set in (str(tmp_path), "tfds:div2k/bicubic_x4"):
    with pytest.raises(InputError, match="data set of tiles"):
      validation_folders(data_set)


def test_images_that_cannot_be_evaluated(tmp_path, hr_dir, lr_dir):
  def refused(message, hr="", lr=""):
    with pytest.raises(InputError, match=message) as error:
      find_images(SCALE, str(hr), str(lr))
    assert "\n" not in str(error.value)

  refused("no such folder", hr=tmp_path / "missing")
  refused("no such folder", lr=tmp_path / "missing")
  (tmp_path / "empty").mkdir()
  refused("no image", hr=tmp_path / "empty")
  (lr_dir / "onex4.png").write_bytes((lr_dir / "twox4.png").read_bytes())
  refused(r"onex4\.png: no HR image", hr=hr_dir, lr=lr_dir)
  (lr_dir / "onex4.png").unlink()
  small = images.read_image(lr_dir / "twox4.png")[:-2]
  images.write_png(lr_dir / "twox4.png", small)
  refused(r"twox4\.png: 10x14 pixels is not 1/4 of 40x64", hr=hr_dir, lr=lr_dir)
  (lr_dir / "twox4.png").unlink()
  refused(r"two\.png: no LR image", hr=hr_dir, lr=lr_dir)
  images.write_png(hr_dir / "small.png", np.zeros((31, 64, 3), np.uint8))
  refused(r"small\.png: 64x31 pixels, too small", hr=hr_dir)
  (hr_dir / "small.png").write_text("not an image")
  refused(r"small\.png: not a PNG", hr=hr_dir)
