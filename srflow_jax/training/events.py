"""The numbers that a run logs: TensorBoard's events, and the same as a table, `metrics.csv`."""

import contextlib
import dataclasses
import errno
import os
import pathlib
import re
from collections.abc import Iterator
from typing import TextIO

import jax
from google.protobuf.message import DecodeError
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from srflow_jax.errors import InputError
from srflow_jax.files import regular_file, write_whole

TABLE = "metrics.csv"  # of a run's folder
_HEADING = "step,name,value"
_ROW = re.compile(r"(\d{1,15}),[\w/]+,[-+.\w]+")

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


class EventWriter(SummaryWriter):
  """A writer of events that writes numbers to the table too; see `event_writer`."""

  def __init__(self, workdir: pathlib.Path, done: int) -> None:
    """Opens both; nothing is written in any process but the first."""
    is_first = jax.process_index() == 0
    super().__init__(
      str(workdir),
      purge_step=done + 1,
      # A thread writes. It should be done before the checkpoint of the same step is: a run that is
      # killed then goes on from there, and does not write of the steps before again.
      flush_secs=0.2,  # pyright: ignore[reportArgumentType] fractions are taken too
      max_queue=0,  # unbounded: to a full queue, of a full disk, the run would wait for ever
      write_to_disk=is_first,
    )
    self._table = _open_table(workdir / TABLE, done) if is_first else open(os.devnull, "w")

  def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
    """Writes a number, to the table at once."""
    super().add_scalar(tag, scalar_value, global_step)
    # Nine digits are all that float32 has.
    self._table.write(f"{global_step},{tag},{scalar_value:.9g}\n")

  def close(self) -> None:
    """Closes both."""
    super().close()
    self._table.close()


def _open_table(path: pathlib.Path, done: int) -> TextIO:
  """Opens the table for further rows, without those that an earlier process wrote of later steps.

  A line that a kill cut short, or that is damaged, is left out too.
  """
  lines = []
  if path.exists():
    with regular_file(path) as file:
      lines = file.read().decode("utf-8", "replace").split("\n")[:-1]
  rows = [line for line in lines if (found := _ROW.fullmatch(line)) and int(found[1]) <= done]
  write_whole(path, "".join(f"{line}\n" for line in (_HEADING, *rows)))
  return open(path, "a", buffering=1)  # by lines


@contextlib.contextmanager
def event_writer(workdir: pathlib.Path, done: int) -> Iterator[EventWriter]:
  """Opens a writer of events and of the table; only the first process's writes anything.

  Args:
    workdir: the run's folder.
    done: steps done. What an earlier process wrote of later ones TensorBoard forgets, and the
      table loses.

  Raises:
    InputError: the disk is full, or cannot be written for another reason.
  """
  writer = EventWriter(workdir, done)
  try:
    yield writer
    writer.close()
  except BaseException as error:
    with contextlib.suppress(OSError):
      writer.close()
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
      raise InputError(f"cannot write to {workdir}: {error.strerror}") from error
    raise
