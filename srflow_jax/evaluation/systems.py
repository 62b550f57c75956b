"""What can be evaluated: anything that turns an LR image into one or more SR images."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import numpy as np

from srflow_jax.model import SuperResolver, count_parameters
from srflow_jax.resize import bicubic_window
from srflow_jax.sampling import Prepared, Sampler, Times, pad_as_model

# A part of a sample: the sample's number, rows and columns, and the pixels there, uint8 or floats
# nominally in [0, 1].
Part = tuple[int, tuple[slice, slice], np.ndarray]

_STRIP = 256  # rows that bicubic makes at a time: its intermediate sums are wide


@dataclasses.dataclass(frozen=True)
class Density:
  """The log-density of an image, in its parts.

  Attributes:
    log_dets: Nats, of each stage of the flow.
    latent_log_probs: Nats, of each latent.
    num_pixels: Pixels that it is of: more than the image's where the system pads it.
    round_trip: Decodes the latents again: the largest difference from the image, 1 is white.
    largest_inverse_scale: What the inverse multiplies errors by at most in one layer; NaN if the
      layers do not say.
  """

  log_dets: tuple[float, ...]
  latent_log_probs: tuple[float, ...]
  num_pixels: int
  round_trip: Callable[[], float]
  largest_inverse_scale: float

  @property
  def log_prob(self) -> float:
    """The sum of the parts."""
    return math.fsum((*self.log_dets, *self.latent_log_probs))


class System(Protocol):
  """A super-resolution method.

  Attributes:
    name: Its name in tables and paths.
    scale: By how much it enlarges.
    num_params: Parameters as the published tables count them, or None.
    stochastic: Whether samples of an image differ; if not, one is drawn.
    temperature: That of its samples; None for that of the evaluation's settings.
  """

  name: str
  scale: int
  num_params: int | None
  stochastic: bool
  temperature: float | None

  def compile(self, lr_size: tuple[int, int], reserved: int) -> None:
    """Does once for a size of LR what should not be counted as time for an image.

    Args:
      lr_size: Height and width.
      reserved: Bytes that the caller holds for samples, of the budget of memory.

    Raises:
      InputError: An image of that size does not fit the budget.
    """

  def prepare(self, lr: np.ndarray, reserved: int, times: Times) -> Any:
    """Computes what all samples of an LR image, uint8 `[h, w, 3]`, share."""

  def draw(
    self, prepared: Any, seed: int, num_samples: int, temperature: float, times: Times
  ) -> Iterator[Part]:
    """Draws the first samples of a seed, part by part; `times` gets what it took."""

  def density(self, prepared: Any, hr: np.ndarray) -> Density | None:
    """The density of float32 `[H, W, 3]` in [0, 1].

    None without a density, or for an image that is computed in tiles.
    """


class Bicubic:
  """MATLAB's bicubic enlargement of the 8-bit LR image."""

  name = "bicubic"
  num_params = None
  stochastic = False
  temperature = None

  def __init__(self, scale: int) -> None:
    """See the class."""
    self.scale = scale

  def compile(self, lr_size: tuple[int, int], reserved: int) -> None:
    """Nothing to do."""

  def prepare(self, lr: np.ndarray, reserved: int, times: Times) -> np.ndarray:
    """Returns LR itself."""
    return lr

  def draw(
    self, prepared: np.ndarray, seed: int, num_samples: int, temperature: float, times: Times
  ) -> Iterator[Part]:
    """Yields the enlarged image, uint8."""
    height, width = (side * self.scale for side in prepared.shape[:2])
    for top in range(0, height, _STRIP):
      rows = min(_STRIP, height - top)
      begin = time.perf_counter()
      strip = bicubic_window(prepared, self.scale, top, 0, rows, width)
      times.samples += time.perf_counter() - begin
      yield 0, (slice(top, top + rows), slice(0, width)), strip

  def density(self, prepared: np.ndarray, hr: np.ndarray) -> None:
    """Returns None: there is no density."""


class Trained:
  """A trained model: a flow, or an encoder alone, which gives one image."""

  def __init__(self, name: str, sampler: Sampler, temperature: float | None = None) -> None:
    """Takes a model.

    Args:
      name: What tables call it.
      sampler: The model with its parameters; systems may share it.
      temperature: See `System`.
    """
    self.name = name
    self.temperature = temperature
    self.scale = sampler.model.scale
    self.stochastic = not isinstance(sampler.model, SuperResolver)
    params = sampler.variables["params"]
    # As in the published tables, a flow's encoder is not counted.
    self.num_params = count_parameters(params["flow"] if self.stochastic else params)
    self._sampler = sampler
    apply = sampler.model.apply
    self._density_parts = jax.jit(
      functools.partial(apply, method="density_parts", mutable=["smallest_scale"])
    )
    self._inverse = jax.jit(functools.partial(apply, method="inverse_and_log_det"))

  def compile(self, lr_size: tuple[int, int], reserved: int) -> None:
    """Compiles the encoder and the drawing of one sample."""
    self._sampler.program(lr_size, reserved)

  def prepare(self, lr: np.ndarray, reserved: int, times: Times) -> Prepared:
    """Returns the context, on the device, if the image is one tile."""
    return self._sampler.prepare((lr / 255).astype(np.float32), reserved, times)

  def draw(
    self, prepared: Prepared, seed: int, num_samples: int, temperature: float, times: Times
  ) -> Iterator[Part]:
    """Draws samples of the key of the seed; float32."""
    return self._sampler.draw(prepared, seed, range(num_samples), temperature, times)

  def density(self, prepared: Prepared, hr: np.ndarray) -> Density | None:
    """Returns the density of the image as the model pads it."""
    if prepared.context is None or not self.stochastic:
      return None
    padded = pad_as_model(hr, self.scale * self._sampler.model.lr_multiple)[None]
    variables, context = self._sampler.variables, prepared.context
    parts, noted = self._density_parts(variables, padded, context)
    smallest = min(map(float, jax.tree.leaves(noted)), default=math.nan)

    def round_trip() -> float:
      back, _ = self._inverse(variables, parts.latents, context)
      return float(np.abs(np.asarray(back) - padded).max())

    return Density(
      tuple(float(x[0]) for x in parts.log_dets),
      tuple(float(x[0]) for x in parts.latent_log_probs),
      padded[0, ..., 0].size,
      round_trip,
      1 / smallest,
    )
