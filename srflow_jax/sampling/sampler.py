"""Samples, latents and densities of images of any size, whole or tile by tile within a budget.

Tiles share the noise of the whole image (`ops.noise`), and the context of a tile serves all
samples. A tile differs from the same part of the whole image only by what its network does not see
beyond the overlap; a tiled density leaves out what tiles have twice (`tiles.signed_windows`).
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import jax
import numpy as np

from srflow_jax.model.model import Model
from srflow_jax.sampling.planning import (
  Plan,
  Planner,
  Programs,
  Task,
  num_bytes,
  samples_of_program,
)
from srflow_jax.sampling.tiles import Span, Window

Latents = tuple[np.ndarray, ...]


@dataclasses.dataclass
class Times:
  """Seconds spent, compilation aside: on contexts, and on all samples given them."""

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
    round_trip: The largest difference of the image from what its latents decode to, 1 is white;
      None if they were not decoded.
    largest_inverse_scale: What the inverse multiplies errors by at most in one layer; NaN if the
      layers do not say.
  """

  log_dets: tuple[float, ...]
  latent_log_probs: tuple[float, ...]
  num_pixels: int
  round_trip: float | None
  largest_inverse_scale: float

  @property
  def log_prob(self) -> float:
    """The sum of the parts."""
    return math.fsum((*self.log_dets, *self.latent_log_probs))


