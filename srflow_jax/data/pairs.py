"""What every data source yields: an HR image with its LR image, and the patches cut from them."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from srflow_jax.config import Data
from srflow_jax.errors import InputError
from srflow_jax.ops.resize import bicubic_window


@dataclasses.dataclass(frozen=True)
class Pair:
  """An HR image and, if it was given or prepared, its LR image.

  Attributes:
    name: where it comes from, for messages.
    hr: uint8 [H, W, 3].
    lr: uint8 [h, w, 3], its pixel (i, j) lying over the HR pixels from (i * scale, j * scale) on;
      None means MATLAB's bicubic of the whole HR image, computed for the patch alone.
  """

  name: str
  hr: np.ndarray
  lr: np.ndarray | None = None

  @property
  def nbytes(self) -> int:
    """Bytes of its pixels."""
    return self.hr.nbytes + (self.lr.nbytes if self.lr is not None else 0)

  def lr_cells(self, scale: int) -> tuple[int, int]:
    """Rows and columns of LR pixels that lie wholly over the HR image."""
    rows, columns = self.hr.shape[0] // scale, self.hr.shape[1] // scale
    if self.lr is None:
      return rows, columns
    return min(rows, self.lr.shape[0]), min(columns, self.lr.shape[1])

  def patch(self, scale: int, top: int, left: int, size: int) -> dict[str, np.ndarray]:
    """The patch of `size` x `size` LR pixels whose corner is LR pixel (top, left).

    Returns:
      {"hr": uint8 [size * scale, size * scale, 3], "lr": uint8 [size, size, 3]}.
    """
    rows = slice(top * scale, (top + size) * scale)
    columns = slice(left * scale, (left + size) * scale)
    if self.lr is None:
      lr = bicubic_window(self.hr, 1 / scale, top, left, size, size)
    else:
      lr = self.lr[top : top + size, left : left + size]
    return {"hr": self.hr[rows, columns], "lr": lr}


class PairSource(Protocol):
  """A random-access collection of pairs; reading one may raise `InputError`."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Pair: ...

  def describe(self) -> dict[str, Any]:
    """Tells these data from others: `images`, their number, and `digest`, of names and sizes.

    It does not depend on where the files lie, nor on their pixels.
    """
    ...


def lr_patch_size(data_config: Data, scale: int) -> int:
  """Side of the LR patch; `InputError` if the HR patch is not a multiple of the scale."""
  patch = data_config.hr_patch
  if patch < scale or patch % scale:
    raise InputError(f"config.data.hr_patch is {patch}: it must be a multiple of the scale {scale}")
  return patch // scale


@dataclasses.dataclass(frozen=True)
class RandomPatch:
  """A random patch on the LR grid, mirrored and turned at random.

  The random numbers drawn are the same whatever the switches are, so that switching mirroring on
  or off does not move the patches.
  """

  scale: int
  lr_size: int
  flips: bool
  rotations: bool

  def __call__(self, pair: Pair, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Cuts a patch of `pair`; `InputError` if the image is smaller than it."""
    rows, columns = pair.lr_cells(self.scale)
    check_size(pair.name, *pair.hr.shape[:2], self.lr_size * self.scale)
    top = int(rng.integers(rows - self.lr_size + 1))
    left = int(rng.integers(columns - self.lr_size + 1))
    mirrored, turns = bool(rng.integers(2)), int(rng.integers(4))
    patch = pair.patch(self.scale, top, left, self.lr_size)
    if self.flips and mirrored:
      patch = {name: image[:, ::-1] for name, image in patch.items()}
    if self.rotations:
      patch = {name: np.rot90(image, turns) for name, image in patch.items()}
    return {name: np.ascontiguousarray(image) for name, image in patch.items()}


def check_size(name: object, height: int, width: int, patch: int) -> None:
  """Raises `InputError` if an image of `height` x `width` pixels does not hold the patch."""
  if min(height, width) < patch:
    raise InputError(f"{name}: {width}x{height} pixels, smaller than the patch of {patch}x{patch}")


def fixed_patches(
  source: PairSource, scale: int, lr_size: int, count: int
) -> Iterator[Mapping[str, np.ndarray]]:
  """`count` patches at positions that depend on nothing but the images' number and sizes.

  They go round the images: first the centre of each, then a position of each from a fixed random
  sequence, and so on.
  """
  for number in range(count):
    turn, index = divmod(number, len(source))
    pair = source[index]
    rows, columns = pair.lr_cells(scale)
    check_size(pair.name, *pair.hr.shape[:2], lr_size * scale)
    free = np.array([rows - lr_size, columns - lr_size])
    where = np.random.default_rng([turn, index]).random(2) if turn else np.array([0.5, 0.5])
    top, left = np.rint(where * free).astype(int)
    yield pair.patch(scale, int(top), int(left), lr_size)
