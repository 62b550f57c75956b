"""A trace of chosen training steps, by JAX's profiler, for TensorBoard's profile plugin."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax


class Profiler:
  """Traces a run's steps from a first to a last one; see `profiled`."""

  def __init__(self, folder: pathlib.Path, steps: Sequence[int]) -> None:
    self._folder = folder
    self._steps = steps
    self.tracing = False

  def before(self, step: int) -> None:
    """To be called before each step; begins the trace if it is the first or a run starts within."""
    if self._steps and not self.tracing and self._steps[0] <= step <= self._steps[1]:
      jax.profiler.start_trace(str(self._folder))
      self.tracing = True

  def after(self, step: int, outputs: Any) -> None:
    """To be called after each step with what it computed; ends the trace if it was the last."""
    if self.tracing and step >= self._steps[1]:
      jax.block_until_ready(outputs)
      self.stop()

  def stop(self) -> None:
    """Writes the trace."""
    self.tracing = False
    jax.profiler.stop_trace()


@contextlib.contextmanager
def profiled(workdir: pathlib.Path, steps: Sequence[int]) -> Iterator[Profiler]:
  """Traces some of a run's steps, each process its own devices.

  Args:
    workdir: the run's folder; the trace goes into its `plugins/profile`.
    steps: the first and the last step, or nothing.
  """
  profiler = Profiler(workdir, steps)
  try:
    yield profiler
  finally:
    if profiler.tracing:
      profiler.stop()
