"""How much of an image is computed at a time so that it fits a budget of memory.

What a program takes is the compiler's own figure. It grows with the window's pixels along a
straight line, so what two compiled sizes take says how large a tile may be.
"""

import dataclasses
import functools
import math
import numbers
from typing import Any

import jax

from srflow_jax.errors import InputError, is_whole
from srflow_jax.model.model import Model
from srflow_jax.sampling.machine import default_bytes, num_processors, on_cpu, usable_bytes
from srflow_jax.sampling.programs import Programs, Size
from srflow_jax.sampling.tiles import Tiling, smallest_tile, tiling

_GB = 10**9
_PROCESS_BYTES = 1.0 * _GB  # of Python, JAX and compiled programs, on a CPU part of the budget
# How many times the bytes of its context a pixel of LR takes at most: a guess until a size has been
# compiled.
_FIRST_GUESS = 4.0

MAX_SAMPLES = 1000  # of an image


def check_num_samples(num_samples: int) -> None:
  """Raises `InputError` for a number of samples that cannot be meant."""
  if not is_whole(num_samples):
    raise InputError(f"num_samples is {num_samples}: it must be a whole number")
  if num_samples < 1:
    raise InputError(f"num_samples is {num_samples}: it must be at least 1")
  if num_samples > MAX_SAMPLES:
    raise InputError(f"num_samples is {num_samples}: it must be at most {MAX_SAMPLES}")


@dataclasses.dataclass(frozen=True)
class Request:
  """What is to be computed of an image.

  Attributes:
    methods: "draw", "denoised", "density", "decode". The context is always needed.
    num_samples: How many samples are asked for.
    reserved: Bytes of the budget that the caller's own arrays take (on a CPU).
  """

  methods: tuple[str, ...]
  num_samples: int = 1
  reserved: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
  """How an image, padded to what the model needs, is computed.

  Attributes:
    tiling: Its tiles.
    batch: How many samples are drawn at a time.
  """

  tiling: Tiling
  batch: int = 1

  @property
  def whole(self) -> bool:
    """Whether the image is one tile."""
    return len(self.tiling.tiles) == 1


@dataclasses.dataclass(frozen=True)
class Footprint:
  """Bytes that a window takes beside the variables.

  Attributes:
    shared: What it takes however many samples are drawn at a time.
    context: What the context alone takes.
    sample: What each sample that is drawn at a time takes.
  """

  shared: int
  context: int
  sample: float

  def total(self, batch: int) -> float:
    """Bytes that are taken while `batch` samples are drawn at a time."""
    return max(self.shared, self.context + batch * self.sample)

  def max_batch(self, free: float) -> int:
    """How many samples can be drawn at a time within `free` bytes; at least one."""
    return max(1, int((free - self.context) / max(self.sample, 1)))


def footprint(
  programs: Programs, size: Size, methods: tuple[str, ...], batch: int = 1
) -> Footprint:
  """What a window takes: the context and then the methods, one at a time. Compiles them."""
  context = num_bytes(programs.context(size))
  together = samples_of_program(batch)
  once = [("condition", 1), *((m, 1) for m in ("density", "decode") if m in methods)]
  drawing = []
  if "draw" in methods or "denoised" in methods:
    drawing = [("decode", together), ("noise", together)]
    drawing += [("denoise", together)] if "denoised" in methods else []
  taken = programs.num_bytes(size, dict.fromkeys([*once, *drawing]))
  shared = max(taken[key] for key in once)
  # What a program leaves to the next one is still there.
  decode, *others = (taken[key] for key in drawing) if drawing else (0, 0)
  # A tile's context is made while the last one's is still there.
  return Footprint(context + shared, context, (decode + max(others)) / together)


