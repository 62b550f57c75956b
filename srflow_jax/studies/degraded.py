"""LR images unlike those of training, to see whether samples stay finite there."""

import io
import pathlib

import numpy as np
from PIL import Image

from srflow_jax.evaluation.inputs import find_images
from srflow_jax.images import write_png

_JPEG_QUALITY = 20
_NOISE_LEVELS = 10.0  # the noise's standard deviation, in grey levels


def degrade(lr: np.ndarray, kind: str, seed: int) -> np.ndarray:
  """Damages an image.

  Args:
    lr: uint8 `[h, w, 3]`.
    kind: "jpeg20", a JPEG of quality 20 and back; or "noise10", Gaussian noise of 10 grey levels.
    seed: of the noise.
  """
  if kind == "jpeg20":
    file = io.BytesIO()
    Image.fromarray(lr).save(file, "JPEG", quality=_JPEG_QUALITY)
    return np.asarray(Image.open(file).convert("RGB"))
  if kind == "noise10":
    noise = np.random.default_rng(seed).normal(0.0, _NOISE_LEVELS, lr.shape)
    return np.clip(np.rint(lr + noise), 0, 255).astype(np.uint8)
  raise ValueError(f"no such degradation: {kind}")


def write_degraded(
  folder: pathlib.Path, kind: str, scale: int, hr_dir: str, lr_dir: str, number: int
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes the first images of an evaluation with LR degraded.

  Args:
    folder: where to.
    kind: see `degrade`.
    scale: HR size over LR size.
    hr_dir: as `find_images` takes it.
    lr_dir: likewise.
    number: of images.

  Returns:
    The folders of HR and LR images.
  """
  for index, image in enumerate(find_images(scale, hr_dir, lr_dir)[:number]):
    paths = [folder / name / f"{image.name}.png" for name in ("hr", "lr")]
    if all(path.exists() for path in paths):  # an evaluation knows its images by their times
      continue
    lr, hr = image.read(scale)
    assert hr is not None  # a study's evaluation has HR images
    for path, pixels in zip(paths, (hr, degrade(lr, kind, index)), strict=True):
      write_png(path, pixels)
  return folder / "hr", folder / "lr"
