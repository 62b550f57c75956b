"""Runs a system on an image and measures what it gives."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from srflow_jax.errors import InputError
from srflow_jax.evaluation import lpips, lpips_vgg, metrics
from srflow_jax.evaluation.systems import System, Work
from srflow_jax.sampling.sampler import Density, Times

# Bytes a pixel of HR that measuring takes beside the samples: making 8 bits of floats, noise for
# the likelihood, LPIPS' maps, the sheet; none at the same time.
_SCRATCH = 48
_LPIPS_SCRATCH = 120  # bytes a pixel of a strip, of AlexNet's features


@dataclasses.dataclass(frozen=True)
class Settings:
  """How samples are drawn and made into images.

  Attributes:
    num_samples: Samples of each image from a system that samples.
    temperature: Standard deviation of the latents.
    seed: Sample i of an image is a function of the seed and i, whatever else is drawn.
    uint8_mode: `round`, or `truncate` as the published scripts do.
    lpips_vgg: Measures LPIPS with VGG16 too, by `lpips-j`.
  """

  num_samples: int = 10
  temperature: float = 0.9
  seed: int = 0
  uint8_mode: str = "round"
  lpips_vgg: bool = False

  def protocol(self) -> dict[str, str | int]:
    """What the numbers are called by: the protocol, its version, and the kind of 8 bits."""
    return {
      "name": metrics.PROTOCOL,
      "version": metrics.PROTOCOL_VERSION,
      "uint8": self.uint8_mode,
    }

  def check(self) -> None:
    """Refuses what cannot be meant, by `InputError`."""
    if self.num_samples < 1:
      raise InputError(f"num_samples is {self.num_samples}: it must be at least 1")
    if not 0 <= self.temperature < math.inf:
      raise InputError(f"temperature is {self.temperature}: it must be 0 or more, and finite")
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
    sample_seconds: Mean time of a sample, given that.
    lr_psnr: dB.
    psnr: dB.
    ssim: At most 1.
    lpips: All of LPIPS.
    lpips_vgg: LPIPS with VGG16, averaged over pixels, if it was asked for.
    nll: Bits per pixel as published, without dequantisation; None for systems without a density.
    bits_per_dim: Bits per dimension of the uniformly dequantised HR image.
    nll_log_dets: What each stage's log-det adds to the nll.
    nll_latents: What each latent's log-density adds to it; these and the log-dets sum to it.
    round_trip_error: The largest difference, in grey levels, of HR from what its latents decode to.
    largest_inverse_scale: What the flow's inverse multiplies errors by at most in one layer.
    other_uint8: What samples made into 8 bits the other way score (no likelihood, the same times).
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
  largest_inverse_scale: float | None = None
  other_uint8: "Scores | None" = None


class NotFiniteError(InputError):
  """A sample has values that are not finite."""


def work_on(system: System, hr_size: tuple[int, int], settings: Settings, measured: bool) -> Work:
  """What evaluating an image asks of a system.

  Args:
    system: The system.
    hr_size: Height and width.
    settings: How samples are drawn.
    measured: Whether there is an HR image to measure by.
  """
  num_samples = settings.num_samples if system.stochastic else 1
  pixels = math.prod(hr_size)
  reserved = pixels * (3 * num_samples * len(_modes(settings, measured)) + _SCRATCH)
  if measured:
    reserved += _LPIPS_SCRATCH * min(pixels, lpips.STRIP_PIXELS)
    reserved += lpips_vgg.SCRATCH * pixels if settings.lpips_vgg else 0
  return Work(num_samples, measured, reserved)


def evaluate_image(
  system: System,
  lr: np.ndarray,
  hr: np.ndarray | None,
  settings: Settings,
  on_pixels: Callable[[int], object] = lambda count: None,
) -> tuple[np.ndarray, Scores]:
  """As `evaluate_temperatures`, at the settings' own temperature alone."""
  return next(evaluate_temperatures(system, lr, hr, settings, [settings.temperature], on_pixels))


