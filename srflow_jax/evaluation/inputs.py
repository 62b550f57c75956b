"""Which images are evaluated: HR images, LR images, or pairs of both, all checked up front."""

import dataclasses
import math
import os
import pathlib

import numpy as np

from srflow_jax.data.folders import check_lr_size, match_names, photographs
from srflow_jax.data.records import INFO_FILE
from srflow_jax.errors import InputError
from srflow_jax.evaluation.lpips import MIN_SIZE
from srflow_jax.evaluation.metrics import CROP_MULTIPLE, shrunk
from srflow_jax.images import check_images, read_image


@dataclasses.dataclass(frozen=True)
class EvalImage:
  """An image to be evaluated.

  Attributes:
    name: Its path inside its folder, without the suffix.
    hr_path: The HR file, if there is one.
    lr_path: The LR file, if there is one; else LR is MATLAB's bicubic of the cropped HR image.
    hr_size: HR's height and width as evaluated: cropped, at the bottom and right, to a multiple of
      8 and of the scale. Without an HR file, the scale times LR's.
  """

  name: str
  hr_path: pathlib.Path | None
  lr_path: pathlib.Path | None
  hr_size: tuple[int, int]

  def read(self, scale: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads it.

    Args:
      scale: By how much HR is larger than LR.

    Returns:
      LR, uint8 `[h, w, 3]`, and HR, uint8 `[h * scale, w * scale, 3]` or None.

    Raises:
      InputError: A file is damaged.
    """
    height, width = self.hr_size
    hr = read_image(self.hr_path)[:height, :width] if self.hr_path else None
    lr = read_image(self.lr_path) if self.lr_path else shrunk(hr, scale)
    return lr[: height // scale, : width // scale], hr


def validation_folders(val_dir: str) -> tuple[str, str]:
  """Which folders a configuration's `data.val_dir` means for `find_images`.

  Args:
    val_dir: '', a folder, or HR_FOLDER:LR_FOLDER.

  Returns:
    The folder of HR images, '' for the bundled photographs, and the folder of LR images or ''.

  Raises:
    InputError: It names a data set, which holds tiles: evaluation is of whole images.
  """
  path = pathlib.Path(val_dir)
  if val_dir.startswith("tfds:") or (val_dir and (path / INFO_FILE).exists()):
    raise InputError(
      f"the run's config.data.val_dir is {val_dir}, a data set of tiles; whole images are needed: "
      "give --hr_dir"
    )
  hr_dir, _, lr_dir = (val_dir, "", "") if path.exists() else val_dir.partition(os.pathsep)
  return hr_dir, lr_dir


def find_images(scale: int, hr_dir: str, lr_dir: str) -> list[EvalImage]:
  """Finds the images and checks all their files, decoding none.

  Args:
    scale: By how much HR is larger than LR.
    hr_dir: Folder of HR images, or ''.
    lr_dir: Folder of LR images, or ''. With both, files are paired by name; an LR name may end in
      `x4` (for scale 4), as in DIV2K. With neither, the HR images are the bundled photographs that
      are kept for validation.

  Returns:
    The images, sorted by path.

  Raises:
    InputError: A folder or file cannot be used, or HR and LR do not match.
  """
  if lr_dir and not hr_dir:
    named = photographs(lr_dir, "validation")
    sizes = check_images([path for _, path in named])
    return [
      EvalImage(name, None, path, (height * scale, width * scale))
      for (name, path), (height, width) in zip(named, sizes, strict=True)
    ]

  named = photographs(hr_dir, "validation")
  hr_paths = [path for _, path in named]
  lr_paths = match_names(named, photographs(lr_dir, "validation"), scale) if lr_dir else None
  hr_sizes = check_images(hr_paths)
  if lr_paths:
    for pair in zip(lr_paths, check_images(lr_paths), hr_paths, hr_sizes, strict=True):
      check_lr_size(*pair, scale)
  return [
    EvalImage(name, path, lr_path, _cropped(path, size, scale))
    for (name, path), lr_path, size in zip(
      named, lr_paths or [None] * len(named), hr_sizes, strict=True
    )
  ]


def _cropped(path: pathlib.Path, size: tuple[int, int], scale: int) -> tuple[int, int]:
  """HR's size as the protocol crops it; refuses what is then too small to be measured."""
  multiple = math.lcm(CROP_MULTIPLE, scale)
  height, width = (side // multiple * multiple for side in size)
  if min(height, width) < MIN_SIZE:
    raise InputError(
      f"{path}: {size[1]}x{size[0]} pixels, too small: cropped to a multiple of {multiple}, both "
      f"sides must be at least {MIN_SIZE}"
    )
  return height, width
