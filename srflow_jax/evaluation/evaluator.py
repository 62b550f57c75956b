"""Runs a system on an image and measures what it gives."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from srflow_jax.errors import InputError
from srflow_jax.evaluation import calibration, lpips, lpips_vgg, luma, metrics
from srflow_jax.evaluation.calibration import Calibration
from srflow_jax.evaluation.drawing import Drawn, draw, make
from srflow_jax.evaluation.recipes import MIN_SAMPLES, Recipe
from srflow_jax.evaluation.systems import System
from srflow_jax.sampling.budget import Request, check_num_samples
from srflow_jax.sampling.sampler import Density, Seconds
from srflow_jax.sampling.temperatures import Temperature, check_temperature, draws_noise

# Bytes for each pixel of HR that measuring takes beside the samples. It makes 8 bits of floats, HR
# as floats with and without noise for the likelihood, LPIPS' maps, and the sheet, one after the
# other.
_SCRATCH = 48
_LPIPS_SCRATCH = 120  # bytes a pixel of a strip, of AlexNet's features


@dataclasses.dataclass(frozen=True)
class Settings:
  """How samples are drawn and made into images.

  Attributes:
    num_samples: Samples of each image from a system that samples.
    temperature: Standard deviation of the latents, or of each level of them.
    seed: Sample i of an image is a function of the seed and i, whatever else is drawn.
    uint8_mode: `round`, or `truncate` as the published scripts do.
    lpips_vgg: Measures LPIPS with VGG16 too, by `lpips-j`.
    consistent: Whether there are recipes whose samples are made consistent with LR.
    estimates: Whether there are recipes for the mean and the medoid of the samples.
    denoise: For which multiples of the training noise's variance there are recipes that remove it.
  """

  num_samples: int = 10
  temperature: Temperature = 0.9
  seed: int = 0
  uint8_mode: str = "round"
  lpips_vgg: bool = False
  consistent: bool = False
  estimates: bool = False
  denoise: tuple[float, ...] = ()

  def protocol(self) -> dict[str, str | int]:
    """The protocol that the numbers follow: its name, its version and the kind of 8 bits."""
    return {
      "name": metrics.PROTOCOL,
      "version": metrics.PROTOCOL_VERSION,
      "uint8": self.uint8_mode,
    }

  def luma_protocol(self, scale: int) -> dict[str, str | int]:
    """The protocol of PSNR-Y and SSIM-Y, with the pixels that are left out at each border."""
    return {
      "name": luma.PROTOCOL,
      "version": luma.PROTOCOL_VERSION,
      "uint8": self.uint8_mode,
      "border": scale,
    }

  def check(self) -> None:
    """Raises `InputError` for settings that cannot be meant."""
    check_num_samples(self.num_samples)
    if self.estimates and self.num_samples < MIN_SAMPLES:
      raise InputError(
        f"num_samples is {self.num_samples}: estimates need {MIN_SAMPLES}, of fewer none is in the "
        "middle"
      )
    check_temperature(self.temperature)
    if not all(0 < multiple < math.inf for multiple in self.denoise):
      raise InputError(f"denoise is {self.denoise}: multiples must be above 0, and finite")
    if len(set(self.denoise)) < len(self.denoise):
      raise InputError(f"denoise is {self.denoise}: one is there twice")
    if not 0 <= self.seed < 2**32:
      raise InputError(f"seed is {self.seed}: it must be from 0 to {2**32 - 1}")
    if self.uint8_mode not in metrics.UINT8_MODES:
      modes = ", ".join(metrics.UINT8_MODES)
      raise InputError(f"uint8 is {self.uint8_mode!r}: it must be one of {modes}")


@dataclasses.dataclass(frozen=True)
class Scores:
  """What was measured on one image; tuples have one value a sample.

  Attributes:
    context_seconds: Time for what samples share; compilation is not counted.
    sample_seconds: Mean time of a sample, once that is there.
    lr_psnr: dB.
    psnr: dB.
    ssim: At most 1.
    psnr_y: dB, by protocol `y_border`, as is `ssim_y`.
    ssim_y: At most 1.
    lpips: All of LPIPS.
    lpips_vgg: LPIPS with VGG16, averaged over pixels, if it was asked for.
    nll: Bits per pixel as published, without dequantisation; None for systems without a density.
    bits_per_dim: Bits per dimension of the uniformly dequantised HR image.
    nll_log_dets: What each stage's log-det adds to the nll.
    nll_latents: What each latent's log-density adds to it; these and the log-dets sum to it.
    round_trip_error: The largest difference, in grey levels, of HR from what its latents decode to.
    largest_inverse_factor: What the flow's inverse multiplies errors by at most in one layer.
    largest_map_factor: The same of the flow's elementwise maps alone.
    not_finite: How many of its values are not finite; they count as black.
    outside: How many are finite and outside [-1, 2], where 0 is black and 1 is white.
    other_uint8: The scores of the samples made into 8 bits the other way, with the same times and
      without likelihoods.
    calibration: HR against the samples, where there are several.
  """

  context_seconds: float
  sample_seconds: float
  lr_psnr: tuple[float, ...] | None = None
  psnr: tuple[float, ...] | None = None
  ssim: tuple[float, ...] | None = None
  lpips: metrics.LpipsScores | None = None
  lpips_vgg: tuple[float, ...] | None = None
  nll: float | None = None
  bits_per_dim: float | None = None
  nll_log_dets: tuple[float, ...] = ()
  nll_latents: tuple[float, ...] = ()
  round_trip_error: float | None = None
  largest_inverse_factor: float | None = None
  largest_map_factor: float | None = None
  psnr_y: tuple[float, ...] | None = None
  ssim_y: tuple[float, ...] | None = None
  not_finite: tuple[int, ...] = ()
  outside: tuple[int, ...] = ()
  other_uint8: "Scores | None" = None
  calibration: Calibration | None = None


def num_samples(system: System, settings: Settings, temperature: Temperature) -> int:
  """How many samples are drawn: one where all would be equal."""
  return settings.num_samples if system.stochastic and draws_noise(temperature) else 1


def request_of(
  system: System, hr_size: tuple[int, int], settings: Settings, measured: bool
) -> Request:
  """What evaluating an image asks of a system.

  Args:
    system: The system.
    hr_size: Height and width.
    settings: How samples are drawn.
    measured: Whether there is an HR image to measure by.
  """
  count = settings.num_samples if system.stochastic else 1
  pixels = math.prod(hr_size)
  kinds = len(_modes(settings, measured))
  # Floats are kept where samples are made consistent, which are then there beside the plain ones.
  kept = 2 * kinds + 4 if settings.consistent else kinds
  reserved = pixels * (3 * count * kept + _SCRATCH)
  if measured:
    reserved += _LPIPS_SCRATCH * min(pixels, lpips.STRIP_PIXELS)
    reserved += lpips_vgg.SCRATCH * pixels if settings.lpips_vgg else 0
  methods = ("draw",)
  if system.stochastic:
    methods += ("denoised",) if settings.denoise else ()
    methods += ("density", "decode") if measured else ()
  return Request(methods, count, reserved)


def evaluate_image(
  system: System,
  lr: np.ndarray,
  hr: np.ndarray | None,
  settings: Settings,
  on_pixels: Callable[[int], object] = lambda count: None,
) -> tuple[np.ndarray, Scores]:
  """As `evaluate_recipes`, of samples at the settings' own temperature alone."""
  return next(evaluate_recipes(system, lr, hr, settings, [Recipe(settings.temperature)], on_pixels))


