"""Random access to the records of ArrayRecord files, with few of them open at a time."""

import bisect
import collections
import itertools
import pathlib
import threading
from typing import Any

from array_record.python import array_record_module

from srflow_jax.data.record_sets import Shards
from srflow_jax.errors import InputError

MAX_OPEN_FILES = 64


class RecordFiles:
  """The records of a split, numbered through its files.

  Readers are opened when they are needed, and the least recently used one is let go, so that a
  set of thousands of files does not exceed the files that a process may open.
  """

  def __init__(self, shards: Shards, max_open: int = MAX_OPEN_FILES) -> None:
    """Opens nothing yet."""
    self._shards = shards
    self._ends = list(itertools.accumulate(shards.lengths))
    self._max_open = max_open
    self._readers: collections.OrderedDict[int, Any] = collections.OrderedDict()
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self._shards)

  def __getitem__(self, index: int) -> bytes:
    """A record; `InputError` names the file that is missing or damaged."""
    if not 0 <= index < len(self):
      raise IndexError(index)
    shard = bisect.bisect_right(self._ends, index)
    position = index - (self._ends[shard] - self._shards.lengths[shard])
    path = self._shards.files[shard]
    reader = self._reader(shard)
    try:
      (record,) = reader.read([position])
    except (RuntimeError, ValueError, IndexError) as error:
      raise InputError(f"{path}: damaged, record {position} ({_first_line(error)})") from None
    return record

  def _reader(self, shard: int) -> Any:
    with self._lock:
      if shard in self._readers:
        self._readers.move_to_end(shard)
        return self._readers[shard]
      reader = open_records(self._shards.files[shard], self._shards.lengths[shard])
      self._readers[shard] = reader
      if len(self._readers) > self._max_open:
        # Not closed here, since another thread may be reading from it. Its file closes with it.
        self._readers.popitem(last=False)
      return reader


def open_records(path: pathlib.Path, num_records: int) -> Any:
  """Opens a file of `num_records`; raises `InputError` if it is missing, damaged or has others."""
  if not path.is_file():
    raise InputError(f"{path}: missing from the data set")
  try:
    # Reading ahead would help only if records were read in order.
    reader = array_record_module.ArrayRecordReader(
      str(path), options="readahead_buffer_size:0", file_reader_buffer_size=2**15
    )
    actual = reader.num_records()
  except (RuntimeError, ValueError) as error:
    raise InputError(f"{path}: damaged ({_first_line(error)})") from None
  if actual != num_records:
    raise InputError(f"{path}: damaged, it holds {actual} records where {num_records} were written")
  return reader


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]
