"""Samples of an LR image of any size, whole or tile by tile within a budget of memory.

Tiles share the noise of the whole image (`srflow_jax.noise`), and the context of a tile serves all
samples. A tile differs from the same part of the whole image only by what its network does not see
beyond the overlap.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srflow_jax.errors import InputError
from srflow_jax.model import Model, SuperResolver
from srflow_jax.tiles import Tiling, tiling

_GB = 10**9
_PROCESS_BYTES = 1.0 * _GB  # of Python, JAX and compiled programs, on a CPU part of the budget
# Bytes that a pixel of LR takes at most, over those of its context, before the compiler has said.
_FIRST_GUESS = 4.0


@dataclasses.dataclass
class Times:
  """Seconds spent, compilation aside: on contexts, and on all samples given them."""

  context: float = 0.0
  samples: float = 0.0


@dataclasses.dataclass(frozen=True)
class Program:
  """What was compiled for a size of LR.

  Attributes:
    tiling: How the LR image is cut, after it was padded to what the model needs.
    num_bytes: What the compiler says it needs at a time, parameters included.
    condition: (variables, lr) → context.
    draw: (variables, key, context, temperature, index, origin) → `[H, W, 3]`.
  """

  tiling: Tiling
  num_bytes: int
  condition: Any
  draw: Any

  @property
  def whole(self) -> bool:
    """Whether the image is one tile."""
    return len(self.tiling.tiles) == 1


@dataclasses.dataclass(frozen=True)
class Prepared:
  """An LR image to be sampled: padded, with the context if the image is one tile."""

  lr: np.ndarray
  size: tuple[int, int]
  program: Program
  context: Any


class Sampler:
  """Draws samples of LR images with a model, within a budget of memory.

  Args:
    model: A flow, or an encoder alone (whose samples are all its one image).
    params: Its parameters.
    max_memory_gb: The budget in 10^9 bytes: on a CPU of the whole process, else of the device's
      memory. 0 for half of the machine's memory, or three quarters of the device's.
    overlap: LR pixels from a tile's border that are computed and not kept; None for
      `default_overlap`.
  """

  def __init__(
    self, model: Model, params: Any, max_memory_gb: float = 0.0, overlap: int | None = None
  ) -> None:
    """See the class."""
    if not 0 <= max_memory_gb < float("inf"):
      raise InputError(f"max_memory_gb is {max_memory_gb}: it must be 0 or more, and finite")
    if overlap is None:
      overlap = default_overlap(model)
    if overlap < 0:
      raise InputError(f"tile_overlap is {overlap}: it must be at least 0")
    self.model = model
    self.variables = {"params": params}
    self.overlap = -(-overlap // model.lr_multiple) * model.lr_multiple
    self.budget = int(max_memory_gb * _GB) or _default_budget()
    self._stochastic = not isinstance(model, SuperResolver)
    self._compiled = functools.cache(self._compile)
    self._programs: dict[tuple[tuple[int, int], int], Program] = {}

  def program(self, lr_size: tuple[int, int], reserved: int = 0) -> Program:
    """Plans and compiles for a size of LR.

    Args:
      lr_size: Height and width.
      reserved: Bytes of the budget that the caller's own arrays take (on a CPU).

    Raises:
      InputError: Not even the smallest tile fits the budget.
    """
    multiple = self.model.lr_multiple
    size = tuple(-(-side // multiple) * multiple for side in lr_size)
    if (size, reserved) not in self._programs:
      self._programs[size, reserved] = self._plan(size, reserved)
    return self._programs[size, reserved]

  def use(self, lr_size: tuple[int, int], plan: Tiling, reserved: int = 0) -> None:
    """Cuts LR images of a size (as padded) in this way, whatever the budget."""
    self._programs[lr_size, reserved] = self._compiled(plan)

  def prepare(self, lr: np.ndarray, reserved: int = 0, times: Times | None = None) -> Prepared:
    """Computes what samples of an LR image share.

    Args:
      lr: float32 `[h, w, 3]` in [0, 1].
      reserved: See `program`.
      times: Gets what it took.

    Returns:
      What `draw` takes. Its context is there for an image that is one tile; else each call of
      `draw` computes the tiles' contexts, once for all its samples.
    """
    program = self.program(lr.shape[:2], reserved)
    padded = pad_as_model(lr, self.model.lr_multiple)[None]
    context = self._condition(program, padded, times) if program.whole else None
    return Prepared(padded, lr.shape[:2], program, context)

  def draw(
    self,
    prepared: Prepared,
    seed: int,
    indices: Sequence[int],
    temperature: float,
    times: Times | None = None,
  ) -> Iterator[tuple[int, tuple[slice, slice], np.ndarray]]:
    """Draws samples, tile after tile.

    Sample `index` of a seed is a function of both alone, whatever else is drawn; tiles change it
    by less than the overlap lets through.

    Args:
      prepared: Of `prepare`.
      seed: Of the noise.
      indices: Which samples.
      temperature: Standard deviation of the latents.
      times: Gets what it took.

    Yields:
      Position in `indices`, rows and columns of the HR image, and those pixels, float32
      `[h, w, 3]`, not clipped.
    """
    key = jax.random.key(seed, impl="threefry2x32")
    program, scale = prepared.program, self.model.scale
    height, width = program.tiling.size
    for row, column in program.tiling.tiles:
      context = prepared.context
      if context is None:
        window = prepared.lr[:, row.start : row.start + height, column.start :][:, :, :width]
        context = self._condition(program, window, times)
      # What lies beyond the image's own size is padding.
      ends = [min(s.high, side) for s, side in zip((row, column), prepared.size, strict=True)]
      target = slice(row.low * scale, ends[0] * scale), slice(column.low * scale, ends[1] * scale)
      source = tuple(
        slice(part.start - span.start * scale, part.stop - span.start * scale)
        for part, span in zip(target, (row, column), strict=True)
      )
      origin = np.int32(row.start), np.int32(column.start)
      for position, index in enumerate(indices):
        begin = time.perf_counter()
        arguments = key, context, np.float32(temperature), np.int32(index), origin
        tile = np.asarray(program.draw(self.variables, *arguments))
        if times:
          times.samples += time.perf_counter() - begin
        yield position, target, tile[source]

  def _condition(self, program: Program, lr: np.ndarray, times: Times | None) -> Any:
    begin = time.perf_counter()
    context = jax.block_until_ready(program.condition(self.variables, lr))
    if times:
      times.context += time.perf_counter() - begin
    return context

  def _plan(self, size: tuple[int, int], reserved: int) -> Program:
    fixed = _num_bytes(self.variables)
    if _on_cpu():
      fixed += _PROCESS_BYTES + reserved
    probe = (1, self.model.lr_multiple, self.model.lr_multiple, 3)
    context = jax.eval_shape(self._condition_function, self.variables, _floats(probe))
    per_pixel = _FIRST_GUESS * _num_bytes(context) / (probe[1] * probe[2])
    while True:
      plan = tiling(size, (self.budget - fixed) / per_pixel, self.overlap, self.model.lr_multiple)
      if plan is None:
        smallest = 2 * self.overlap + self.model.lr_multiple
        pixels = np.prod([min(smallest, side) for side in size])
        raise InputError(
          f"an image of {size[1]}x{size[0]} LR pixels does not fit {self.budget / _GB:.2f} GB of "
          f"memory: tiles with an overlap of {self.overlap} need "
          f"{(fixed + pixels * per_pixel) / _GB:.2f} GB"
        )
      program = self._compiled(plan)
      if program.num_bytes + fixed <= self.budget:
        return program
      # The compiler's own figure replaces the guess.
      per_pixel = max(1.02 * per_pixel, program.num_bytes / (plan.size[0] * plan.size[1]))

  @property
  def _condition_function(self) -> Any:
    method = "condition" if self._stochastic else "super_resolve"
    return functools.partial(self.model.apply, method=method)

  def _compile(self, plan: Tiling) -> Program:
    condition, draw = self._compile_tile(plan.size)
    analyses = [program.memory_analysis() for program in (condition, draw)]
    first, second = (a.temp_size_in_bytes + a.output_size_in_bytes for a in analyses)
    context = analyses[0].output_size_in_bytes
    return Program(plan, max(first, context + second), condition, draw)

  def _compile_tile(self, size: tuple[int, int]) -> tuple[Any, Any]:
    def draw(
      variables: Any, key: jax.Array, context: Any, temperature: Any, index: Any, origin: Any
    ) -> jax.Array:
      if not self._stochastic:
        return context[0]
      arguments = key, context, temperature, 1, index, origin
      return self.model.apply(variables, *arguments, method="sample_from_context")[0, 0]

    condition = jax.jit(self._condition_function)
    lr = _floats((1, *size, 3))
    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    context = jax.eval_shape(condition, self.variables, lr)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    return (
      condition.lower(self.variables, lr).compile(),
      jax.jit(draw)
      .lower(self.variables, key, context, _floats(()), number, (number, number))
      .compile(),
    )


def default_overlap(model: Model) -> int:
  """LR pixels that leave less than a quarter of a grey level between tiles and the whole image.

  What a network sees at its border fades with each block of the encoder that passes it on, so the
  rule goes by their number; `benchmarks/tiles.py` measures the difference for any run.
  """
  return 8 + 4 * model.encoder_spec.num_blocks


def pad_as_model(image: np.ndarray, multiple: int) -> np.ndarray:
  """Pads `[h, w, C]` as the model would, on the host: to multiples, by reflection."""
  pads = [(0, -side % multiple) for side in image.shape[:2]]
  for axis, pad in enumerate(pads):
    widths = [pad if i == axis else (0, 0) for i in range(3)]
    # `symmetric` would repeat the border's pixel; one pixel has nothing else to repeat.
    image = np.pad(image, widths, "reflect" if image.shape[axis] > 1 else "edge")
  return image


def _floats(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def _num_bytes(tree: Any) -> int:
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _on_cpu() -> bool:
  return jax.local_devices()[0].platform == "cpu"


def _default_budget() -> int:
  if _on_cpu():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
  return int(0.75 * jax.local_devices()[0].memory_stats()["bytes_limit"])
