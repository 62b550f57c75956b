"""What can be evaluated: anything that turns an LR image into one or more SR images."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from srflow_jax.model.building import count_parameters
from srflow_jax.ops.resize import bicubic_window
from srflow_jax.sampling.planning import Task
from srflow_jax.sampling.sampler import Density, Prepared, Sampler, Times
from srflow_jax.sampling.tiles import Window

# A part of a sample: the sample's number, rows and columns, and the pixels there, uint8 or floats
# nominally in [0, 1].
Part = tuple[int, Window, np.ndarray]

_STRIP = 256  # rows that bicubic makes at a time: its intermediate sums are wide


@dataclasses.dataclass(frozen=True)
class Work:
  """What a system is asked for, of an image.

  Attributes:
    num_samples: Samples.
    density: Whether the density of an HR image is wanted too.
    reserved: Bytes that the caller holds, of the budget of memory.
  """

  num_samples: int
  density: bool
  reserved: int


class System(Protocol):
  """A super-resolution method.

  Attributes:
    name: Its name in tables and paths.
    scale: By how much it enlarges.
    num_params: Parameters as the published tables count them, or None.
    stochastic: Whether samples of an image differ; if not, one is drawn.
  """

  name: str
  scale: int
  num_params: int | None
  stochastic: bool

  def plan(self, lr_size: tuple[int, int], work: Work) -> None:
    """Compiles for a size of LR; `InputError` if it does not fit the budget."""

  def check(self, lr_size: tuple[int, int], work: Work) -> None:
    """As `plan`, for another size than one that was planned, without compiling."""

  def prepare(self, lr: np.ndarray, work: Work, times: Times) -> Any:
    """Computes what all samples of an LR image, uint8 `[h, w, 3]`, share."""

  def draw(
    self, prepared: Any, seed: int, num_samples: int, temperature: float, times: Times
  ) -> Iterator[Part]:
    """Draws the first samples of a seed, part by part; `times` gets what it took."""

  def density(self, prepared: Any, hr: np.ndarray, round_trip: bool) -> Density | None:
    """The density of float32 `[H, W, 3]` in [0, 1]; None without one. See `Sampler.density`."""


class Bicubic:
  """MATLAB's bicubic enlargement of the 8-bit LR image."""

  name = "bicubic"
  num_params = None
  stochastic = False

  def __init__(self, scale: int) -> None:
    """See the class."""
    self.scale = scale

  def plan(self, lr_size: tuple[int, int], work: Work) -> None:
    """Nothing to do."""

  check = plan

  def prepare(self, lr: np.ndarray, work: Work, times: Times) -> np.ndarray:
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

  def density(self, prepared: np.ndarray, hr: np.ndarray, round_trip: bool) -> None:
    """Returns None: there is no density."""


class Trained:
  """A trained model: a flow, or an encoder alone, which gives one image."""

  def __init__(self, name: str, sampler: Sampler) -> None:
    """Takes a model.

    Args:
      name: What tables call it.
      sampler: The model with its parameters.
    """
    self.name = name
    self.scale = sampler.model.scale
    self.stochastic = sampler.model.stochastic
    params = sampler.variables["params"]
    # As in the published tables, a flow's encoder is not counted.
    self.num_params = count_parameters(params["flow"] if self.stochastic else params)
    self._sampler = sampler

  def plan(self, lr_size: tuple[int, int], work: Work) -> None:
    """Compiles the encoder, the drawing of samples, and what the density needs."""
    self._sampler.planner.plan(lr_size, self.task(work))

  def check(self, lr_size: tuple[int, int], work: Work) -> None:
    """Goes by what the compiler said of the size that was planned."""
    self._sampler.planner.check(lr_size, self.task(work))

  def task(self, work: Work) -> Task:
    """What the model's sampler is asked for."""
    methods = ("draw", "density", "decode") if work.density and self.stochastic else ("draw",)
    return Task(methods, work.num_samples, work.reserved)

  def prepare(self, lr: np.ndarray, work: Work, times: Times) -> Prepared:
    """Returns the context, on the device, if the image is one tile."""
    return self._sampler.prepare((lr / 255).astype(np.float32), self.task(work), times)

  def draw(
    self, prepared: Prepared, seed: int, num_samples: int, temperature: float, times: Times
  ) -> Iterator[Part]:
    """Draws samples of the key of the seed; float32."""
    return self._sampler.draw(prepared, seed, range(num_samples), temperature, times)

  def density(self, prepared: Prepared, hr: np.ndarray, round_trip: bool) -> Density | None:
    """Returns the density of the image as the model pads it."""
    return self._sampler.density(prepared, hr, round_trip) if self.stochastic else None
