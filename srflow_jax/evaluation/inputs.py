"""Which images are evaluated: HR images, LR images, or pairs of both, all checked up front."""

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from srflow_jax.data.folders import check_lr_size, photographs
from srflow_jax.data.names import match_names, own_side
from srflow_jax.data.sources import record_folder, validation_dir
from srflow_jax.data.whole_images import WholeImage, whole_images
from srflow_jax.errors import InputError
from srflow_jax.evaluation.lpips import MIN_SIZE
from srflow_jax.evaluation.metrics import CROP_MULTIPLE, shrunk
from srflow_jax.images import check_images, read_image, rgb_profile

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class EvalImage:
  """An image to be evaluated.

  Attributes:
    name: Its path inside its folder, without the suffix.
    hr_path: The HR file, if there is one; the data set's folder if the image lies in one.
    lr_path: The LR file, if there is one; else LR is MATLAB's bicubic of the cropped HR image.
    hr_size: HR's height and width as evaluated: cropped, at the bottom and right, to a multiple of
      8 and of the scale. Without an HR file, the scale times LR's.
    file_sizes: Height and width of the HR and the LR file when they were checked.
    in_set: The image in its data set, if it lies in one.
  """

  name: str
  hr_path: pathlib.Path | None
  lr_path: pathlib.Path | None
  hr_size: Size
  file_sizes: tuple[Size | None, Size | None] = (None, None)
  in_set: WholeImage | None = None

  def read(self, scale: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads it.

    Args:
      scale: By how much HR is larger than LR.

    Returns:
      LR, uint8 `[h, w, 3]`, and HR, uint8 `[h * scale, w * scale, 3]` or None.

    Raises:
      InputError: A file is damaged, or of another size than it was.
    """
    hr, lr = self.in_set.read() if self.in_set else (None, None)
    if not self.in_set and self.hr_path:
      hr = read_image(self.hr_path, self.file_sizes[0])
    if self.lr_path:
      lr = read_image(self.lr_path, self.file_sizes[1])
    height, width = self.hr_size
    hr = hr[:height, :width] if hr is not None else None
    lr = shrunk(hr, scale) if lr is None else lr
    return lr[: height // scale, : width // scale], hr

  def profile(self) -> bytes | None:
    """The ICC profile of its samples' colours: that of LR, or of HR if LR is made from it."""
    path = self.lr_path or self.hr_path
    return rgb_profile(path) if path and not self.in_set else None


def validation_folders(data_config: Any) -> tuple[str, str]:
  """Which images a run was validated on, as `find_images` takes them.

  Args:
    data_config: The run's `config.data`. Its `val_dir` is a folder, HR_FOLDER:LR_FOLDER, or a data
      set; without one, the training data set's own validation split counts.

  Returns:
    The folder of HR images or data set, '' for the bundled photographs, and the folder of LR
    images or ''.

  Raises:
    InputError: A data set cannot be opened.
  """
  spec = validation_dir(data_config)
  if folder := record_folder(spec):
    return str(folder), ""
  hr_dir, _, lr_dir = (spec, "", "") if os.path.exists(spec) else spec.partition(os.pathsep)
  return hr_dir, lr_dir


def find_images(
  scale: int, hr_dir: str, lr_dir: str, leave_out: Collection[str | os.PathLike] = ()
) -> list[EvalImage]:
  """Finds the images and checks all their files, decoding none.

  Args:
    scale: By how much HR is larger than LR.
    hr_dir: Folder of HR images, or of a data set, whose validation split is taken, or its only
      split; or ''.
    lr_dir: Folder of LR images, or ''. With both, files are paired by name as in `match_names`.
      With neither, the HR images are the bundled photographs that are kept for validation.
    leave_out: Folders inside these that are no input, such as the one that output goes to.

  Returns:
    The images, sorted by path.

  Raises:
    InputError: A folder or file cannot be used, HR and LR do not match, or outputs of two images
      would have one name.
  """
  if folder := record_folder(hr_dir):
    if lr_dir:
      raise InputError(f"--lr_dir={lr_dir}: {hr_dir} is a data set, which has LR images of its own")
    images = [
      EvalImage(
        image.name,
        folder,
        None,
        _cropped(f"{folder}: {image.name}", image.size, scale),
        in_set=image,
      )
      for image in whole_images(folder, scale)
    ]
  elif record_folder(lr_dir):
    raise InputError(f"--lr_dir={lr_dir}: a data set; give it as --hr_dir")
  elif lr_dir and not hr_dir:
    named = own_side(photographs(lr_dir, "validation", leave_out), scale, "LR")
    sizes = check_images([path for _, path in named])
    images = [
      EvalImage(name, None, path, (size[0] * scale, size[1] * scale), (None, size))
      for (name, path), size in zip(named, sizes, strict=True)
    ]
  else:
    images = _hr_images(scale, hr_dir, lr_dir, leave_out)
  _check_output_names([image.name for image in images])
  return images


def _hr_images(
  scale: int, hr_dir: str, lr_dir: str, leave_out: Collection[str | os.PathLike]
) -> list[EvalImage]:
  """HR images of a folder, or the bundled ones, with LR images if there is a folder of them."""
  named = own_side(photographs(hr_dir, "validation", leave_out), scale, "HR")
  hr_paths = [path for _, path in named]
  hr_sizes = check_images(hr_paths)
  lr_paths, lr_sizes = [None] * len(named), [None] * len(named)
  if lr_dir:
    lr = own_side(photographs(lr_dir, "validation", leave_out), scale, "LR")
    lr_paths = match_names(named, lr, scale)
    lr_sizes = check_images(lr_paths)
    for pair in zip(lr_paths, lr_sizes, hr_paths, hr_sizes, strict=True):
      check_lr_size(*pair, scale)
  return [
    EvalImage(name, path, lr_path, _cropped(path, size, scale), (size, lr_size))
    for (name, path), size, lr_path, lr_size in zip(
      named, hr_sizes, lr_paths, lr_sizes, strict=True
    )
  ]


def _check_output_names(names: Sequence[str]) -> None:
  """Refuses a folder `a.png/` beside an image `a`, whose own output is called `a.png`."""
  taken = set(names)
  for name in names:
    for parent in pathlib.PurePosixPath(name).parents:
      stem = re.sub(r"(_\d\d+)?\.png$", "", parent.as_posix())
      if parent.as_posix().endswith(".png") and stem in taken:
        raise InputError(
          f"{name}: the folder {parent} is called like the output of image {stem}; rename one"
        )


def _cropped(path: pathlib.Path | str, size: tuple[int, int], scale: int) -> tuple[int, int]:
  """HR's size as the protocol crops it; refuses what is then too small to be measured."""
  multiple = math.lcm(CROP_MULTIPLE, scale)
  height, width = (side // multiple * multiple for side in size)
  if min(height, width) < MIN_SIZE:
    raise InputError(
      f"{path}: {size[1]}x{size[0]} pixels, too small: cropped to a multiple of {multiple}, both "
      f"sides must be at least {MIN_SIZE}"
    )
  return height, width
