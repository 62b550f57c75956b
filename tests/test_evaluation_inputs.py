"""Which images are evaluated."""

import types

import numpy as np
import pytest
from PIL import ImageCms

from fakes import SCALE
from srflow_jax import images
from srflow_jax.data.plan import SplitInputs
from srflow_jax.data.prepare import prepare
from srflow_jax.errors import InputError
from srflow_jax.evaluation.inputs import find_images, validation_folders
from srflow_jax.images import write_png
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


def run_data(train_dir="", val_dir=""):
  return types.SimpleNamespace(train_dir=str(train_dir), val_dir=str(val_dir))


def test_without_folders_those_of_the_configuration(hr_dir, lr_dir, tmp_path):
  assert [image.name for image in find_images(SCALE, "", "")] == ["chelsea", "rocket"]
  assert validation_folders(run_data()) == ("", "")
  assert validation_folders(run_data(hr_dir)) == ("", "")
  assert validation_folders(run_data(val_dir=hr_dir)) == (str(hr_dir), "")
  paired = run_data(val_dir=f"{hr_dir}:{lr_dir}")
  assert validation_folders(paired) == (str(hr_dir), str(lr_dir))
  (tmp_path / "dataset_info.json").write_text("{}")
  with pytest.raises(InputError, match="prepared as tfrecord"):
    find_images(SCALE, *validation_folders(run_data(val_dir=tmp_path)))


@pytest.fixture
def prepared(tmp_path, hr_dir, lr_dir):
  """A set whose validation images are cut into several tiles each; LR is given, and no bicubic."""
  write_png(tmp_path / "train/a.png", np.zeros((32, 32, 3), np.uint8))
  for path in lr_dir.rglob("*.png"):
    images.write_png(path, 255 - images.read_image(path))
  splits = {
    "train": SplitInputs([str(tmp_path / "train")], []),
    "validation": SplitInputs([str(hr_dir)], [str(lr_dir)]),
  }
  prepare(tmp_path / "set", splits, [4], tile=32, overlap=8, num_workers=1)
  return tmp_path / "set"


def test_a_prepared_set_is_evaluated_by_its_whole_images(prepared, hr_dir, lr_dir):
  own_split = validation_folders(run_data(train_dir=prepared))
  assert own_split == (str(prepared), "")
  expected = find_images(SCALE, str(hr_dir), str(lr_dir))
  found = find_images(SCALE, *own_split)
  assert [image.name for image in found] == [image.name for image in expected]
  for image, wanted in zip(found, expected, strict=True):
    assert image.hr_size == wanted.hr_size and image.profile() is None
    for part, wanted_part in zip(image.read(SCALE), wanted.read(SCALE), strict=True):
      np.testing.assert_array_equal(part, wanted_part)
  with pytest.raises(InputError, match="has LR images of its own"):
    find_images(SCALE, str(prepared), str(lr_dir))
  with pytest.raises(InputError, match="give it as --hr_dir"):
    find_images(SCALE, "", str(prepared))
  with pytest.raises(InputError, match="prepared for scale 4, not for 8"):
    find_images(8, str(prepared), "")


def test_outputs_and_runs_in_the_folder_are_no_input(hr_dir, tmp_path):
  names = [image.name for image in find_images(SCALE, str(hr_dir), "")]
  write_png(hr_dir / "out/samples/m/two_00.png", np.zeros((48, 48, 3), np.uint8))
  found = find_images(SCALE, str(hr_dir), "", leave_out=[hr_dir / "out"])
  assert [image.name for image in found] == names


def test_a_file_that_changed_after_the_check_is_named(hr_dir, lr_dir):
  found = {image.name: image for image in find_images(SCALE, str(hr_dir), str(lr_dir))}
  write_png(hr_dir / "two.png", np.zeros((48, 48, 3), np.uint8))
  write_png(lr_dir / "threex4.png", np.zeros((48, 48, 3), np.uint8))
  for name in ("two", "three"):
    with pytest.raises(InputError, match=rf"{name}(x4)?\.png: 48x48 pixels, but .*has changed"):
      found[name].read(SCALE)


def test_profiles_are_those_of_the_lr_image(hr_dir, lr_dir):
  srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  write_png(lr_dir / "twox4.png", images.read_image(lr_dir / "twox4.png"), srgb)
  pairs = {image.name: image for image in find_images(SCALE, str(hr_dir), str(lr_dir))}
  assert pairs["two"].profile() == srgb and pairs["three"].profile() is None
  assert all(image.profile() is None for image in find_images(SCALE, str(hr_dir), ""))


def test_an_image_beside_a_folder_that_is_called_like_its_output(hr_dir):
  write_png(hr_dir / "two.png.d/two.png", np.zeros((48, 48, 3), np.uint8))
  assert len(find_images(SCALE, str(hr_dir), "")) == 4
  write_png(hr_dir / "three_00.png/x.png", np.zeros((48, 48, 3), np.uint8))
  with pytest.raises(InputError, match=r"folder three_00\.png is called like the output of"):
    find_images(SCALE, str(hr_dir), "")


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