def evaluate_temperatures(
  system: System,
  lr: np.ndarray,
  hr: np.ndarray | None,
  settings: Settings,
  temperatures: Sequence[float],
  on_pixels: Callable[[int], object] = lambda count: None,
) -> Iterator[tuple[np.ndarray, Scores]]:
  """Draws a system's samples of an image and measures them.

  What does not depend on the temperature is computed once: the likelihood, and the context of an
  image that is not cut into tiles.

  Args:
    system: The system; one that does not sample gives one image.
    lr: uint8 `[h, w, 3]`.
    hr: uint8 `[h * scale, w * scale, 3]`; without it, only the times are measured.
    settings: How samples are drawn, but for the temperature.
    temperatures: Standard deviations of the latents.
    on_pixels: Called with the number of pixels drawn, for progress.

  Yields:
    For each temperature the samples, uint8 `[N, h * scale, w * scale, 3]`, and the scores.

  Raises:
    NotFiniteError: A sample has values that are not finite.
    InputError: The image does not fit in memory.
  """
  work = work_on(system, tuple(s * system.scale for s in lr.shape[:2]), settings, hr is not None)
  system.plan(lr.shape[:2], work)
  shared = Times()
  prepared = system.prepare(lr, work, shared)
  of_flow = None
  for temperature in temperatures:
    times = dataclasses.replace(shared)
    samples = _draw(system, prepared, lr, hr is not None, settings, temperature, times, on_pixels)
    seconds = times.context, times.samples / work.num_samples
    chosen = samples.pop(settings.uint8_mode)
    if hr is None:
      yield chosen, Scores(*seconds)
      continue
    if of_flow is None:
      of_flow = likelihood(lambda *args: system.density(prepared, *args), hr, settings.seed)
    (other,) = samples.values()
    scores = _measure(chosen, hr, system.scale, seconds, settings)
    equal = np.array_equal(chosen, other)
    other = scores if equal else _measure(other, hr, system.scale, seconds, settings)
    del samples
    yield chosen, dataclasses.replace(scores, **of_flow, other_uint8=other)


def _modes(settings: Settings, measured: bool) -> list[str]:
  # Both kinds of 8 bits are needed for measuring, one to be looked at.
  return [m for m in metrics.UINT8_MODES if measured or m == settings.uint8_mode]


def _draw(
  system: System,
  prepared: Any,
  lr: np.ndarray,
  measured: bool,
  settings: Settings,
  temperature: float,
  times: Times,
  on_pixels: Callable[[int], object],
) -> dict[str, np.ndarray]:
  """The samples, `[N, H, W, 3]`, by kind of 8 bits."""
  num_samples = settings.num_samples if system.stochastic else 1
  shape = (num_samples, *(side * system.scale for side in lr.shape[:2]), 3)
  samples = {mode: np.empty(shape, np.uint8) for mode in _modes(settings, measured)}
  parts = system.draw(prepared, settings.seed, num_samples, temperature, times)
  for index, (rows, columns), part in parts:
    if not np.isfinite(part).all():
      raise NotFiniteError(
        f"{system.name}: sample {index} at temperature {temperature} has values that are not "
        "finite; a lower temperature may help"
      )
    for mode, images in samples.items():
      pixels = part if part.dtype == np.uint8 else metrics.to_uint8(part, mode)
      images[index, rows, columns] = pixels
    on_pixels(part.shape[0] * part.shape[1])
  return samples


def _measure(
  samples: np.ndarray,
  hr: np.ndarray,
  scale: int,
  seconds: tuple[float, float],
  settings: Settings,
) -> Scores:
  smallest = min(hr.shape[:2])  # a training run's patches may be too small for some
  return Scores(
    *seconds,
    lr_psnr=tuple(metrics.lr_psnr(samples, hr, scale)),
    psnr=tuple(metrics.psnr(sample, hr) for sample in samples),
    ssim=tuple(metrics.ssim(sample, hr) for sample in samples)
    if smallest >= metrics.SSIM_WINDOW
    else None,
    lpips=metrics.lpips_scores(samples, hr) if smallest >= lpips.MIN_SIZE else None,
    lpips_vgg=tuple(lpips_vgg.distances(samples, hr)) if settings.lpips_vgg else None,
  )


def likelihood(
  density: Callable[[np.ndarray, bool], Density | None], hr: np.ndarray, seed: int
) -> dict[str, Any]:
  """An image's negative log-likelihood in both units, and what it is made of.

  Args:
    density: Of a float32 image in [0, 1], with a round trip or without; None if there is none.
    hr: uint8 `[H, W, 3]`.
    seed: Of the noise u, uniform on [-0.5, 0.5), that makes the levels continuous.

  Returns:
    Fields of `Scores`: `nll`, `-log2 p(hr / 255) / pixels`, as published in bits per pixel without
    dequantisation; `bits_per_dim`, `-log2 p((hr + u) / 255) / (3 pixels) + log2(255)`, in bits per
    dimension of the 8-bit image; and those of the flow's consistency. None if there is no density.
  """
  plain = density(hr.astype(np.float32) / 255, True)
  if plain is None:
    return {}
  noisy = np.random.default_rng(seed).random(hr.shape, np.float32)
  noisy += hr - np.float32(0.5)
  noisy = density(np.divide(noisy, 255, out=noisy), False)
  to_bits = -1 / (plain.num_pixels * math.log(2))
  return {
    "nll": plain.log_prob * to_bits,
    "bits_per_dim": noisy.log_prob * to_bits / 3 + math.log2(255),
    "nll_log_dets": tuple(nats * to_bits for nats in plain.log_dets),
    "nll_latents": tuple(nats * to_bits for nats in plain.latent_log_probs),
    "round_trip_error": 255 * plain.round_trip,
    "largest_inverse_scale": plain.largest_inverse_scale,
  }
