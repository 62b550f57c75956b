"""Samples, latents and densities of images of any size, whole or tile by tile within a budget.

Tiles share the noise of the whole image (`ops.noise`), and the context of a tile serves all that is
computed of it. A tile differs from the same part of the whole image only by what its network does
not see beyond the overlap. `Tiling.signed_tiles` says how the densities of tiles make the image's.
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np

from srflow_jax.model.model import Model
from srflow_jax.sampling.budget import Budget, Plan, Request, num_bytes, samples_of_program
from srflow_jax.sampling.programs import Programs, largest_inverse_factor
from srflow_jax.sampling.temperatures import Temperature, check_temperature
from srflow_jax.sampling.tiles import Tile, Window

Latents = tuple[np.ndarray, ...]


@dataclasses.dataclass
class Seconds:
  """Time spent on contexts, and on all samples given them; compilation is not counted."""

  context: float = 0.0
  samples: float = 0.0


@dataclasses.dataclass(frozen=True)
class Prepared:
  """An LR image: padded, `[1, h, w, 3]`, with the context if the image is one tile."""

  lr: np.ndarray
  size: tuple[int, int]
  plan: Plan
  context: Any


@dataclasses.dataclass(frozen=True)
class Density:
  """The log-density of an image, in its parts.

  Attributes:
    log_dets: Nats, of each stage of the flow.
    latent_log_probs: Nats, of each latent.
    num_pixels: Pixels that it is of: more than the image's where the model pads it.
    num_dims: Dimensions that it is a density in: 3 a pixel, less what LR decides exactly.
    round_trip: The largest difference of the image from what its latents decode to, 1 is white;
      None if they were not decoded.
    largest_inverse_factor: What the inverse multiplies errors by at most in one layer; NaN if the
      layers do not say.
    largest_map_factor: The same of elementwise maps alone.
  """

  log_dets: tuple[float, ...]
  latent_log_probs: tuple[float, ...]
  num_pixels: int
  num_dims: int
  round_trip: float | None
  largest_inverse_factor: float
  largest_map_factor: float

  @property
  def log_prob(self) -> float:
    """The sum of the parts; NaN where they are infinite both ways."""
    return sum((*self.log_dets, *self.latent_log_probs))


class Sampler:
  """Samples, encodes and decodes with a model, within a budget of memory.

  Args:
    model: A flow, or an encoder alone (whose samples are all its one image).
    params: Its parameters. `variables` may be replaced by others of the same shapes later.
    max_memory_gb: The budget in 10^9 bytes: on a CPU of the whole process, else of the device's
      memory. 0 for half of the memory that this process may use, or three quarters of the device's.
    overlap: LR pixels from a tile's border that are computed and not kept; None for
      the model's `tile_overlap`.
    max_batch: Samples that are drawn at a time, at most; None for as many as fit, on a CPU no more
      than there are processors that this process may use.
  """

  def __init__(
    self,
    model: Model,
    params: Any,
    max_memory_gb: float = 0.0,
    overlap: int | None = None,
    max_batch: int | None = None,
  ) -> None:
    """See the class."""
    self.model = model
    self.variables = {"params": params}
    self.programs = Programs(model, self.variables)
    self.budget = Budget(model, self.programs, num_bytes(params), max_memory_gb, overlap, max_batch)

  def prepare(self, lr: np.ndarray, request: Request, seconds: Seconds | None = None) -> Prepared:
    """Computes what everything that is asked of an LR image has in common.

    Args:
      lr: float32 `[h, w, 3]` in [0, 1].
      request: What is to be computed.
      seconds: Gets what it took.

    Returns:
      What the other methods take. If the image is one tile, its context is part of that; else each
      call computes the contexts of the tiles, once for everything that the call asks for.

    Raises:
      InputError: Not even the smallest tile fits the budget.
    """
    plan = self.budget.plan(lr.shape[:2], request)
    padded = pad_as_model(lr, self.model.lr_multiple)[None]
    context = self._condition(padded, seconds or Seconds()) if plan.whole else None
    return Prepared(padded, lr.shape[:2], plan, context)

  def draw(
    self,
    prepared: Prepared,
    seed: int,
    samples: range,
    temperature: Temperature,
    seconds: Seconds | None = None,
    noise_variance: float = 0.0,
  ) -> Iterator[tuple[int, Window, np.ndarray]]:
    """Draws samples, tile after tile.

    Sample `i` of a seed is a function of both alone, whatever else is drawn: how many samples are
    drawn at a time changes it by round-off (on a CPU not at all), tiles by less than the overlap
    lets through.

    Args:
      prepared: Of `prepare`, for "draw", or "denoised" where noise is removed.
      seed: Of the noise.
      samples: Which samples, one after the other.
      temperature: Standard deviation of the latents, or of each level of them.
      seconds: Gets what it took.
      noise_variance: Of noise that is removed from the samples (`denoising.py`), for values in
        [0, 1]; 0 for none.

    Raises:
      InputError: The temperature is none, or not one of this model.

    Yields:
      Position in `samples`, rows and columns of the HR image, and those pixels, float32
      `[h, w, 3]`, not clipped.
    """
    seconds = seconds or Seconds()
    key = jax.random.key(seed, impl="threefry2x32")
    plan = prepared.plan
    together = samples_of_program(plan.batch)
    check_temperature(temperature, self.model.num_latents)
    temperatures = np.broadcast_to(np.asarray(temperature, np.float32), self.model.num_latents)
    size = plan.tiling.size
    methods = ("noise", "decode", *["denoise"] * bool(noise_variance))
    self.programs.compile(size, [(method, together) for method in methods])

    def run(method: str, *arguments: Any) -> Any:
      return self.programs.run(self.variables, method, size, *arguments, batch=together)

    with futures.ThreadPoolExecutor(plan.batch // together) as threads:
      for tile, context in self._with_context(prepared, plan.tiling.tiles, seconds):
        target, source = self._kept(prepared, tile)
        origin = np.int32(tile.rows.start), np.int32(tile.columns.start)

        def draw(first: int, context: Any = context, origin: tuple = origin) -> np.ndarray:
          latents = run("noise", context, key, temperatures, np.int32(first), origin)
          images = run("decode", context, latents)
          if noise_variance:
            images = run("denoise", context, np.float32(noise_variance), images)
          return np.asarray(images)

        for position in range(0, len(samples), plan.batch):
          wanted = samples[position : position + plan.batch]
          begin = time.perf_counter()
          drawn = list(threads.map(draw, wanted[::together]))
          seconds.samples += time.perf_counter() - begin
          # A program draws a fixed number, so the last batch may hold more than are wanted.
          images = itertools.chain.from_iterable(drawn)
          for offset, image in enumerate(itertools.islice(images, len(wanted))):
            yield position + offset, target, image[source]

  def decode(self, prepared: Prepared, latents: Latents) -> Iterator[tuple[Window, np.ndarray]]:
    """Decodes latents, tile after tile.

    Args:
      prepared: Of `prepare`, for "decode".
      latents: `[1, h', w', C]` each, finest first.

    Yields:
      As `draw`, without the position.
    """
    for tile, context in self._with_context(prepared, prepared.plan.tiling.tiles):
      shapes = self.programs.latents(tile.size)
      windows = tuple(
        z[None, :, *_scaled(tile.window, shape.shape[1], tile.size[0])]
        for z, shape in zip(latents, shapes, strict=True)
      )
      target, source = self._kept(prepared, tile)
      image = self.programs.run(self.variables, "decode", tile.size, context, windows)
      yield target, np.asarray(image)[0][source]

  def latent_shapes(self, prepared: Prepared) -> list[tuple[int, ...]]:
    """Shapes of an image's latents, `[1, h', w', C]` each, finest first."""
    height, width = prepared.plan.tiling.size
    rows, columns = prepared.lr.shape[1:3]
    return [
      (1, rows * z.shape[1] // height, columns * z.shape[2] // width, z.shape[3])
      for z in self.programs.latents((height, width))
    ]

  def encode(self, prepared: Prepared, hr: np.ndarray) -> Latents:
    """The latents of an HR image.

    Args:
      prepared: Of `prepare`, for "density".
      hr: float32 `[H, W, 3]` in [0, 1].

    Returns:
      float32 `[1, h', w', C]` each, finest first.
    """
    padded = self._padded(hr)
    latents = tuple(np.empty(shape, np.float32) for shape in self.latent_shapes(prepared))
    for tile, context in self._with_context(prepared, prepared.plan.tiling.tiles):
      parts, _ = self._density(padded, tile, context)
      inside = _relative(tile.kept, tile)
      for z, own in zip(latents, parts.latents, strict=True):
        scale = own.shape[1], tile.size[0]
        z[:, *_scaled(tile.kept, *scale)] = np.asarray(own)[:, *_scaled(inside, *scale)]
    return latents

  def density(
    self, prepared: Prepared, hrs: Sequence[np.ndarray], round_trip: bool = False
  ) -> list[Density]:
    """The log-densities of HR images given one LR image, all as the model pads them.

    Args:
      prepared: Of `prepare`, for "density", and "decode" if there is to be a round trip.
      hrs: float32 `[H, W, 3]` in [0, 1] each.
      round_trip: Decodes the latents of the first image again to see how exactly the flow inverts
        itself.

    Returns:
      The densities. In tiles they are right up to what the overlap lets through.
    """
    padded = [self._padded(hr) for hr in hrs]
    nats = [[] for _ in hrs]  # by image and tile: of each part, with the tile's sign
    scales = [[] for _ in hrs]
    errors = []
    for tile, context in self._with_context(prepared, prepared.plan.tiling.signed_tiles()):
      for number, image in enumerate(padded):
        parts, sown = self._density(image, tile, context)
        count = len(parts.log_dets)
        values = (*parts.log_dets, *parts.latent_log_probs)
        nats[number].append([tile.sign * float(x[0]) for x in values])
        scales[number].append([largest_inverse_factor(sown, maps) for maps in (False, True)])
        if round_trip and number == 0:
          latents = tuple(z[None] for z in parts.latents)
          back = self.programs.run(self.variables, "decode", tile.size, context, latents)
          window = _scaled(tile.window, self.model.scale)
          errors.append(np.abs(np.asarray(back) - image[:, *window]).max())
    num_dims = sum(math.prod(shape) for shape in self.latent_shapes(prepared))
    sums = [np.sum(own, axis=0).tolist() for own in nats]
    return [
      Density(
        tuple(own[:count]),
        tuple(own[count:]),
        image[0, ..., 0].size,
        num_dims,
        float(np.max(errors)) if round_trip and image is padded[0] else None,
        *np.max(scale, axis=0).tolist(),
      )
      for own, image, scale in zip(sums, padded, scales, strict=True)
    ]

  def _density(self, padded: np.ndarray, tile: Tile, context: Any) -> tuple[Any, Any]:
    hr = padded[:, *_scaled(tile.window, self.model.scale)]
    return self.programs.run(self.variables, "density", tile.size, context, hr)

  def _padded(self, hr: np.ndarray) -> np.ndarray:
    return pad_as_model(hr, self.model.scale * self.model.lr_multiple)[None]

  def _with_context(
    self, prepared: Prepared, tiles: Sequence[Tile], seconds: Seconds | None = None
  ) -> Iterator[tuple[Tile, Any]]:
    """Tiles, each with the context of its window."""
    seconds = seconds or Seconds()
    for tile in tiles:
      context = prepared.context
      if context is None:
        context = self._condition(prepared.lr[:, *tile.window], seconds)
      yield tile, context

  def _kept(self, prepared: Prepared, tile: Tile) -> tuple[Window, Window]:
    """What a tile gives: which pixels of the HR image, and which of the tile they are."""
    # What lies beyond the image's own size is padding.
    (rows, columns), (height, width) = tile.kept, prepared.size
    target = (
      slice(rows.start, min(rows.stop, height)),
      slice(columns.start, min(columns.stop, width)),
    )
    source = _relative(target, tile)
    return _scaled(target, self.model.scale), _scaled(source, self.model.scale)

  def _condition(self, lr: np.ndarray, seconds: Seconds) -> Any:
    size = lr.shape[1:3]
    self.programs.compile(size, [("condition", 1)])
    begin = time.perf_counter()
    context = self.programs.run(self.variables, "condition", size, lr)
    seconds.context += time.perf_counter() - begin
    return context


def pad_as_model(image: np.ndarray, multiple: int) -> np.ndarray:
  """Pads `[h, w, C]` as the model would, on the host: to multiples, by reflection."""
  for axis in (0, 1):
    if pad := -image.shape[axis] % multiple:
      widths = [(0, pad) if i == axis else (0, 0) for i in range(3)]
      # `symmetric` would repeat the border's pixel; one pixel has nothing else to repeat.
      image = np.pad(image, widths, "reflect" if image.shape[axis] > 1 else "edge")
  return image


def _scaled(window: Window, factor: int, divisor: int = 1) -> Window:
  """A window's coordinates, multiplied by `factor / divisor`."""

  def scaled(part: slice) -> slice:
    return slice(part.start * factor // divisor, part.stop * factor // divisor)

  return scaled(window[0]), scaled(window[1])


def _relative(window: Window, tile: Tile) -> Window:
  """A window of the image, in coordinates of a tile."""
  top, left = tile.rows.start, tile.columns.start
  rows, columns = window
  return slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
