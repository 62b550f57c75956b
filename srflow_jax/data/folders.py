"""Pairs from image files: folders, and the photographs that scikit-image ships."""

import collections
import importlib.util
import pathlib
import threading
from collections.abc import Sequence

import numpy as np

from srflow_jax.data.pairs import Pair, check_size
from srflow_jax.errors import InputError
from srflow_jax.images import check_images, list_images, read_image

# Photographs in scikit-image's wheel (colour, natural, no download). The two motorcycles are a
# stereo pair, hence both on one side.
BUNDLED = {
  "train": ("astronaut.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg"),
  "validation": ("chelsea.png", "coffee.png"),
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
    hr: Sequence[tuple[str, pathlib.Path]],
    scale: int,
    patch: int,
    cache_bytes: int,
    lr: Sequence[tuple[str, pathlib.Path]] | None = None,
  ) -> None:
    """Checks every file without decoding it.

    Args:
      hr: names and paths of the HR images.
      scale: HR pixels per LR pixel.
      patch: side of the HR patches that will be cut, in pixels.
      cache_bytes: how many bytes of decoded images to keep.
      lr: names and paths of the LR images, or None.

    Raises:
      InputError: a file is no image, truncated or smaller than the patch; HR and LR do not match.
    """
    self._hr = list(hr)
    self._lr = _partners(self._hr, lr, scale) if lr is not None else None
    hr_paths = [path for _, path in self._hr]
    hr_sizes = check_images(hr_paths)
    for path, (height, width) in zip(hr_paths, hr_sizes, strict=True):
      check_size(path, height, width, patch)
    if self._lr is not None:
      lr_sizes = check_images(self._lr)
      for files in zip(self._lr, lr_sizes, hr_paths, hr_sizes, strict=True):
        check_lr_size(*files, scale)
    self._cache = _Cache(cache_bytes)

  def __len__(self) -> int:
    return len(self._hr)

  def __getitem__(self, index: int) -> Pair:
    name, path = self._hr[index]
    lr = self._cache.read(self._lr[index]) if self._lr is not None else None
    return Pair(name, self._cache.read(path), lr)


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


def _partners(
  hr: Sequence[tuple[str, pathlib.Path]], lr: Sequence[tuple[str, pathlib.Path]], scale: int
) -> list[pathlib.Path]:
  """LR paths in the order of `hr`; an LR file may carry `x4`, as DIV2K's do, after the name."""
  by_name = {name.removesuffix(f"x{scale}"): path for name, path in lr}
  missing = [path for name, path in hr if name not in by_name]
  if missing:
    raise InputError(f"{missing[0]}: no LR image of that name beside {lr[0][1]}")
  surplus = set(by_name) - {name for name, _ in hr}
  if surplus:
    raise InputError(f"{by_name[min(surplus)]}: no HR image of that name beside {hr[0][1]}")
  return [by_name[name] for name, _ in hr]


class _Cache:
  """Decoded images, the least recently used dropped first; each process has its own."""

  def __init__(self, max_bytes: int) -> None:
    self._max_bytes = max_bytes
    self._bytes = 0
    self._images: collections.OrderedDict[pathlib.Path, np.ndarray] = collections.OrderedDict()
    self._lock = threading.Lock()

  def __reduce__(self) -> tuple:
    return (_Cache, (self._max_bytes,))

  def read(self, path: pathlib.Path) -> np.ndarray:
    with self._lock:
      if path in self._images:
        self._images.move_to_end(path)
        return self._images[path]
    image = read_image(path)
    with self._lock:
      if path not in self._images and image.nbytes <= self._max_bytes:
        self._images[path] = image
        self._bytes += image.nbytes
        while self._bytes > self._max_bytes:
          self._bytes -= self._images.popitem(last=False)[1].nbytes
    return image
