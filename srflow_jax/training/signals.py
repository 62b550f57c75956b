"""SIGTERM and SIGINT: a run saves its state after the running step and ends.

Before its first step `srflow_jax.cli` answers them.
"""

import collections
import signal
from types import FrameType
from typing import Self

import jax
import numpy as np
from jax.sharding import Mesh

from srflow_jax.training import devices

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Steps after which processes act on each other's signals. Reading a flag that was exchanged so long
# ago does not wait for a step that is still running.
_STEPS_BEHIND = 4


class StopRequest:
  """Whether the run has been asked to stop, in all of its processes alike.

  A context, in which the first SIGTERM or SIGINT is noted and a second one kills as usual.
  """

  def __init__(self, mesh: Mesh) -> None:
    """Prepares; `mesh` is that of all devices of all processes."""
    self._mesh = mesh
    self._here = False
    self._exchanged = collections.deque()
    self._any = jax.jit(lambda asked: asked["asked"].any(), out_shardings=devices.replicated(mesh))

  def __enter__(self) -> Self:
    self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _note(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self._here = True
    for other in SIGNALS:
      signal.signal(other, signal.SIG_DFL)

  def received(self) -> bool:
    """Whether any process has been asked; all processes must call it, once after every step."""
    if jax.process_count() == 1:
      return self._here
    here = np.full(jax.local_device_count(), self._here)
    self._exchanged.append(self._any(devices.put_batch(self._mesh, {"asked": here})))
    return len(self._exchanged) > _STEPS_BEHIND and bool(self._exchanged.popleft())