def evaluate_recipes(
  system: System,
  lr: np.ndarray,
  hr: np.ndarray | None,
  settings: Settings,
  recipes: Sequence[Recipe],
  on_pixels: Callable[[int], object] = lambda count: None,
) -> Iterator[tuple[np.ndarray, Scores]]:
  """Draws a system's samples of an image, makes images of them, and measures these.

  What does not depend on the recipe is computed once: the likelihood, and the context of an image
  that is not cut into tiles. Neighbours in `recipes` share samples where they can.

  Args:
    system: The system; one that does not sample gives one image.
    lr: uint8 `[h, w, 3]`.
    hr: uint8 `[h * scale, w * scale, 3]`; without it, only the times are measured.
    settings: How samples are drawn, but for the recipe.
    recipes: What is made of them.
    on_pixels: Called with the number of pixels drawn, for progress.

  Yields:
    For each recipe the images, uint8 `[N, h * scale, w * scale, 3]`, and the scores.

  Raises:
    InputError: The image does not fit in memory.
  """
  size = tuple(side * system.scale for side in lr.shape[:2])
  request = request_of(system, size, settings, hr is not None)
  system.plan(lr.shape[:2], request)
  shared = Seconds()
  prepared = system.prepare(lr, request, shared)
  density = {}
  if hr is not None and system.stochastic and any(recipe.plain for recipe in recipes):
    density = likelihood(lambda hrs: system.density(prepared, hrs), hr, settings.seed)
  for _, group in itertools.groupby(recipes, key=lambda recipe: recipe.drawn):
    own = list(group)
    count = num_samples(system, settings, own[0].temperature)
    modes = _modes(settings, hr is not None)
    drawn = draw(system, prepared, size, own, settings.seed, count, modes, on_pixels)
    drawn.seconds.context += shared.context
    yield from _measured(own, drawn, lr, hr, density, settings)
    del drawn  # before the next ones are there


