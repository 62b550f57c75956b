"""Worker processes that end with their parent."""

import concurrent.futures
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from srflow_jax.errors import InputError

_POLL_SECONDS = 1.0  # how long a batch may take before it is checked whether the workers live
_CLOSE_SECONDS = 5.0


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
  os.setpgid(0, 0)  # signals are sent to the parent's group


def from_workers(batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
  """What Grain's worker processes deliver, in memory of our own; notices when one is killed.

  What comes from a worker lies in shared memory, which is unmapped when Grain's array dies, even if
  a device array still aliases it (on the CPU, JAX does not copy aligned arrays). So it is copied.

  A worker that is killed while it writes leaves half a message, for whose end Grain would wait
  forever. So a thread waits for Grain, while this one watches the processes.

  Args:
    batches: Grain's iterator, not begun; closed when this one is.

  Yields:
    Its batches, in order. What it raises is raised here.

  Raises:
    InputError: a worker process was killed.
  """
  ready: queue.Queue[Any] = queue.Queue(1)
  is_over = threading.Event()
  earlier = set(multiprocessing.active_children())

  def fetch() -> None:
    try:
      for batch in batches:
        hand_over({name: np.array(value) for name, value in batch.items()})
        if is_over.is_set():
          return
      hand_over(StopIteration())
    except BaseException as error:
      hand_over(error)

  def hand_over(item: Any) -> None:
    while not is_over.is_set():
      try:
        return ready.put(item, timeout=_POLL_SECONDS)
      except queue.Full:
        pass

  thread = threading.Thread(target=fetch, daemon=True, name="batches-from-workers")
  thread.start()
  workers = set()
  try:
    while True:
      # They are noted while they live, since those that have ended are no longer listed.
      workers |= set(multiprocessing.active_children()) - earlier
      try:
        item = ready.get(timeout=_POLL_SECONDS)
      except queue.Empty:
        codes = [worker.exitcode for worker in workers if worker.exitcode]
        if codes:
          raise InputError(_killed("a data worker", codes[0])) from None
        continue
      if isinstance(item, StopIteration):
        return
      if isinstance(item, RuntimeError) and "terminated unexpectedly" in str(item):
        raise InputError(_killed("a data worker")) from None
      if isinstance(item, BaseException):
        raise item
      yield item
  finally:
    is_over.set()
    for worker in workers if any(worker.exitcode for worker in workers) else ():
      worker.kill()
    thread.join(_CLOSE_SECONDS)
    closing = threading.Thread(target=batches.close, daemon=True, name="close-batches")
    closing.start()
    closing.join(None if not thread.is_alive() else _CLOSE_SECONDS)


def _killed(who: str, exit_code: int | None = None) -> str:
  ended = f" (exit code {exit_code})" if exit_code else ""
  return f"{who} was killed{ended}, perhaps for want of memory"


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
    # Blocked, since workers inherit it: Ctrl-C is the parent's to answer, also while they start.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
      futures = [pool.submit(function, job) for job in jobs]
    finally:
      signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for future in concurrent.futures.as_completed(futures):
      yield future.result()
  except concurrent.futures.process.BrokenProcessPool:
    raise InputError(_killed("a worker process")) from None
  finally:
    pool.shutdown(cancel_futures=True)