class Sampler:
  """Samples, encodes and decodes with a model, within a budget of memory.

  Args:
    model: A flow, or an encoder alone (whose samples are all its one image).
    params: Its parameters. `variables` may be replaced by others of the same shapes later.
    max_memory_gb: The budget in 10^9 bytes: on a CPU of the whole process, else of the device's
      memory. 0 for half of the machine's memory, or three quarters of the device's.
    overlap: LR pixels from a tile's border that are computed and not kept; None for
      the model's `tile_overlap`.
    max_batch: Samples that are drawn at a time, at most; None for as many as fit, on a CPU no more
      than it has cores.
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
    self.planner = Planner(
      model, self.programs, num_bytes(params), max_memory_gb, overlap, max_batch
    )

  def prepare(self, lr: np.ndarray, task: Task, times: Times | None = None) -> Prepared:
    """Computes what all that is asked of an LR image shares.

    Args:
      lr: float32 `[h, w, 3]` in [0, 1].
      task: What is to be computed.
      times: Gets what it took.

    Returns:
      What the other methods take. Its context is there for an image that is one tile; else each
      call computes the tiles' contexts, once for all its samples.

    Raises:
      InputError: Not even the smallest tile fits the budget.
    """
    plan = self.planner.plan(lr.shape[:2], task)
    padded = pad_as_model(lr, self.model.lr_multiple)[None]
    context = self._condition(padded, times) if plan.whole else None
    return Prepared(padded, lr.shape[:2], plan, context)

  def draw(
    self,
    prepared: Prepared,
    seed: int,
    samples: range,
    temperature: float,
    times: Times | None = None,
  ) -> Iterator[tuple[int, Window, np.ndarray]]:
    """Draws samples, tile after tile.

    Sample `i` of a seed is a function of both alone, whatever else is drawn: how many samples are
    drawn at a time changes it by round-off (on a CPU not at all), tiles by less than the overlap
    lets through.

    Args:
      prepared: Of `prepare`, for "draw".
      seed: Of the noise.
      samples: Which samples, one after the other.
      temperature: Standard deviation of the latents.
      times: Gets what it took.

    Yields:
      Position in `samples`, rows and columns of the HR image, and those pixels, float32
      `[h, w, 3]`, not clipped.
    """
    key = jax.random.key(seed, impl="threefry2x32")
    plan = prepared.plan
    together = samples_of_program(plan.batch)
    program = self.programs.get("draw", plan.tiling.size, together)
    with futures.ThreadPoolExecutor(plan.batch // together) as threads:
      for (row, column), context in self._tiles(prepared, times):
        target, source = self._kept(prepared, row, column)
        origin = np.int32(row.start), np.int32(column.start)

        def draw(first: int, context: Any = context, origin: tuple = origin) -> np.ndarray:
          arguments = context, np.float32(temperature), np.int32(first), origin
          return np.asarray(program(self.variables, key, *arguments))

        for position in range(0, len(samples), plan.batch):
          wanted = samples[position : position + plan.batch]
          begin = time.perf_counter()
          drawn = list(threads.map(draw, wanted[::together]))
          if times:
            times.samples += time.perf_counter() - begin
          # The last ones may be more than are wanted: they are of one program.
          tiles = itertools.chain.from_iterable(drawn)
          for offset, tile in enumerate(itertools.islice(tiles, len(wanted))):
            yield position + offset, target, tile[source]

  def decode(self, prepared: Prepared, latents: Latents) -> Iterator[tuple[Window, np.ndarray]]:
    """Decodes latents, tile after tile.

    Args:
      prepared: Of `prepare`, for "decode".
      latents: `[1, h', w', C]` each, finest first.

    Yields:
      As `draw`, without the position.
    """
    size = prepared.plan.tiling.size
    program = self.programs.get("decode", size)
    shapes = self.programs.latents(size)
    for (row, column), context in self._tiles(prepared):
      window = slice(row.start, row.stop), slice(column.start, column.stop)
      parts = tuple(
        z[:, *_scaled(window, shape.shape[1], size[0])]
        for z, shape in zip(latents, shapes, strict=True)
      )
      target, source = self._kept(prepared, row, column)
      yield target, np.asarray(program(self.variables, context, parts))[0][source]

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
    size = prepared.plan.tiling.size
    padded = self._padded(hr)
    latents = tuple(np.empty(shape, np.float32) for shape in self.latent_shapes(prepared))
    for (row, column), context in self._tiles(prepared):
      window = slice(row.start, row.stop), slice(column.start, column.stop)
      parts, _ = self._density(padded, window, context)
      kept = slice(row.low, row.high), slice(column.low, column.high)
      inside = tuple(
        slice(k.start - w.start, k.stop - w.start) for k, w in zip(kept, window, strict=True)
      )
      for z, part in zip(latents, parts.latents, strict=True):
        scale = part.shape[1], size[0]
        z[:, *_scaled(kept, *scale)] = np.asarray(part)[:, *_scaled(inside, *scale)]
    return latents

  def density(self, prepared: Prepared, hr: np.ndarray, round_trip: bool = False) -> Density:
    """The log-density of an HR image given its LR image, both as the model pads them.

    Args:
      prepared: Of `prepare`, for "density", and "decode" if there is to be a round trip.
      hr: float32 `[H, W, 3]` in [0, 1].
      round_trip: Decodes the latents again to see how exactly the flow inverts itself.

    Returns:
      The density. In tiles it is right up to what the overlap lets through.
    """
    padded = self._padded(hr)
    sums, factors, errors = None, [], []
    for sign, window in prepared.plan.tiling.signed_windows():
      context = prepared.context
      if context is None:
        context = self._condition(prepared.lr[:, *window])
      parts, noted = self._density(padded, window, context)
      signed = np.array([sign * float(x[0]) for x in (*parts.log_dets, *parts.latent_log_probs)])
      sums = signed if sums is None else sums + signed
      factors += (float(leaf.max()) for leaf in jax.tree.leaves(noted))
      if round_trip:
        back = self.programs.get("decode", _size(window))(self.variables, context, parts.latents)
        expected = padded[:, *_scaled(window, self.model.scale)]
        errors.append(np.abs(np.asarray(back) - expected).max())
    count = len(parts.log_dets)
    return Density(
      tuple(sums[:count].tolist()),
      tuple(sums[count:].tolist()),
      padded[0, ..., 0].size,
      float(np.max(errors)) if round_trip else None,
      float(np.max(factors or math.nan)),
    )

  def _density(self, padded: np.ndarray, window: Window, context: Any) -> tuple[Any, Any]:
    program = self.programs.get("density", _size(window))
    return program(self.variables, context, padded[:, *_scaled(window, self.model.scale)])

  def _padded(self, hr: np.ndarray) -> np.ndarray:
    return pad_as_model(hr, self.model.scale * self.model.lr_multiple)[None]

  def _tiles(
    self, prepared: Prepared, times: Times | None = None
  ) -> Iterator[tuple[tuple[Span, Span], Any]]:
    """Tiles with their contexts."""
    for row, column in prepared.plan.tiling.tiles:
      context = prepared.context
      if context is None:
        window = prepared.lr[:, row.start : row.stop, column.start : column.stop]
        context = self._condition(window, times)
      yield (row, column), context

  def _kept(self, prepared: Prepared, row: Span, column: Span) -> tuple[Window, Window]:
    """What a tile gives: which pixels of the HR image, and which of the tile they are."""
    # What lies beyond the image's own size is padding.
    target = tuple(
      slice(span.low, min(span.high, side))
      for span, side in zip((row, column), prepared.size, strict=True)
    )
    source = tuple(
      slice(part.start - span.start, part.stop - span.start)
      for part, span in zip(target, (row, column), strict=True)
    )
    return _scaled(target, self.model.scale), _scaled(source, self.model.scale)

  def _condition(self, lr: np.ndarray, times: Times | None = None) -> Any:
    program = self.programs.get("condition", lr.shape[1:3])
    begin = time.perf_counter()
    context = jax.block_until_ready(program(self.variables, lr))
    if times:
      times.context += time.perf_counter() - begin
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
  return tuple(slice(s.start * factor // divisor, s.stop * factor // divisor) for s in window)


def _size(window: Window) -> tuple[int, int]:
  return tuple(part.stop - part.start for part in window)