def _measured(
  recipes: Sequence[Recipe],
  drawn: Drawn,
  lr: np.ndarray,
  hr: np.ndarray | None,
  density: Mapping[str, Any],
  settings: Settings,
) -> Iterator[tuple[np.ndarray, Scores]]:
  """What recipes make of samples that they share, and its scores. The density is of the samples."""
  for recipe in recipes:
    made = make(recipe, drawn, lr, settings.uint8_mode)
    seconds, marks = (drawn.seconds.context, made.seconds), made.marks
    chosen = made.levels.pop(settings.uint8_mode)
    if hr is None:
      yield chosen, Scores(*seconds, **marks)
      continue
    scale = hr.shape[0] // lr.shape[0]
    (other,) = made.levels.values()
    scores = _measure(chosen, hr, scale, seconds, settings)
    equal = np.array_equal(chosen, other)
    other_scores = scores if equal else _measure(other, hr, scale, seconds, settings)
    del made, other
    scores = dataclasses.replace(
      scores,
      **marks,
      **(density if recipe.plain else {}),
      other_uint8=other_scores,
      calibration=calibration.calibration(chosen, hr, scale)
      if len(chosen) >= calibration.MIN_SAMPLES
      else None,
    )
    yield chosen, scores


def _modes(settings: Settings, measured: bool) -> list[str]:
  # Both kinds of 8 bits are measured; one of them is looked at.
  return [m for m in metrics.UINT8_MODES if measured or m == settings.uint8_mode]


def _measure(
  samples: np.ndarray,
  hr: np.ndarray,
  scale: int,
  seconds: tuple[float, float],
  settings: Settings,
) -> Scores:
  smallest = min(hr.shape[:2])  # a training run's patches may be too small for some
  psnr_y = ssim_y = None
  if smallest >= luma.min_size(scale):
    pairs = (luma.psnr_and_ssim(sample, hr, border=scale) for sample in samples)
    psnr_y, ssim_y = zip(*pairs, strict=True)
  return Scores(
    *seconds,
    lr_psnr=tuple(metrics.lr_psnr(samples, hr, scale)),
    psnr=tuple(metrics.psnr(sample, hr) for sample in samples),
    ssim=tuple(metrics.ssim(sample, hr) for sample in samples)
    if smallest >= metrics.SSIM_WINDOW
    else None,
    psnr_y=psnr_y,
    ssim_y=ssim_y,
    lpips=metrics.lpips_scores(samples, hr) if smallest >= lpips.MIN_SIZE else None,
    lpips_vgg=tuple(lpips_vgg.distances(samples, hr)) if settings.lpips_vgg else None,
  )


def likelihood(
  density: Callable[[Sequence[np.ndarray]], Sequence[Density]], hr: np.ndarray, seed: int
) -> Mapping[str, Any]:
  """An image's negative log-likelihood in both units, and what it is made of.

  Args:
    density: Of float32 images in [0, 1], with a round trip of the first.
    hr: uint8 `[H, W, 3]`.
    seed: Of the noise u, uniform on [-0.5, 0.5), that makes the levels continuous.

  Returns:
    Fields of `Scores`: `nll`, `-log2 p(hr / 255) / pixels`, as published in bits per pixel without
    dequantisation; `bits_per_dim`, `-log2 p((hr + u) / 255) / dims + log2(255)`, in bits per
    dimension of the 8-bit image (3 a pixel, less those that the model's LR image decides exactly);
    and those of the flow's consistency.
  """
  dequantised = np.random.default_rng(seed).random(hr.shape, np.float32)
  dequantised += hr - np.float32(0.5)
  np.divide(dequantised, 255, out=dequantised)
  levels, continuous = density([hr.astype(np.float32) / 255, dequantised])
  to_bits = -1 / (levels.num_pixels * math.log(2))
  return {
    "nll": levels.log_prob * to_bits,
    "bits_per_dim": -continuous.log_prob / (continuous.num_dims * math.log(2)) + math.log2(255),
    "nll_log_dets": tuple(nats * to_bits for nats in levels.log_dets),
    "nll_latents": tuple(nats * to_bits for nats in levels.latent_log_probs),
    "round_trip_error": 255 * levels.round_trip,
    "largest_inverse_factor": levels.largest_inverse_factor,
    "largest_map_factor": levels.largest_map_factor,
  }