class Budget:
  """Plans for images of any size within a budget of memory.

  Attributes:
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
    if not isinstance(max_memory_gb, numbers.Real) or not 0 <= max_memory_gb < math.inf:
      raise InputError(f"max_memory_gb is {max_memory_gb}: it must be 0 or more, and finite")
    if max_memory_gb * _GB > (usable := usable_bytes()):
      raise InputError(
        f"max_memory_gb is {max_memory_gb:g}: there are {usable / _GB:.2f} GB that can be used"
      )
    if overlap is None:
      overlap = model.tile_overlap
    if not is_whole(overlap) or overlap < 0:
      raise InputError(f"tile_overlap is {overlap}: it must be a whole number, at least 0")
    self._given_bytes = max_memory_gb * _GB
    self._multiple = model.lr_multiple
    self.overlap = -(-overlap // self._multiple) * self._multiple
    self._programs = programs
    self._fixed = fixed_bytes
    self._max_batch = max_batch or (num_processors() if on_cpu() else math.inf)
    self._plans: dict[tuple[Size, Request], Plan] = {}
    # By methods: pixels of windows that were compiled, and the bytes that each took.
    self._measured: dict[tuple[str, ...], dict[int, float]] = {}

  @functools.cached_property
  def num_bytes(self) -> float:
    """The budget. Only what is planned by it asks: a device that says nothing may serve the rest.

    Raises:
      InputError: None was given, and the device does not say how much memory it has.
    """
    return self._given_bytes or default_bytes()

  def plan(self, lr_size: Size, request: Request) -> Plan:
    """Plans and compiles for LR images of a size.

    Raises:
      InputError: Not even the smallest tile fits the budget.
    """
    size = self._padded(lr_size)
    if (size, request) not in self._plans:
      self._plans[size, request] = self._make(size, request)
    return self._plans[size, request]

  def use(self, lr_size: Size, request: Request, plan: Plan) -> None:
    """Plans LR images of a size (as padded) in this way, whatever the budget."""
    self._plans[lr_size, request] = plan

  def check(self, lr_size: Size, request: Request) -> None:
    """Refuses a size that does not fit. It goes by what other sizes took and compiles nothing.

    Args:
      lr_size: Height and width.
      request: What is to be computed. Its methods were planned before, for an image as large.

    Raises:
      InputError: Not even the smallest tile fits the budget.
    """
    size = self._padded(lr_size)
    taken = self._expected(request.methods, smallest_tile(size, self.overlap, self._multiple))
    if taken > self._free(request):
      raise self._too_large(size, request, taken)

  def _padded(self, lr_size: Size) -> Size:
    height, width = (-(-side // self._multiple) * self._multiple for side in lr_size)
    return height, width

  def _make(self, size: Size, request: Request) -> Plan:
    free = self._free(request)
    smallest = smallest_tile(size, self.overlap, self._multiple)
    if free <= 0:
      raise self._too_large(size, request, self._expected(request.methods, smallest))
    batch = int(min(request.num_samples, self._max_batch))
    cut = self._cut(size, self._max_pixels(request.methods, free))
    while True:
      taken = footprint(self._programs, cut.size, request.methods, batch)
      pixels = math.prod(cut.size)
      self._measured.setdefault(request.methods, {})[pixels] = taken.total(1)
      if taken.total(batch) <= free:
        return Plan(cut, batch)
      if batch > 1:  # as many batches as must be, of equal sizes
        num_batches = math.ceil(request.num_samples / min(batch - 1, taken.max_batch(free)))
        batch = math.ceil(request.num_samples / num_batches)
      elif pixels <= smallest:
        raise self._too_large(size, request, taken.total(1))
      else:
        # The line now goes through what was just compiled. Each time the tile gets a tenth smaller
        # at least, so this ends even where the bytes do not grow along a line.
        cut = self._cut(size, min(self._max_pixels(request.methods, free), 0.9 * pixels))

  def _line(self, methods: tuple[str, ...]) -> tuple[float, float]:
    """The bytes that a window takes beside its pixels, and those that each LR pixel takes.

    The line goes through the smallest and the largest window that were compiled, or through zero
    if only one was. If none was, it is a guess by the bytes of the context.
    """
    measured = sorted(self._measured.get(methods, {}).items())
    if not measured:
      probe = (self._multiple, self._multiple)
      return 0.0, _FIRST_GUESS * num_bytes(self._programs.context(probe)) / math.prod(probe)
    smaller, of_smaller = measured[0] if len(measured) > 1 else (0, 0.0)
    larger, of_larger = measured[-1]
    each = max(of_larger - of_smaller, 0) / (larger - smaller)
    return of_smaller - smaller * each, each

  def _expected(self, methods: tuple[str, ...], pixels: int) -> float:
    shared, each = self._line(methods)
    return shared + pixels * each

  def _max_pixels(self, methods: tuple[str, ...], free: float) -> float:
    shared, each = self._line(methods)
    return (free - shared) / each if each else math.inf

  def _cut(self, size: Size, max_pixels: float) -> Tiling:
    """Cuts tiles of at most `max_pixels`, or the smallest ones if none have so few pixels."""
    smallest = smallest_tile(size, self.overlap, self._multiple)
    tiles = tiling(size, max(max_pixels, smallest), self.overlap, self._multiple)
    assert tiles is not None  # the smallest tiles are not larger than that
    return tiles

  def _free(self, request: Request) -> float:
    process = _PROCESS_BYTES + request.reserved if on_cpu() else 0
    return self.num_bytes - self._fixed - process

  def _too_large(self, size: Size, request: Request, taken: float) -> InputError:
    needed = self.num_bytes - self._free(request) + taken
    return InputError(
      f"an image of {size[1]}x{size[0]} LR pixels does not fit {self.num_bytes / _GB:.2f} GB of "
      f"memory: tiles with an overlap of {self.overlap} need {needed / _GB:.2f} GB"
    )


def num_bytes(tree: Any) -> int:
  """Bytes of a tree of arrays, or of their shapes and types."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def samples_of_program(batch: int) -> int:
  """How many of the samples that are drawn at a time one program draws.

  On an accelerator one program draws all of them, which fills it. On a CPU it draws one, so that
  one program serves any number of samples, and each has a thread of its own, so that what one core
  does alone for one of them keeps no other core waiting.
  """
  return 1 if on_cpu() else batch
