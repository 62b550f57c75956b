"""What can be evaluated: anything that turns an LR image into one or more SR images."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from srflow_jax.evaluation.recipes import Recipe
from srflow_jax.model.building import count_parameters
from srflow_jax.ops.resize import bicubic_window
from srflow_jax.sampling.budget import Request
from srflow_jax.sampling.sampler import Density, Prepared, Sampler, Seconds
from srflow_jax.sampling.tiles import Window

# A window of a sample: the sample's number, rows and columns, and the pixels there, uint8 or floats
# nominally in [0, 1].
SampleWindow = tuple[int, Window, np.ndarray]

_STRIP = 256  # rows that bicubic makes at a time: its intermediate sums are wide


class System(Protocol):
  """A super-resolution method.

  Attributes:
    name: Its name in tables and paths.
    scale: By how much it enlarges.
    num_params: Parameters as the published tables count them, or None.
    stochastic: Whether samples of an image differ, and images have densities; if not, one sample is
      drawn, and "draw" is all that is requested.
  """

  name: str
  scale: int
  num_params: int | None
  stochastic: bool

  def plan(self, lr_size: tuple[int, int], request: Request) -> None:
    """Compiles for a size of LR; `InputError` if it does not fit the budget."""

  def check(self, lr_size: tuple[int, int], request: Request) -> None:
    """As `plan`, for another size than one that was planned, without compiling."""

  def prepare(self, lr: np.ndarray, request: Request, seconds: Seconds) -> Any:
    """Computes what all samples of an LR image, uint8 `[h, w, 3]`, share."""

  def draw(
    self, prepared: Any, seed: int, num_samples: int, recipe: Recipe, seconds: Seconds
  ) -> Iterator[SampleWindow]:
    """Draws the first samples of a seed, window by window; `seconds` gets what it took.

    The recipe says at which temperature, and how much noise is removed.
    """

  def density(self, prepared: Any, hrs: Sequence[np.ndarray]) -> list[Density]:
    """The densities of float32 `[H, W, 3]` in [0, 1], and a round trip of the first of them."""


class Bicubic:
  """MATLAB's bicubic enlargement of the 8-bit LR image."""

  name = "bicubic"
  num_params = None
  stochastic = False

  def __init__(self, scale: int) -> None:
    """See the class."""
    self.scale = scale

  def plan(self, lr_size: tuple[int, int], request: Request) -> None:
    """Nothing to do."""

  check = plan

  def prepare(self, lr: np.ndarray, request: Request, seconds: Seconds) -> np.ndarray:
    """Returns LR itself."""
    return lr

  def draw(
    self, prepared: np.ndarray, seed: int, num_samples: int, recipe: Recipe, seconds: Seconds
  ) -> Iterator[SampleWindow]:
    """Yields the enlarged image, uint8."""
    height, width = (side * self.scale for side in prepared.shape[:2])
    for top in range(0, height, _STRIP):
      rows = min(_STRIP, height - top)
      begin = time.perf_counter()
      strip = bicubic_window(prepared, self.scale, top, 0, rows, width)
      seconds.samples += time.perf_counter() - begin
      yield 0, (slice(top, top + rows), slice(0, width)), strip

  def density(self, prepared: np.ndarray, hrs: Sequence[np.ndarray]) -> list[Density]:
    """There is none; it is not asked for."""
    raise NotImplementedError("bicubic has no density")


class Trained:
  """A trained model: a flow, or an encoder alone, which gives one image."""

  def __init__(self, name: str, sampler: Sampler, noise_variance: float | None = None) -> None:
    """Takes a model.

    Args:
      name: What tables call it.
      sampler: The model with its parameters.
      noise_variance: Of what training added to values of HR in [0, 1]: what a recipe may ask to
        remove; None if it is not known.
    """
    self.name = name
    self.scale = sampler.model.scale
    self.stochastic = sampler.model.stochastic
    params = sampler.variables["params"]
    # As in the published tables, a flow's encoder is not counted.
    counted = params["flow"] if self.stochastic else params
    self.num_params: int | None = count_parameters(counted)
    self._sampler = sampler
    self._noise_variance = noise_variance

  def plan(self, lr_size: tuple[int, int], request: Request) -> None:
    """Compiles the encoder, the drawing of samples, and what the density needs."""
    self._sampler.budget.plan(lr_size, request)

  def check(self, lr_size: tuple[int, int], request: Request) -> None:
    """Goes by what the compiler said of the sizes that were planned."""
    self._sampler.budget.check(lr_size, request)

  def prepare(self, lr: np.ndarray, request: Request, seconds: Seconds) -> Prepared:
    """Returns the context, on the device, if the image is one tile."""
    return self._sampler.prepare((lr / 255).astype(np.float32), request, seconds)

  def draw(
    self, prepared: Prepared, seed: int, num_samples: int, recipe: Recipe, seconds: Seconds
  ) -> Iterator[SampleWindow]:
    """Draws samples of the key of the seed; float32."""
    variance = 0.0
    if recipe.denoise:
      if self._noise_variance is None:
        raise ValueError(f"{self.name}: how much noise there was in training is not known")
      variance = recipe.denoise * self._noise_variance
    samples = range(num_samples)
    return self._sampler.draw(prepared, seed, samples, recipe.temperature, seconds, variance)

  def density(self, prepared: Prepared, hrs: Sequence[np.ndarray]) -> list[Density]:
    """Returns the densities of images as the model pads them."""
    return self._sampler.density(prepared, hrs, round_trip=True)
