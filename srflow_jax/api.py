"""A trained model as one object, on NumPy or PIL images of any size."""

import math
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from srflow_jax.errors import InputError, is_whole, one_line
from srflow_jax.evaluation.metrics import to_uint8
from srflow_jax.images import to_rgb
from srflow_jax.ops.consistency import make_consistent
from srflow_jax.ops.resize import bicubic_resize
from srflow_jax.sampling.budget import Request, check_num_samples
from srflow_jax.sampling.denoising import removable_variance
from srflow_jax.sampling.sampler import Prepared, Sampler
from srflow_jax.sampling.temperatures import (
  Temperature,
  check_temperature,
  draws_noise,
  temperature_text,
)
from srflow_jax.weights.loading import load_model

ImageLike = np.ndarray | Image.Image


class SuperResolution:
  """The model of a training run or one that the repository carries, with its parameters.

  Images are PIL images (any mode that converts to RGB without loss of an alpha channel), or arrays
  `[H, W, 3]`: uint8, or floats in [0, 1]. A PIL image is turned as its EXIF data say.
  What comes back is of the same kind of numbers: uint8, rounded, for uint8 and PIL images; float32,
  not clipped, for floats. Its colours are those of the input's profile: to save a sample of a PIL
  image, give `save` the image's own, `icc_profile=image.info.get("icc_profile")`. The compiled
  programs of the sizes used last are kept, so a second image of a size does not wait for the
  compiler.

      model = srflow_jax.load("runs/demo")
      samples = model.sample(lr, num_samples=4)       # [4, scale * h, scale * w, 3]
      latents = model.encode(hr, lr)                  # finest first, [h', w', C] each
      back = model.decode(latents, lr)                # hr again
      nats = model.log_prob(hr, lr)                   # log p(hr | lr)

  Attributes:
    config: The run's configuration.
    scale: By how much images are enlarged.
    step: The training step of the checkpoint; 0 for a named model.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    max_memory_gb: float = 0.0,
    tile_overlap: int | None = None,
    step: int | Literal["best"] | None = None,
    ema: bool = True,
  ) -> None:
    """See `srflow_jax.load`."""
    run = load_model(workdir, step, ema)
    self.config = run.config
    self.scale = int(run.config.model.scale)
    self.step = int(run.step)
    self._model = run.model
    self._sampler = Sampler(run.model, run.params, max_memory_gb, tile_overlap)

  def sample(
    self,
    image: ImageLike,
    num_samples: int = 1,
    temperature: Temperature | list[float] = 0.9,
    seed: int = 0,
    consistent: bool = False,
    denoise: float = 0.0,
  ) -> np.ndarray:
    """Draws super-resolved images.

    An image too large for the budget of memory is computed in tiles, which share its noise.

    Args:
      image: The LR image, `[h, w, 3]`.
      num_samples: How many. Sample i depends on the seed and i alone.
      temperature: Standard deviation of the latents, or a tuple or list with one for each level
        of them, finest first; at 0 the image of the most likely latents is drawn, the same for
        every sample.
      seed: Of the noise, from 0 to 2^32 - 1.
      consistent: Whether samples are changed so that bicubic reduces them to the LR image
        (`ops/consistency.py`).
      denoise: Which share of the variance of the training's noise is removed
        (`sampling/denoising.py`): 1 for all of it, 0 for none.

    Returns:
      `[num_samples, scale * h, scale * w, 3]`.

    Raises:
      InputError: An argument cannot be used, or no tile fits the budget.
    """
    temperature = tuple(temperature) if isinstance(temperature, list) else temperature
    check_sampling(num_samples, temperature, seed)
    lr, dtype = _as_floats(image, "image")
    shape = (lr.shape[0] * self.scale, lr.shape[1] * self.scale, 3)
    reserved = num_samples * math.prod(shape) * (dtype.itemsize + 4 * consistent)
    variance = self._variance(denoise)
    # Without noise all samples are equal: one is drawn.
    drawn = num_samples if draws_noise(temperature) and self._model.stochastic else 1
    request = Request(("denoised" if variance else "draw",), drawn, reserved)
    prepared = self._sampler.prepare(lr, request)
    samples = np.empty((drawn, *shape), np.float32 if consistent else dtype)
    for index, (rows, columns), tile in self._sampler.draw(
      prepared, seed, range(drawn), temperature, noise_variance=variance
    ):
      name = f"sample {index} at temperature {temperature_text(temperature)}"
      try:
        samples[index, rows, columns] = _answer(tile, samples.dtype, name)
      except InputError as error:
        hint = "; a lower temperature may help" if draws_noise(temperature) else ""
        raise InputError(f"{error}{hint}") from None
    if consistent:
      for sample in samples:
        sample[:] = make_consistent(sample, lr, self.scale)
      samples = _answer(samples, dtype, "a consistent sample")
    return samples if drawn == num_samples else np.repeat(samples, num_samples, 0)

  def encode(self, hr: ImageLike, lr: ImageLike | None = None) -> tuple[np.ndarray, ...]:
    """Maps an HR image to its latents; a large one tile by tile, like all methods.

    Args:
      hr: `[H, W, 3]`, H and W multiples of the scale.
      lr: `[H / scale, W / scale, 3]`; by default MATLAB's bicubic of hr.

    Returns:
      The latents, finest first, float32 `[h', w', C]` each; standard normal for a typical image.

    Raises:
      InputError: The images do not fit each other, or the budget, or the model is no flow.
    """
    return tuple(z[0] for z in self._sampler.encode(*self._pair(hr, lr)))

  def decode(self, latents: Sequence[np.ndarray], lr: ImageLike) -> np.ndarray:
    """Maps latents to the HR image; the inverse of `encode`.

    Args:
      latents: As `encode` gives them for an image of this size.
      lr: `[h, w, 3]`.

    Returns:
      `[scale * h, scale * w, 3]`, of lr's kind of numbers.

    Raises:
      InputError: The latents are not of the sizes that lr asks for, or it does not fit the budget.
    """
    lr, dtype = _as_floats(lr, "lr")
    prepared = self._prepare(lr, "decode")
    latents = _as_latents(latents)
    wanted = self._sampler.latent_shapes(prepared)
    if [z.shape for z in latents] != wanted:
      raise InputError(
        f"latents of shapes {[z.shape[1:] for z in latents]}: this LR image asks for "
        f"{[shape[1:] for shape in wanted]}"
      )
    image = np.empty([*(side * self.scale for side in lr.shape[:2]), 3], dtype)
    for (rows, columns), part in self._sampler.decode(prepared, latents):
      image[rows, columns] = _answer(part, dtype, "what the latents decode to")
    return image

  def log_prob(self, hr: ImageLike, lr: ImageLike | None = None) -> float:
    """The log-density of an HR image, values in [0, 1], given its LR image.

    Args:
      hr: As in `encode`.
      lr: As in `encode`.

    Returns:
      `log p(hr | lr)` in nats. Where the model pads the image (to what its squeezes and
      windows divide) it is that of the padded image.
    """
    prepared, hr = self._pair(hr, lr)
    (density,) = self._sampler.density(prepared, [hr])
    return density.log_prob

  def _variance(self, denoise: float) -> float:
    """Of the noise to remove."""
    if not 0 <= denoise < math.inf:
      raise InputError(f"denoise is {denoise}: it must be 0 or more, and finite")
    if not denoise:
      return 0.0
    self._check_flow()
    return denoise * removable_variance(self.config.data.noise, "this run")

  def _check_flow(self) -> None:
    if not self._model.stochastic:
      raise InputError("this run's model is an encoder alone: it has neither latents nor a density")

  def _prepare(self, lr: np.ndarray, method: str) -> Prepared:
    self._check_flow()
    # The host holds the padded HR image and the latents, which are as many numbers.
    reserved = 3 * 4 * 3 * self.scale**2 * lr.shape[0] * lr.shape[1]
    return self._sampler.prepare(lr, Request((method,), reserved=reserved))

  def _pair(self, hr: ImageLike, lr: ImageLike | None) -> tuple[Prepared, np.ndarray]:
    """What the sampler prepared of the LR image, and HR `[H, W, 3]`."""
    original = hr
    hr, _ = _as_floats(hr, "hr")
    if any(side % self.scale for side in hr.shape[:2]):
      raise InputError(
        f"hr is {hr.shape[1]}x{hr.shape[0]} pixels: both must be multiples of {self.scale}"
      )
    size = tuple(side // self.scale for side in hr.shape[:2])
    if lr is None:
      array = _as_array(original, "hr")
      half = array.dtype == np.float16  # which the resizing does not take
      lr = bicubic_resize(array.astype(np.float32) if half else array, 1 / self.scale)
    lr, _ = _as_floats(lr, "lr")
    if lr.shape[:2] != size:
      raise InputError(
        f"lr is {lr.shape[1]}x{lr.shape[0]} pixels: it must be 1/{self.scale} of hr's "
        f"{hr.shape[1]}x{hr.shape[0]}"
      )
    return self._prepare(lr, "density"), hr


def check_sampling(num_samples: int, temperature: Temperature, seed: int) -> None:
  """Raises `InputError` for settings that cannot be meant."""
  check_num_samples(num_samples)
  check_temperature(temperature)
  if not is_whole(seed) or not 0 <= seed < 2**32:
    raise InputError(f"seed is {seed}: it must be a whole number from 0 to {2**32 - 1}")


def _as_array(image: ImageLike, name: str) -> np.ndarray:
  if isinstance(image, Image.Image):
    if 0 in image.size:
      raise InputError(f"{name} has no pixels: it is {image.width}x{image.height}")
    return to_rgb(image, name)
  if not isinstance(image, np.ndarray):
    raise InputError(f"{name} is a {type(image).__name__}: give a NumPy array or a PIL image")
  if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
    raise InputError(f"{name} has shape {image.shape}: it must be [H, W, 3]")
  if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
    raise InputError(f"{name} is of {image.dtype}: it must be uint8, or floats in [0, 1]")
  if image.dtype != np.uint8 and not (-0.5 <= image.min() and image.max() <= 1.5):
    raise InputError(f"{name} has values from {image.min()} to {image.max()}: floats lie in [0, 1]")
  return image


def _as_latents(latents: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
  """Latents as float32 `[1, h, w, C]` each."""
  try:
    arrays = [np.asarray(z) for z in latents]
  except (TypeError, ValueError) as error:
    raise InputError(f"latents are no list of arrays: {one_line(error)}") from None
  for array in arrays:
    if array.dtype.kind not in "fiu":
      raise InputError(f"latents are of {array.dtype}: they must be real numbers")
  return tuple(array.astype(np.float32)[None] for array in arrays)


def _as_floats(image: ImageLike, name: str) -> tuple[np.ndarray, np.dtype]:
  """An image as float32 in [0, 1], and the type that answers are given in."""
  image = _as_array(image, name)
  if image.dtype == np.uint8:
    return (image / 255).astype(np.float32), np.dtype(np.uint8)
  return image.astype(np.float32), np.dtype(np.float32)


def _answer(pixels: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
  """The model's output as numbers of the kind that the input had."""
  if not np.isfinite(pixels).all():
    raise InputError(f"{name} has values that are not finite")
  return to_uint8(pixels) if dtype == np.uint8 else pixels
