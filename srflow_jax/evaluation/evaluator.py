"""Runs a system on an image and measures what it gives."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from srflow_jax import metrics
from srflow_jax.errors import InputError
from srflow_jax.evaluation.systems import Density, System
from srflow_jax.sampling import Times


@dataclasses.dataclass(frozen=True)
class Settings:
  """How samples are drawn and made into images.

  Attributes:
    num_samples: Samples of each image from a system that samples.
    temperature: Standard deviation of the latents.
    seed: Sample i of an image is a function of the seed and i, whatever else is drawn.
    uint8_mode: `round`, or `truncate` as the published scripts do.
  """

  num_samples: int = 10
  temperature: float = 0.9
  seed: int = 0
  uint8_mode: str = "round"

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
  nll: float | None = None
  bits_per_dim: float | None = None
  nll_log_dets: tuple[float, ...] = ()
  nll_latents: tuple[float, ...] = ()
  round_trip_error: float | None = None
  largest_inverse_scale: float | None = None
  other_uint8: "Scores | None" = None


def evaluate_image(
  system: System,
  lr: np.ndarray,
  hr: np.ndarray | None,
  settings: Settings,
  on_pixels: Callable[[int], object] = lambda count: None,
) -> tuple[np.ndarray, Scores]:
  """Draws a system's samples of an image and measures them.

  Args:
    system: The system; one that does not sample gives one image.
    lr: uint8 `[h, w, 3]`.
    hr: uint8 `[h * scale, w * scale, 3]`; without it, only the times are measured.
    settings: How samples are drawn.
    on_pixels: Called with the number of pixels drawn, for progress.

  Returns:
    The samples, uint8 `[N, h * scale, w * scale, 3]`, and the scores.

  Raises:
    InputError: A sample has values that are not finite, or the image does not fit in memory.
  """
  temperature = settings.temperature if system.temperature is None else system.temperature
  num_samples = settings.num_samples if system.stochastic else 1
  # Both kinds of 8 bits are needed for measuring, one to be looked at.
  modes = [mode for mode in metrics.UINT8_MODES if hr is not None or mode == settings.uint8_mode]
  size = [side * system.scale for side in lr.shape[:2]]
  reserved = len(modes) * num_samples * math.prod(size) * 3
  system.compile(lr.shape[:2], reserved)
  samples = {mode: np.empty((num_samples, *size, 3), np.uint8) for mode in modes}
  times = Times()
  prepared = system.prepare(lr, reserved, times)
  for index, (rows, columns), part in system.draw(
    prepared, settings.seed, num_samples, temperature, times
  ):
    if not np.isfinite(part).all():
      raise InputError(
        f"{system.name}: sample {index} at temperature {temperature} has values that are not "
        "finite; a lower temperature may help"
      )
    for mode, images in samples.items():
      pixels = part if part.dtype == np.uint8 else metrics.to_uint8(part, mode)
      images[index, rows, columns] = pixels
    on_pixels(part.shape[0] * part.shape[1])

  chosen = samples.pop(settings.uint8_mode)
  seconds = times.context, times.samples / num_samples
  if hr is None:
    return chosen, Scores(*seconds)
  of_flow = likelihood(lambda image: system.density(prepared, image), hr, settings.seed)
  (other,) = samples.values()
  scores = _measure(chosen, hr, system.scale, seconds)
  other = scores if np.array_equal(chosen, other) else _measure(other, hr, system.scale, seconds)
  return chosen, dataclasses.replace(scores, **of_flow, other_uint8=other)


def _measure(
  samples: np.ndarray, hr: np.ndarray, scale: int, seconds: tuple[float, float]
) -> Scores:
  return Scores(
    *seconds,
    lr_psnr=tuple(metrics.lr_psnr(samples, hr, scale)),
    psnr=tuple(metrics.psnr(sample, hr) for sample in samples),
    ssim=tuple(metrics.ssim(sample, hr) for sample in samples),
    lpips=metrics.lpips_scores(samples, hr),
  )


def likelihood(
  density: Callable[[np.ndarray], Density | None], hr: np.ndarray, seed: int
) -> dict[str, Any]:
  """An image's negative log-likelihood in both units, and what it is made of.

  Args:
    density: Of a float32 image in [0, 1]; None if there is none.
    hr: uint8 `[H, W, 3]`.
    seed: Of the noise u, uniform on [-0.5, 0.5), that makes the levels continuous.

  Returns:
    Fields of `Scores`: `nll`, `-log2 p(hr / 255) / pixels`, as published in bits per pixel without
    dequantisation; `bits_per_dim`, `-log2 p((hr + u) / 255) / (3 pixels) + log2(255)`, in bits per
    dimension of the 8-bit image; and those of the flow's consistency. None if there is no density.
  """
  plain = density(hr.astype(np.float32) / 255)
  if plain is None:
    return {}
  noise = np.random.default_rng(seed).random(hr.shape, np.float32) - np.float32(0.5)
  noisy = density((hr + noise) / 255)
  to_bits = -1 / (plain.num_pixels * math.log(2))
  return {
    "nll": plain.log_prob * to_bits,
    "bits_per_dim": noisy.log_prob * to_bits / 3 + math.log2(255),
    "nll_log_dets": tuple(nats * to_bits for nats in plain.log_dets),
    "nll_latents": tuple(nats * to_bits for nats in plain.latent_log_probs),
    "round_trip_error": 255 * plain.round_trip(),
    "largest_inverse_scale": plain.largest_inverse_scale,
  }
