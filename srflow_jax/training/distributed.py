"""Several processes of one run: how they find each other, and how they fail together."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from srflow_jax.errors import InputError, one_line


def initialize(
  coordinator: str | None, num_processes: int | None, process_id: int | None, detect: bool
) -> None:
  """Joins the other processes of the run; to be called before anything else of JAX.

  Args:
    coordinator: host:port of process 0, at which it listens, on that address alone.
    num_processes: of the run.
    process_id: this one's number.
    detect: whether JAX finds all of this out by itself, as it can under SLURM, Open MPI, Kubernetes
      and on Cloud TPUs. Without it and the others, the run is of one process.

  Raises:
    InputError: only some are given, they cannot be, or the others did not come.
  """
  given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
  missing = [f"--{name}" for name, value in given.items() if value is None]
  if detect and len(missing) < 3:
    raise InputError("--distributed finds out by itself what the other flags say: give either")
  if not detect and len(missing) == 3:
    return
  if not detect and missing:
    raise InputError(f"several processes need {', '.join(missing)} as well")
  try:
    # Without an address to bind to, JAX's coordinator listens on every interface.
    jax.distributed.initialize(
      coordinator, num_processes, process_id, coordinator_bind_address=coordinator
    )
  except (RuntimeError, ValueError) as error:
    raise InputError(f"cannot join the run's other processes: {one_line(error, 1000)}") from error


@contextlib.contextmanager
def agreement() -> Iterator[None]:
  """A part of the start that is refused in all processes if it is refused in one.

  Else those that found no fault would wait for the others, which have left.

  Raises:
    InputError: in each process its own, else one that names a process with a fault.
  """
  error = None
  try:
    yield
  except InputError as fault:
    error = fault
  if jax.process_count() > 1:
    faults = multihost_utils.process_allgather(np.array(error is not None))
    if error is None and faults.any():
      error = InputError(f"process {faults.argmax()} cannot start; its output says why")
    if faults.any():
      leave()
  if error:
    raise error


def leave() -> None:
  """Leaves the other processes, if there are any; all have to, so that each can say why it ends."""
  if jax.process_count() > 1:
    jax.distributed.shutdown()


def check_alike(value: int, what: str) -> None:
  """Refuses a number that is not the same in all processes; to be called in an `agreement`.

  Raises:
    InputError: this process's is another than the first's.
  """
  if jax.process_count() > 1:
    values = multihost_utils.process_allgather(np.array(value))
    if value != values[0]:
      raise InputError(
        f"{what} is {value} here and {values[0]} in process 0: they must share files"
      )
