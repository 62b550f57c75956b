"""TensorBoard's events of a run."""

import contextlib
import dataclasses
import errno
import pathlib
from collections.abc import Iterator

import jax
from google.protobuf.message import DecodeError
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from srflow_jax.errors import InputError

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@dataclasses.dataclass(frozen=True)
class Scalar:
  """A number that was written, and when, in seconds since 1970."""

  value: float
  time: float


def read_scalars(workdir: pathlib.Path) -> dict[str, dict[int, Scalar]]:
  """What TensorBoard is told of a run: for each tag, the latest number at each step.

  What is being written, or was when the machine stopped, is passed over.
  """
  found: dict[str, dict[int, Scalar]] = {}
  for file in sorted(workdir.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime):
    data, at = file.read_bytes(), 0
    while at + 12 <= len(data):  # TFRecord: length, its checksum, the event, its checksum
      end = at + 12 + int.from_bytes(data[at : at + 8], "little")
      if end > len(data):
        break
      try:
        event = Event.FromString(data[at + 12 : end])
      except DecodeError:
        break
      for value in event.summary.value:
        if value.WhichOneof("value") == "simple_value":
          scalar = Scalar(value.simple_value, event.wall_time)
          found.setdefault(value.tag, {})[event.step] = scalar
      at = end + 4
  return found


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
    # A thread writes. It should be done before the checkpoint of the same step is: a run that is
    # killed then goes on from there, and does not write of the steps before again.
    flush_secs=0.2,  # pyright: ignore[reportArgumentType] fractions are taken too
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
