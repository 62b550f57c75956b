"""What ends a run early, in all of its processes after the same step, with its state saved.

That is SIGTERM, SIGINT or SIGHUP, or that a process has no more batches.

Before its first step `srflow_jax.cli` answers them.
"""

import collections
import signal
from types import FrameType
from typing import Self

import jax
import numpy as np
from jax.sharding import Mesh

from srflow_jax.errors import stop_signals
from srflow_jax.training import devices

# Steps after which processes act on what the others say. Reading what was exchanged so long ago
# does not wait for a step that is still running.
STEPS_BEHIND = 4

_GO_ON, _STOP, _FAILED = 0, 1, 2  # and _FAILED + n: process n has failed


class StopRequest:
  """Whether the run has to stop, in all of its processes alike.

  A context, in which the first of `stop_signals` is noted and a second one kills as usual; but
  SIGHUP does not, which a terminal that closes may send twice.

  Attributes:
    failed: the process that has failed; None if none has, or before `received` has told.
    error: what this one has failed by.
  """

  failed: int | None = None
  error: Exception | None = None

  def __init__(self, mesh: Mesh) -> None:
    """Prepares; `mesh` is that of all devices of all processes."""
    self._mesh = mesh
    self._here = _GO_ON
    self._exchanged = collections.deque()
    self._most = jax.jit(lambda asked: asked["asked"].max(), out_shardings=devices.replicated(mesh))

  def __enter__(self) -> Self:
    self._previous = {number: signal.signal(number, self._note) for number in stop_signals()}
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _note(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self._here = max(self._here, _STOP)
    for other in self._previous:
      signal.signal(other, signal.SIG_IGN if other is signal.SIGHUP else signal.SIG_DFL)

  def fail(self, error: Exception) -> None:
    """Notes that this process can run no more than `STEPS_BEHIND` steps after the next one."""
    self.error = error
    self._here = _FAILED + jax.process_index()

  def received(self) -> bool:
    """Whether any process has to stop; all processes must call it, once after every step."""
    said = self._here
    if jax.process_count() > 1:
      here = np.full(jax.local_device_count(), self._here)
      self._exchanged.append(self._most(devices.put_batch(self._mesh, {"asked": here})))
      behind = len(self._exchanged) > STEPS_BEHIND
      said = int(self._exchanged.popleft()) if behind else _GO_ON
    self.failed = said - _FAILED if said >= _FAILED else None
    return said != _GO_ON
