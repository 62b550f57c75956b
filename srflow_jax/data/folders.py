"""Pairs from image files: folders, and the photographs that scikit-image ships."""

import importlib.util
import pathlib
from collections.abc import Sequence
from typing import TypeVar

from srflow_jax.data.cache import PairCache
from srflow_jax.data.pairs import Pair, check_size
from srflow_jax.errors import InputError
from srflow_jax.images import check_images, list_images, read_image
from srflow_jax.ops.resize import bicubic_window

File = TypeVar("File")

# Photographs in scikit-image's wheel (colour, natural, no download). The two motorcycles are a
# stereo pair, hence both on one side.
BUNDLED = {
  "train": ("astronaut.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png"),
  "validation": ("chelsea.png", "rocket.jpg"),
}


def photographs(folder: str, split: str) -> list[tuple[str, pathlib.Path]]:
  """Names and paths of the images of a folder tree, or of the bundled photographs.

  Args:
    folder: a folder tree of PNG, JPEG and WebP files; '' for the photographs that scikit-image
      ships.
    split: "train" or "validation": which of the bundled photographs. A folder has no splits.

  Returns:
    (name, path) sorted by path; the name is the path inside the folder without its suffix.

  Raises:
    InputError: the folder is missing, empty or cannot be read, or two images have one name.
  """
  if not folder:
    root = _bundled_folder()
    return [(pathlib.Path(file).stem, root / file) for file in BUNDLED[split]]
  named = {}
  for path in list_images(folder):
    name = path.relative_to(folder).with_suffix("").as_posix()
    if name in named:
      raise InputError(f"{path}: two images of one name, the other is {named[name]}")
    named[name] = path
  return list(named.items())


def _bundled_folder() -> pathlib.Path:
  # Found without importing scikit-image, which would import SciPy into every worker.
  spec = importlib.util.find_spec("skimage")
  if spec is None or spec.origin is None:
    raise InputError("the bundled photographs need scikit-image: pip install scikit-image")
  return pathlib.Path(spec.origin).parent / "data"


class FolderSource:
  """Images decoded when asked for, with the latest in memory; LR given, or by MATLAB bicubic."""

  def __init__(
    self,
    hr: Sequence[pathlib.Path],
    scale: int,
    patch: int,
    cache_bytes: int,
    lr: Sequence[pathlib.Path] | None = None,
  ) -> None:
    """Checks every file without decoding it.

    Args:
      hr: the HR images.
      scale: HR pixels per LR pixel.
      patch: side of the HR patches that will be cut, in pixels.
      cache_bytes: how many bytes of decoded images to keep.
      lr: the LR images in the same order, or None.

    Raises:
      InputError: a file is no image, truncated or smaller than the patch; HR and LR do not match.
    """
    self._hr, self._lr, self._scale = hr, lr, scale
    sizes = check_images(hr)
    for path, (height, width) in zip(hr, sizes, strict=True):
      check_size(path, height, width, patch)
    if lr is not None:
      for files in zip(lr, check_images(lr), hr, sizes, strict=True):
        check_lr_size(*files, scale)
    self._cache = PairCache(cache_bytes)
    # Where all images stay in memory, each one's LR is made once and whole: a patch of it is cut
    # five times faster than it is computed. Otherwise an image is read for a patch or two, and the
    # whole LR would cost more than those of the patches.
    pixels = sum(height * width for height, width in sizes)
    self._lr_once = lr is None and 3 * pixels * (1 + 2 / scale**2) <= cache_bytes

  def __len__(self) -> int:
    return len(self._hr)

  def __getitem__(self, index: int) -> Pair:
    return self._cache.get(index, lambda: self._read(index))

  def _read(self, index: int) -> Pair:
    hr = read_image(self._hr[index])
    lr = read_image(self._lr[index]) if self._lr is not None else None
    if self._lr_once:
      # No more than the LR pixels that lie wholly over the image, as `Pair.lr_cells` has them.
      rows, columns = (side // self._scale for side in hr.shape[:2])
      lr = bicubic_window(hr, 1 / self._scale, 0, 0, rows, columns)
    return Pair(str(self._hr[index]), hr, lr)


def check_lr_size(
  lr_name: object,
  lr_size: tuple[int, int],
  hr_name: object,
  hr_size: tuple[int, int],
  scale: int,
) -> None:
  """Raises `InputError` unless LR is HR's (height, width) over the scale, rounded up or down."""
  fits = (lr in (hr // scale, -(-hr // scale)) for lr, hr in zip(lr_size, hr_size, strict=True))
  if not all(fits):
    raise InputError(
      f"{lr_name}: {lr_size[1]}x{lr_size[0]} pixels is not 1/{scale} of "
      f"{hr_size[1]}x{hr_size[0]} of {hr_name}"
    )


def match_names(
  hr: Sequence[tuple[str, File]], lr: Sequence[tuple[str, File]], scale: int
) -> list[File]:
  """LR files in the order of `hr`; an LR file may carry `x4`, as DIV2K's do, after the name.

  Args:
    hr: names and files (paths, or whatever prints as one) of the HR images.
    lr: names and files of the LR images.
    scale: HR pixels per LR pixel, the number after the x.

  Raises:
    InputError: an image has no partner; it names the file.
  """
  partners = {name.removesuffix(f"x{scale}"): file for name, file in lr}
  for name, file in hr:
    if name not in partners:
      raise InputError(f"{file}: no LR image of that name")
  for name in sorted(partners.keys() - {name for name, _ in hr}):
    raise InputError(f"{partners[name]}: no HR image of that name")
  return [partners[name] for name, _ in hr]
