"""TensorBoard's events of a run."""

import contextlib
import errno
import pathlib
from collections.abc import Iterator

import jax
from tensorboardX import SummaryWriter

from srflow_jax.errors import InputError

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextlib.contextmanager
def event_writer(workdir: pathlib.Path, done: int) -> Iterator[SummaryWriter]:
  """Opens a writer of events; only the first process's writes anything.

  Args:
    workdir: the run's folder.
    done: steps done. What an earlier process wrote of later ones TensorBoard forgets.

  Raises:
    InputError: the disk is full, or cannot be written for another reason.
  """
  writer = SummaryWriter(
    str(workdir),
    purge_step=done + 1,
    max_queue=0,  # unbounded: to a full queue, of a full disk, the run would wait for ever
    write_to_disk=jax.process_index() == 0,
  )
  try:
    yield writer
    writer.close()
  except BaseException as error:
    with contextlib.suppress(OSError):
      writer.close()
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
      raise InputError(f"cannot write to {workdir}: {error.strerror}") from error
    raise
