"""LPIPS with VGG16 by `lpips-j`, an optional package that fetches its weights from a hub."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srflow_jax.compiling import compiler_options
from srflow_jax.errors import InputError

SCRATCH = 1500  # bytes a pixel: VGG16's first layers have 64 channels at full size


def distances(samples: np.ndarray, reference: np.ndarray) -> list[float]:
  """Computes the distance of each sample from a reference.

  Args:
    samples: uint8 RGB `[N, H, W, 3]`.
    reference: uint8 RGB `[H, W, 3]`.

  Returns:
    LPIPS of each sample, every layer averaged over its pixels.

  Raises:
    InputError: As `load`.
  """
  distance = load()
  return [float(distance(sample, reference)) for sample in samples]


@functools.cache
def load() -> Callable[[np.ndarray, np.ndarray], Any]:
  """Loads the network.

  Returns:
    A function of two uint8 images `[H, W, 3]`.

  Raises:
    InputError: The package is not installed, or its weights cannot be had.
  """
  try:
    from lpips_j.lpips import LPIPS
  except ImportError as error:
    raise InputError(f"LPIPS-VGG needs lpips-j ({error}): pip install lpips-j") from None
  network, probe = LPIPS(), jnp.zeros((1, 32, 32, 3))
  try:
    variables = network.init(jax.random.key(0), probe, probe)
  except Exception as error:  # what the hub's client raises differs by its version
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise InputError(f"LPIPS-VGG: lpips-j cannot get its weights: {reason}") from error

  @functools.partial(jax.jit, compiler_options=compiler_options())
  def distance(sample: jax.Array, reference: jax.Array) -> jax.Array:
    x, y = (image[None].astype(jnp.float32) / 127.5 - 1 for image in (sample, reference))
    with jax.default_matmul_precision("highest"):
      return network.apply(variables, x, y).reshape(())

  return distance
