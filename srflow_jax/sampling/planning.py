"""How much of an image is computed at a time: a model's compiled programs, within a budget.

A program works on windows of one size of LR. What it needs is the compiler's own figure, so a plan
is made by compiling: the largest tile and the most samples at a time whose figure fits.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from srflow_jax.errors import InputError
from srflow_jax.model.features import Given
from srflow_jax.model.model import Model
from srflow_jax.sampling.tiles import Tiling, smallest_tile, tiling

Size = tuple[int, int]  # height and width in LR pixels

_GB = 10**9
_PROCESS_BYTES = 1.0 * _GB  # of Python, JAX and compiled programs, on a CPU part of the budget
# Bytes that a pixel of LR takes at most, over those of its context, before the compiler has said.
_FIRST_GUESS = 4.0


@dataclasses.dataclass(frozen=True)
class Task:
  """What is to be computed of an image.

  Attributes:
    methods: Of `Programs`: "draw", "density", "decode".
    num_samples: How many samples "draw" is asked for.
    reserved: Bytes of the budget that the caller's own arrays take (on a CPU).
  """

  methods: tuple[str, ...]
  num_samples: int = 1
  reserved: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
  """How the image is cut, after it was padded to what the model needs, and samples at a time."""

  tiling: Tiling
  batch: int = 1

  @property
  def whole(self) -> bool:
    """Whether the image is one tile."""
    return len(self.tiling.tiles) == 1


@dataclasses.dataclass(frozen=True)
class Need:
  """Bytes that a window needs beside the variables.

  Attributes:
    base: Whatever the samples at a time.
    context: Of the context alone.
    sample: Of each sample at a time.
  """

  base: int
  context: int
  sample: float

  def total(self, batch: int) -> float:
    """Bytes with so many samples at a time."""
    return max(self.base, self.context + batch * self.sample)

  def batch(self, free: float) -> int:
    """How many samples at a time need so many bytes, at least one."""
    return max(1, int((free - self.context) / max(self.sample, 1)))


class Programs:
  """A model's methods, compiled for windows of a size; none is compiled twice.

  All take the variables first: (variables, lr) → context; "draw": (variables, key, context,
  temperature, first, origin) → samples `[batch, H, W, 3]`; "density": (variables, context, hr) →
  `DensityParts` and the smallest scales noted; "decode": (variables, context, latents) → image
  `[1, H, W, 3]`. `context` and `latents` give shapes and types for a size.
  """

  def __init__(self, model: Model, variables: Any) -> None:
    """Takes the model, and variables or their shapes."""
    self._model = model
    self._variables = variables
    self.get = functools.cache(self._compile)
    self.context = functools.cache(self._context)
    self.latents = functools.cache(self._latents)

  def num_bytes(self, size: Size, methods: tuple[str, ...], batch: int) -> "Need":
    """What the context and then the methods, one at a time, need beside the variables."""
    context = num_bytes(self.context(size))
    condition, *others = (
      _analysed(self.get(method, size, 1)) for method in ("condition", *set(methods) - {"draw"})
    )
    together = samples_of_program(batch)
    draw = _analysed(self.get("draw", size, together)) / together if "draw" in methods else 0
    # A tile's context is made while the last one's is still there.
    return Need(context + max(condition, *others, 0), context, draw)

  def trace(self, method: str, size: Size, batch: int = 1) -> jax.stages.Traced:
    """A method traced for a size and, if it is "draw", a number of samples: to be compiled."""
    function, arguments = getattr(self, f"_{method}")(size, batch)
    return jax.jit(function).trace(self._variables, *arguments)

  def _compile(self, method: str, size: Size, batch: int = 1) -> jax.stages.Compiled:
    return self.trace(method, size, batch).lower().compile()

  def _condition(self, size: Size, batch: int) -> tuple[Callable, tuple]:
    def condition(variables: Any, lr: jax.Array) -> Any:
      return self._model.apply(variables, Given(lr), method="condition")

    return condition, (_floats((1, *size, 3)),)

  def _draw(self, size: Size, batch: int) -> tuple[Callable, tuple]:
    def draw(
      variables: Any, key: jax.Array, context: Any, temperature: Any, first: Any, origin: Any
    ) -> jax.Array:
      arguments = key, context, temperature, batch, first, origin
      return self._model.apply(variables, *arguments, method="sample_from_context")[:, 0]

    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    return draw, (key, self.context(size), _floats(()), number, (number, number))

  def _density(self, size: Size, batch: int) -> tuple[Callable, tuple]:
    def density(variables: Any, context: Any, hr: jax.Array) -> Any:
      return self._model.apply(
        variables, hr, context, method="density_parts", mutable=["inverse_factor"]
      )

    scale = self._model.scale
    return density, (self.context(size), _floats((1, size[0] * scale, size[1] * scale, 3)))

  def _decode(self, size: Size, batch: int) -> tuple[Callable, tuple]:
    def decode(variables: Any, context: Any, latents: Any) -> jax.Array:
      return self._model.apply(variables, latents, context, method="inverse_and_log_det")[0]

    return decode, (self.context(size), self.latents(size))

  def _latents(self, size: Size) -> Any:
    draw = functools.partial(self._model.apply, method="latents_at")
    return jax.eval_shape(draw, self._variables, jax.random.key(0), self.context(size), 1.0)

  def _context(self, size: Size) -> Any:
    condition, arguments = self._condition(size, 1)
    return jax.eval_shape(condition, self._variables, *arguments)


class Planner:
  """Plans for images of any size within a budget.

  Attributes:
    budget: In bytes.
    overlap: In LR pixels, a multiple of the model's `lr_multiple`.
  """

  def __init__(
    self,
    model: Model,
    programs: Programs,
    fixed_bytes: int,
    max_memory_gb: float,
    overlap: int | None,
    max_batch: int | None,
  ) -> None:
    """Takes what `sampling.Sampler` is given, and the bytes of the variables."""
    if not 0 <= max_memory_gb < math.inf:
      raise InputError(f"max_memory_gb is {max_memory_gb}: it must be 0 or more, and finite")
    if overlap is None:
      overlap = model.tile_overlap
    if overlap < 0:
      raise InputError(f"tile_overlap is {overlap}: it must be at least 0")
    self.budget = int(max_memory_gb * _GB) or _default_budget()
    self._multiple = model.lr_multiple
    self.overlap = -(-overlap // self._multiple) * self._multiple
    self._programs = programs
    self._fixed = fixed_bytes
    self._max_batch = max_batch or (os.cpu_count() if on_cpu() else math.inf)
    self._plans: dict[tuple[Size, Task], Plan] = {}
    # By methods, of the largest tile compiled: bytes for each pixel, one sample at a time.
    self._figures: dict[tuple[str, ...], tuple[int, float]] = {}

  def plan(self, lr_size: Size, task: Task) -> Plan:
    """Plans and compiles for LR images of a size.

    Raises:
      InputError: Not even the smallest tile fits the budget.
    """
    size = self._padded(lr_size)
    if (size, task) not in self._plans:
      self._plans[size, task] = self._make(size, task)
    return self._plans[size, task]

  def use(self, lr_size: Size, task: Task, plan: Plan) -> None:
    """Plans LR images of a size (as padded) in this way, whatever the budget."""
    self._plans[lr_size, task] = plan

  def check(self, lr_size: Size, task: Task) -> None:
    """Refuses a size that does not fit, going by a figure that is there: compiles nothing.

    Args:
      lr_size: Height and width.
      task: Whose methods were planned for an image as large.

    Raises:
      InputError: Not even the smallest tile fits the budget.
    """
    self._fitting(self._padded(lr_size), task, self._figures[task.methods][1])

  def _padded(self, lr_size: Size) -> Size:
    return tuple(-(-side // self._multiple) * self._multiple for side in lr_size)

  def _make(self, size: Size, task: Task) -> Plan:
    free = self._free(task)
    batch = int(min(task.num_samples, self._max_batch))
    probe = (self._multiple, self._multiple)
    figure = _FIRST_GUESS * num_bytes(self._programs.context(probe)) / math.prod(probe)
    if free <= 0:
      raise self._too_large(size, task, figure)
    # The guess alone refuses nothing: what it calls too large is tried in the smallest tiles.
    most = max(free / figure, smallest_tile(size, self.overlap, self._multiple))
    cut = tiling(size, most, self.overlap, self._multiple)
    while True:
      need = self._programs.num_bytes(cut.size, task.methods, batch)
      if batch > 1 and need.total(batch) > free:
        most = min(batch - 1, need.batch(free))
        batch = math.ceil(task.num_samples / math.ceil(task.num_samples / most))
        continue
      pixels = math.prod(cut.size)
      figure = need.total(1) / pixels
      if pixels > self._figures.get(task.methods, (0, 0.0))[0]:
        self._figures[task.methods] = pixels, figure
      if need.total(batch) <= free:
        return Plan(cut, batch)
      # The compiler's own figure replaces the guess.
      cut = self._fitting(size, task, 1.02 * figure)

  def _free(self, task: Task) -> float:
    return self.budget - self._fixed - (_PROCESS_BYTES + task.reserved if on_cpu() else 0)

  def _fitting(self, size: Size, task: Task, figure: float) -> Tiling:
    cut = tiling(size, self._free(task) / figure, self.overlap, self._multiple)
    if cut is None:
      raise self._too_large(size, task, figure)
    return cut

  def _too_large(self, size: Size, task: Task, figure: float) -> InputError:
    pixels = smallest_tile(size, self.overlap, self._multiple)
    needed = self.budget - self._free(task) + pixels * figure
    return InputError(
      f"an image of {size[1]}x{size[0]} LR pixels does not fit {self.budget / _GB:.2f} GB of "
      f"memory: tiles with an overlap of {self.overlap} need {needed / _GB:.2f} GB"
    )


def num_bytes(tree: Any) -> int:
  """Bytes of a tree of arrays, or of their shapes and types."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def on_cpu() -> bool:
  """Whether programs run on the host, whose memory they then share."""
  return jax.local_devices()[0].platform == "cpu"


def samples_of_program(batch: int) -> int:
  """Of so many samples at a time, how many one program draws.

  On an accelerator all, which fills it. On a CPU one: each has a thread then, since a convolution
  of few channels keeps only one core busy, however many images it is of.
  """
  return 1 if on_cpu() else batch


def _analysed(program: Any) -> int:
  analysis = program.memory_analysis()
  return analysis.temp_size_in_bytes + analysis.output_size_in_bytes


def _floats(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def _default_budget() -> int:
  if on_cpu():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
  return int(0.75 * jax.local_devices()[0].memory_stats()["bytes_limit"])
