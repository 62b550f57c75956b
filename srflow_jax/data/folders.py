"""Pairs from image files: folders, and the photographs that scikit-image ships."""

import hashlib
import importlib.util
import json
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

from srflow_jax.data.cache import PairCache
from srflow_jax.data.pairs import Pair, check_size
from srflow_jax.errors import InputError
from srflow_jax.images import check_images, read_image
from srflow_jax.listing import list_images
from srflow_jax.ops.resize import bicubic_window

# Colour photographs in scikit-image's wheel, which need no download. The two motorcycles are a
# stereo pair, hence both in one split.
BUNDLED = {
  "train": ("astronaut.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png"),
  "validation": ("chelsea.png", "rocket.jpg"),
}


def photographs(
  folder: str, split: str, leave_out: Collection[str | os.PathLike] = ()
) -> list[tuple[str, pathlib.Path]]:
  """Names and paths of the images of a folder tree, or of the bundled photographs.

  Args:
    folder: a folder tree of images; '' for the photographs that scikit-image ships.
    split: "train" or "validation": which of the bundled photographs. A folder has no splits.
    leave_out: folders of the tree to pass over.

  Returns:
    (name, path) sorted by path; the name is the path inside the folder without its suffix.

  Raises:
    InputError: the folder is missing, empty or cannot be read, or two images have one name.
  """
  if not folder:
    root = _bundled_folder()
    return [(pathlib.Path(file).stem, root / file) for file in BUNDLED[split]]
  named = {}
  for path in list_images(folder, leave_out):
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
    self._sizes = check_images(hr)
    for path, (height, width) in zip(hr, self._sizes, strict=True):
      check_size(path, height, width, patch)
    self._lr_sizes = check_images(lr) if lr is not None else None
    if lr is not None:
      for files in zip(lr, self._lr_sizes, hr, self._sizes, strict=True):
        check_lr_size(*files, scale)
    self._cache = PairCache(cache_bytes)
    # If all images stay in memory, the LR of each is made once and whole: a patch of it is cut
    # five times faster than it is computed. Otherwise an image is read for a patch or two, and the
    # whole LR would cost more than those of the patches.
    pixels = sum(height * width for height, width in self._sizes)
    self._lr_once = lr is None and 3 * pixels * (1 + 2 / scale**2) <= cache_bytes

  def __len__(self) -> int:
    return len(self._hr)

  def __getitem__(self, index: int) -> Pair:
    return self._cache.get(index, lambda: self._read(index))

  def _read(self, index: int) -> Pair:
    hr = read_image(self._hr[index], self._sizes[index])
    lr = read_image(self._lr[index], self._lr_sizes[index]) if self._lr is not None else None
    if self._lr_once:
      # No more than the LR pixels that lie wholly over the image, as `Pair.lr_cells` has them.
      rows, columns = (side // self._scale for side in hr.shape[:2])
      lr = bicubic_window(hr, 1 / self._scale, 0, 0, rows, columns)
    return Pair(str(self._hr[index]), hr, lr)

  def describe(self) -> dict[str, Any]:
    """See `PairSource`. Sizes are those of the images and of their files."""
    digest = hashlib.sha256()
    for paths, sizes in ((self._hr, self._sizes), (self._lr or [], self._lr_sizes or [])):
      top = os.path.commonpath([path.parent for path in paths]) if paths else ""
      for path, size in zip(paths, sizes, strict=True):
        line = [os.path.relpath(path, top), *size, os.stat(path).st_size]
        digest.update(f"{json.dumps(line)}\n".encode())
    return {"images": len(self), "digest": digest.hexdigest()}


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
