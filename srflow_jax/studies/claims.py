"""Which of several processes, on one machine or many that share a folder, does a piece of work.

A claim is a file `claims/N.json` in the work's folder, created exclusively, so that among all
machines one process alone gets number N. The highest number counts. Who holds it touches its file
every few seconds; who finds that the file has not been touched for long creates number N + 1. A
process that was only suspended meanwhile finds that file and gives up.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

from srflow_jax.errors import InputError
from srflow_jax.files import read_json

FOLDER = "claims"


@dataclasses.dataclass(frozen=True)
class Timing:
  """How often claims are touched, and when they count as dead.

  Attributes:
    heartbeat: seconds between two touches.
    dead_after: seconds without one.
  """

  heartbeat: float = 15.0
  dead_after: float = 180.0


@dataclasses.dataclass(frozen=True)
class Holder:
  """Who holds a claim, as its file says.

  Attributes:
    where: the process and its machine, in words.
    host: the machine's name.
    heartbeat: seconds between two of its touches; 0 if it does not say.
    age: seconds since the claim was touched, by the file system's clock.
    released: whether its holder has ended.
  """

  where: str
  host: str
  heartbeat: float
  age: float
  released: bool


class Claim:
  """A claim that this process holds; `release` ends it.

  Attributes:
    taken_from: what to tell of the dead process that had it before, or "".
  """

  def __init__(self, path: pathlib.Path, file: IO[str], timing: Timing, taken_from: str) -> None:
    """Takes the file, which is open and locked for as long as this process lives."""
    self._path, self._file, self._timing = path, file, timing
    self.taken_from = taken_from
    self._ended = threading.Event()

  def watch(self, lost: Callable[[str], object]) -> None:
    """Begins to touch the claim in a thread of its own.

    Args:
      lost: is called there, once, if another process has taken the claim over meanwhile.
    """
    self._thread = threading.Thread(target=self._touch, args=(lost,), daemon=True)
    self._thread.start()

  def _touch(self, lost: Callable[[str], object]) -> None:
    while not self._ended.wait(self._timing.heartbeat):
      newer = self._path.with_name(_name(int(self._path.stem) + 1))
      taken = False
      # A full disk or a network that is away must end neither the work nor this thread; the next
      # touch may succeed.
      with contextlib.suppress(OSError):
        taken = newer.exists()
        os.utime(self._path)
      if taken:
        lost(f"{self._path.parents[1]}: this process stood still and another one took over")
        return

  def release(self) -> None:
    """Lets others have the work at once."""
    self._ended.set()
    with contextlib.suppress(OSError):
      self._file.seek(0)
      self._file.write(json.dumps(_content(self._timing, released=True)))
      self._file.truncate()
      self._file.flush()
    self._file.close()


def take(folder: pathlib.Path, timing: Timing) -> Claim | None:
  """Claims a piece of work if nobody who lives has it.

  Args:
    folder: the work's folder; made if need be.
    timing: of claims.

  Returns:
    The claim, not yet touched in a thread; None if another process has it.

  Raises:
    InputError: the folder cannot be written.
  """
  claims = folder / FOLDER
  try:
    claims.mkdir(parents=True, exist_ok=True)
    number = _highest(claims)
    said = ""
    if number:
      path = claims / _name(number)
      found = _read(path)
      if not found.released:
        if not _dead(path, found, timing):
          return None
        said = f"taken over from {found.where}, silent for {found.age:.0f} s"
    path = claims / _name(number + 1)
    file = _create(path, timing)
    return Claim(path, file, timing, said) if file else None
  except OSError as error:
    raise InputError(f"{claims}: cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def held(claim: Claim, lost: Callable[[str], object]) -> Iterator[None]:
  """Touches a claim for as long as the context lasts, and releases it then."""
  claim.watch(lost)
  try:
    yield
  finally:
    claim.release()


def holder(folder: pathlib.Path) -> Holder | None:
  """Who holds a piece of work, dead or alive; None if nobody does."""
  claims = folder / FOLDER
  number = _highest(claims)
  if not number:
    return None
  found = _read(claims / _name(number))
  return None if found.released else found


def _name(number: int) -> str:
  return f"{number:06d}.json"


def _highest(claims: pathlib.Path) -> int:
  names = [p.stem for p in claims.glob("*.json")] if claims.is_dir() else []
  return max((int(name) for name in names if name.isdecimal()), default=0)


def _content(timing: Timing, released: bool) -> dict[str, Any]:
  host = socket.gethostname()
  where = f"process {os.getpid()} on {host}"
  return {"where": where, "host": host, "heartbeat": timing.heartbeat, "released": released}


def _create(path: pathlib.Path, timing: Timing) -> IO[str] | None:
  """Creates a claim's file, whole and locked; None if another process was faster."""
  part = path.with_name(f".{secrets.token_hex(8)}")
  file = part.open("x+")
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.write(json.dumps(_content(timing, released=False)))
    file.flush()
    os.link(part, path)  # exclusive on all file systems, also those of networks
    return file
  except FileExistsError:
    file.close()
    return None
  finally:
    part.unlink()


def _read(path: pathlib.Path) -> Holder:
  """What a claim's file says; one that cannot be read is of somebody unknown, and has an age."""
  try:
    said = read_json(path)
    where, host, released = (said[key] for key in ("where", "host", "released"))
    heartbeat = float(said.get("heartbeat", 0.0))  # claims of earlier versions have none
  except (InputError, KeyError, TypeError, ValueError):
    # Its holder is just ending, or the machine has died.
    where, host, heartbeat, released = "an unknown process", "", 0.0, False
  return Holder(str(where), str(host), heartbeat, _age(path), bool(released))


def _age(path: pathlib.Path) -> float:
  """Seconds since a file was touched, by the clock of its file system: machines' clocks differ."""
  probe = path.with_name(f".{secrets.token_hex(8)}")
  probe.touch()
  try:
    return max(0.0, probe.stat().st_mtime - path.stat().st_mtime)
  finally:
    probe.unlink()


def _dead(path: pathlib.Path, found: Holder, timing: Timing) -> bool:
  """Whether a claim's holder is dead: seen at once on its machine, else by the claim's age."""
  if found.host == socket.gethostname():
    with path.open("r+") as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True  # its process has ended, so the file is locked no longer
      except BlockingIOError:
        return False
  # Its process may touch it more rarely than this one would, if that has a longer `dead_after`.
  heartbeat = max(timing.heartbeat, found.heartbeat)
  if found.age < max(timing.dead_after, 4 * heartbeat):
    return False
  # Both machines may have been suspended, as virtual ones are, and have woken just now: a holder
  # that lives touches its claim while this process waits.
  before = path.stat().st_mtime
  time.sleep(2 * heartbeat)
  return path.stat().st_mtime == before
