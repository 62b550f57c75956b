"""What can be evaluated: anything that turns an LR image into one or more SR images."""

import functools
import time
from collections.abc import Iterator
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

  def log_prob(self, prepared: Any, hr: np.ndarray) -> tuple[float, int] | None:
    """Log-density, in nats, of float32 `[H, W, 3]` in [0, 1], and the number of pixels it is of.

    These are more than H W where the system pads the image. None without a density, or for an
    image that is computed in tiles.
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

  def log_prob(self, prepared: np.ndarray, hr: np.ndarray) -> None:
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
    self._log_prob = jax.jit(functools.partial(sampler.model.apply, method="log_prob_from_context"))

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

  def log_prob(self, prepared: Prepared, hr: np.ndarray) -> tuple[float, int] | None:
    """Returns the log-density of the image as the model pads it."""
    if prepared.context is None or not self.stochastic:
      return None
    padded = pad_as_model(hr, self.scale * self._sampler.model.lr_multiple)
    log_prob = self._log_prob(self._sampler.variables, padded[None], prepared.context)
    return float(log_prob[0]), padded[..., 0].size
