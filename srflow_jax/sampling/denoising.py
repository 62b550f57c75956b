"""Samples without the noise of training, by the flow's own score.

A flow is trained on images with noise, so its samples have noise too. If the noise is Gaussian of
variance v and p the density of images with noise, the mean of the images that x may have been
before noise was added is

    x + v * grad_x log p(x)

(Tweedie's formula: H. Robbins, 1956; B. Efron, "Tweedie's Formula and Selection Bias", 2011; for
flows: S. Zhai et al., "Normalizing Flows are Capable Generative Models", 2024). Here p is the
density given an LR image.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from srflow_jax.errors import InputError
from srflow_jax.model.noises import Noise

Array = jax.Array


def removable_variance(noise: Noise, name: str) -> float:
  """The variance of the noise that training added, for values in [0, 1].

  Args:
    noise: Of the run.
    name: Of the run, for the error.

  Raises:
    InputError: There was none, or it was not always the same.
  """
  if not noise.variance:
    why = "training added none" if noise.variance == 0 else "its size was not always the same"
    raise InputError(f"{name}: there is no noise of {noise.kind} kind to remove: {why}")
  return noise.variance


def denoised(log_prob: Callable[[Array], Array], images: Array, variance: float | Array) -> Array:
  """Removes noise from images.

  Where the score is not finite, as it is all over a sample that exploded somewhere, the image stays
  as it is.

  Args:
    log_prob: Of an image `[H, W, 3]`, the log-density of images with noise, nats.
    images: `[N, H, W, 3]`.
    variance: Of the noise, for values in [0, 1].

  Returns:
    `[N, H, W, 3]`.
  """
  score = jax.vmap(jax.grad(log_prob))(images)
  return images + variance * jnp.where(jnp.isfinite(score), score, 0)
