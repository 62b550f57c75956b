"""A model's methods, compiled for windows of one size of LR.

XLA compiles for fixed shapes, so each size needs programs of its own. The most recently used ones
are kept; of every program it is remembered how many bytes it takes.
"""

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srflow_jax.compiling import compiler_options
from srflow_jax.errors import InputError
from srflow_jax.model.bijectors import MAP_FACTOR
from srflow_jax.model.features import Given
from srflow_jax.model.model import Model
from srflow_jax.sampling.denoising import denoised
from srflow_jax.sampling.machine import num_processors

Size = tuple[int, int]  # height and width in LR pixels
Wanted = tuple[str, int]  # a method, and how many samples it is of: 1 if it is not of samples

# An image takes up to five programs, the parts that its tiles share up to three of each, and the
# next image is compiled for while an image is computed.
MAX_PROGRAMS = 24

# A program for one size and a few samples runs too short to repay the compiler's best: x4_small's
# take it a third less time so, and run as fast (docs/speed.md has the figures).
_LEVEL = 1

# Linen's scans and vmaps make classes, for which they change the classes of layers for a moment. So
# of several threads one traces, and compilers run beside it.
_TRACING = threading.RLock()


def largest_inverse_factor(sown: Any, maps_only: bool = False) -> float:
  """The largest factor by which a layer's inverse enlarges an error; NaN if no layer says.

  Args:
    sown: what layers kept of their inverses (`note_inverse_factor`).
    maps_only: whether only those that are elementwise maps count.
  """
  factors = [
    float(leaf.max())
    for path, leaf in jax.tree_util.tree_leaves_with_path(sown)
    if not maps_only or path[-1].key == MAP_FACTOR
  ]
  return float(np.max(factors)) if factors else math.nan


class Programs:
  """A model's methods, each compiled for sizes of LR and, of samples, for a number of them.

  "condition": (lr) → context; "noise": (context, key, temperatures, first, origin) → latents of
  samples, `[batch, 1, h, w, C]` each; "decode": (context, latents) → images `[batch, H, W, 3]`;
  "denoise": (context, variance of the noise, images) → the images without it (`denoising.py`);
  "density": (context, hr) → `DensityParts` and what layers say of their inverses.
  """

  def __init__(self, model: Model, variables: Any, max_programs: int = MAX_PROGRAMS) -> None:
    """Takes the model, its variables or their shapes, and how many programs are kept."""
    self._model = model
    self._variables = variables
    self._program = functools.lru_cache(max_programs)(self._compile)
    self._num_bytes: dict[tuple[Size, Wanted], int] = {}
    self.context = functools.lru_cache(self._context)  # shapes and types of a size's context
    self.latents = functools.lru_cache(self._latents)  # of its latents

  def run(self, variables: Any, method: str, size: Size, *arguments: Any, batch: int = 1) -> Any:
    """Runs a method, compiling it if need be, and waits for what it gives.

    Args:
      variables: Of the shapes that the programs were made for.
      method: One of those that the class names.
      size: Of the window of LR.
      *arguments: The method's own; see the class.
      batch: Of how many samples it is.

    Raises:
      InputError: The device has too little memory.
    """
    with out_of_memory_named():
      return jax.block_until_ready(self._program(method, size, batch)(variables, *arguments))

  def compile(self, size: Size, wanted: Iterable[Wanted]) -> None:
    """Compiles what is not compiled yet, so that the time of `run` does not include it."""
    # The compiler keeps one core busy, and lets other threads run.
    with out_of_memory_named(), futures.ThreadPoolExecutor(num_processors()) as threads:
      list(threads.map(lambda one: self._program(one[0], size, one[1]), wanted))

  def num_bytes(self, size: Size, wanted: Iterable[Wanted]) -> dict[Wanted, int]:
    """Bytes that temporaries and outputs of methods take, as their compiled programs say."""
    wanted = list(wanted)
    self.compile(size, [one for one in wanted if (size, one) not in self._num_bytes])
    return {one: self._num_bytes[size, one] for one in wanted}

  def trace(self, method: str, size: Size, batch: int = 1) -> jax.stages.Traced:
    """A method traced for a size and, if it is of samples, a number of them: to be compiled."""
    with _TRACING:
      function, arguments = getattr(self, f"_{method}")(size, batch)
      jitted = jax.jit(function, compiler_options=compiler_options(_LEVEL))
      return jitted.trace(self._variables, *arguments)

  def _compile(self, method: str, size: Size, batch: int) -> jax.stages.Compiled:
    program = self.trace(method, size, batch).lower().compile()
    analysis = program.memory_analysis()
    assert analysis is not None  # all of JAX's compilers have one
    taken = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    self._num_bytes[size, (method, batch)] = taken
    return program

  def _condition(self, size: Size, batch: int) -> tuple[Callable, tuple]:
    def condition(variables: Any, lr: jax.Array) -> Any:
      return self._model.apply(variables, Given(lr), method="condition")

    return condition, (_floats((1, *size, 3)),)

  def _noise(self, size: Size, batch: int) -> tuple[Callable, tuple]:
    def noise(
      variables: Any, context: Any, key: jax.Array, temperature: Any, first: Any, origin: Any
    ) -> Any:
      arguments = key, context, temperature, batch, first, origin
      return self._model.apply(variables, *arguments, method="latents_of_samples")

    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    temperatures = _floats((self._model.num_latents,))
    return noise, (self.context(size), key, temperatures, number, (number, number))

  def _decode(self, size: Size, batch: int) -> tuple[Callable, tuple]:
    def decode(variables: Any, context: Any, latents: Any) -> jax.Array:
      images: Any = self._model.apply(variables, latents, context, batch, method="decode_samples")
      return images[:, 0]

    latents = jax.tree.map(lambda z: _floats((batch, *z.shape)), self.latents(size))
    return decode, (self.context(size), latents)

  def _denoise(self, size: Size, batch: int) -> tuple[Callable, tuple]:
    def denoise(variables: Any, context: Any, variance: jax.Array, images: jax.Array) -> jax.Array:
      def log_prob(image: jax.Array) -> jax.Array:
        parts: Any = self._model.apply(variables, image[None], context, method="density_parts")
        return parts.log_prob[0]

      return denoised(log_prob, images, variance)

    return denoise, (self.context(size), _floats(()), _floats((batch, *self._hr_size(size), 3)))

  def _density(self, size: Size, batch: int) -> tuple[Callable, tuple]:
    def density(variables: Any, context: Any, hr: jax.Array) -> Any:
      return self._model.apply(
        variables, hr, context, method="density_parts", mutable=["inverse_factor"]
      )

    return density, (self.context(size), _floats((1, *self._hr_size(size), 3)))

  def _hr_size(self, size: Size) -> Size:
    return size[0] * self._model.scale, size[1] * self._model.scale

  def _latents(self, size: Size) -> Any:
    draw = functools.partial(self._model.apply, method="latents_at")
    with _TRACING:
      return jax.eval_shape(draw, self._variables, jax.random.key(0), self.context(size), 1.0)

  def _context(self, size: Size) -> Any:
    condition, arguments = self._condition(size, 1)
    with _TRACING:
      return jax.eval_shape(condition, self._variables, *arguments)


@contextlib.contextmanager
def out_of_memory_named() -> Iterator[None]:
  """Makes an `InputError` of an allocation that failed."""
  try:
    yield
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
      raise
    reason = str(error).partition("\n")[0] or "no memory is left"
    raise InputError(
      f"out of memory ({reason}): a smaller --max_memory_gb (in Python max_memory_gb) cuts images "
      "into smaller tiles"
    ) from error


def _floats(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)
