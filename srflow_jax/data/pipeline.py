"""The input pipeline: example k of a run is a function of (seed, k) and of nothing else.

Shuffling, cropping and mirroring come before the examples are dealt out. Batch s of the run has the
examples from s * batch_size on, and process p of P has the p-th of P equal parts of it. So a run
that starts again at step s, on any number of processes and workers, continues with the batches that
it would have seen, in the same order. No state of an iterator is needed for that.
"""

import collections
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from srflow_jax.config import Data
from srflow_jax.data.pairs import PairSource, RandomPatch, fixed_patches, lr_patch_size
from srflow_jax.data.sources import open_source
from srflow_jax.data.workers import from_workers, start_worker
from srflow_jax.errors import InputError

Batch = dict[str, np.ndarray]

# Threads that read and decode in each process, and batches kept ready there. Decoding releases the
# interpreter's lock; more than two threads gain nothing, since NumPy's share does not.
_THREADS = 2
_READY_BATCHES = 4


def make_train_iterator(
  data_config: Data,
  scale: int,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Endless training batches of this process, from global step `start_step` on.

  Args:
    data_config: `config.data`.
    scale: HR pixels per LR pixel.
    seed: of the order, the crops and the flips; 0 to 2**32 - 1.
    start_step: batches that the run has already used.
    process_index: this process's number.
    process_count: processes that share each global batch.

  Returns:
    Batches {"hr": uint8 [b, P, P, 3], "lr": uint8 [b, P / scale, P / scale, 3]} with
    b = batch_size / process_count, in a fresh order every epoch. The iterator's `close()` ends its
    threads and workers.

  Raises:
    InputError: at once if the configuration or any file's header cannot be used; from the iterator
      if a file turns out to be damaged when it is decoded.
  """
  source = open_source(data_config, scale, "train")
  return iterate(source, data_config, scale, seed, start_step, process_index, process_count)


def iterate(
  source: PairSource,
  data_config: Data,
  scale: int,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """`make_train_iterator` on an opened source."""
  transform = RandomPatch(
    scale, lr_patch_size(data_config, scale), data_config.flips, data_config.rotations
  )
  local_batch = local_batch_size(data_config.batch_size, process_count)
  examples = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(transform)
  # Processes take parts of the global batches in turn; every P-th part is this one's.
  parts = examples.batch(local_batch, drop_remainder=True, batch_fn=_stack)
  dataset = parts[process_index::process_count][start_step:].to_iter_dataset(
    grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_READY_BATCHES)
  )
  workers = data_config.num_workers
  if workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's flags, also in a notebook.
    options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=_READY_BATCHES)
    dataset = dataset.mp_prefetch(options, worker_init_fn=start_worker)
  return from_workers(iter(dataset)) if workers else iter(dataset)


def _stack(examples: Sequence[Batch]) -> Batch:
  return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def local_batch_size(batch_size: int, process_count: int) -> int:
  """Examples of each global batch for one process; `InputError` if they cannot be dealt evenly."""
  if batch_size < 1 or batch_size % process_count:
    raise InputError(
      f"config.data.batch_size is {batch_size}: it must be a positive multiple of the number of "
      f"processes, {process_count}"
    )
  return batch_size // process_count


def validation_batches(
  data_config: Data, scale: int, process_index: int = 0, process_count: int = 1
) -> list[Batch]:
  """The fixed validation batches of this process: the same at every call, in memory.

  `config.data.val_patches` patches, rounded down to whole global batches but at least one: the
  centre of every validation image, then further fixed positions. No flips, no noise.

  Returns:
    Batches as `make_train_iterator` gives them.

  Raises:
    InputError: as `make_train_iterator` does.
  """
  local_batch = local_batch_size(data_config.batch_size, process_count)
  source = open_source(data_config, scale, "validation")
  count = max(data_config.val_patches // data_config.batch_size, 1) * data_config.batch_size
  patches = list(fixed_patches(source, scale, lr_patch_size(data_config, scale), count))
  first = process_index * local_batch
  starts = range(first, count, data_config.batch_size)
  return [_stack(patches[start : start + local_batch]) for start in starts]


def put_ahead(
  batches: Iterator[Batch],
  put: Callable[[Batch], Any],
  ahead: int = 2,
  failed: Callable[[Exception], object] | None = None,
) -> Iterator[Any]:
  """Puts batches on the devices `ahead` of their use.

  Args:
    batches: host batches; closed when this iterator is.
    put: places one on the devices without waiting, as `jax.device_put` and
      `jax.make_array_from_process_local_data` do.
    ahead: batches in flight beside the one in use.
    failed: is told once if a batch cannot be had, after the first was yielded.

  Yields:
    What `put` returned, in order. If a batch cannot be had, those before it are yielded first and
    the error is raised in its place; before any was yielded, the error is raised at once.
  """
  waiting, is_begun, error = collections.deque(), False, None
  with contextlib.closing(batches):
    try:
      for batch in batches:
        waiting.append(put(batch))
        if len(waiting) > ahead:
          is_begun = True
          yield waiting.popleft()
    except Exception as e:
      if not is_begun:
        raise
      error = e
      if failed is not None:
        failed(error)
    yield from waiting
    if error is not None:
      raise error
