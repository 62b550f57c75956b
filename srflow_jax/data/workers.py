"""Worker processes that end with their parent."""

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from srflow_jax.errors import InputError


def start_worker(*_: object) -> None:
  """In a worker: exit when the parent dies, and leave Ctrl-C and a scheduler's signals to it.

  A worker that waits for its next order does not notice that its parent was killed, neither
  Grain's nor `concurrent.futures`'.
  """
  parent = multiprocessing.parent_process()

  def wait() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=wait, daemon=True, name="end-with-parent").start()
  os.setpgid(0, 0)  # they are sent to the parent's process group


def available_cores() -> int:
  """Cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_parallel(
  function: Callable[[Any], Any], jobs: Sequence[Any], num_workers: int
) -> Iterator[Any]:
  """Results of `function` on the jobs as they come, from worker processes that end with us.

  Args:
    function: a function that can be pickled, called with each job.
    jobs: what to call it with.
    num_workers: processes; 0 for one a core, 1 for this process itself.

  Yields:
    What it returned. What it raises is raised here, and ends the rest.
  """
  workers = min(num_workers or available_cores(), len(jobs))
  if workers <= 1:
    yield from map(function, jobs)
    return
  pool = concurrent.futures.ProcessPoolExecutor(
    workers, multiprocessing.get_context("spawn"), initializer=start_worker
  )
  try:
    for future in concurrent.futures.as_completed([pool.submit(function, job) for job in jobs]):
      yield future.result()
  except concurrent.futures.process.BrokenProcessPool:
    raise InputError("a worker process was killed, perhaps for want of memory") from None
  finally:
    pool.shutdown(cancel_futures=True)
