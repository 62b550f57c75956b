"""Shows how far all runs of a study are: a live table in a terminal, else a line now and then."""

import contextlib
import datetime
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import rich.console
import rich.live
import rich.table

from srflow_jax.studies import claims
from srflow_jax.studies.results import FAILED
from srflow_jax.studies.stages import Job
from srflow_jax.training.events import read_scalars

_TABLE_SECONDS = 5.0
_LINE_SECONDS = 60.0
_COLUMNS = ("run", "state", "step", "loss", "left", "where")


class Status(NamedTuple):
  """How far a run is, in words: a line of the table."""

  name: str
  state: str
  step: str
  loss: str
  left: str
  where: str


def status(job: Job) -> Status:
  """Looks at a run's folder."""
  total = job.run.config.num_train_steps
  left = job.left()
  held = claims.holder(job.folder) if left else None
  where = f"{held.where}, seen {held.age:.0f} s ago" if held else ""
  if job.table(FAILED).exists():
    return Status(job.run.name, "failed", "", "", "", "")
  if not left:
    return Status(job.run.name, "done", str(total), "", "", "")
  if left[0] != "train":
    return Status(job.run.name, left[0] if held else "waits", str(total), "", "", where)
  scalars = read_scalars(job.folder)
  losses = scalars.get("train/nll") or scalars.get("train/l1")
  if not losses:
    return Status(job.run.name, "starts" if held else "waits", "0", "", "", where)
  steps = sorted(losses)
  seconds = ""
  if len(steps) > 1 and held:
    before, last = steps[-2], steps[-1]
    each = (losses[last].time - losses[before].time) / (last - before)
    seconds = str(datetime.timedelta(seconds=round(max(0.0, each) * (total - last))))
  state = "trains" if held else "waits"
  loss = f"{losses[steps[-1]].value:.4g}"
  return Status(job.run.name, state, f"{steps[-1]}/{total}", loss, seconds, where)


class Display:
  """Tells what happens; a context, in which it also shows how far the runs are."""

  def __init__(self, jobs: Sequence[Job], console: rich.console.Console | None = None) -> None:
    """Takes the runs; prints to standard output unless told otherwise."""
    self._jobs = jobs
    # Its stream is fixed now: while runs train, `sys.stdout` is one of their logs.
    self._console = console or rich.console.Console(
      file=sys.stdout, highlight=False, soft_wrap=True
    )
    self._ended = threading.Event()
    self._own: Job | None = None
    self._live: rich.live.Live | None = None

  def say(self, text: str) -> None:
    """Prints a line."""
    now = datetime.datetime.now().strftime("%H:%M:%S")
    self._console.print(f"{now} {text}", markup=False)

  @contextlib.contextmanager
  def running(self, job: Job) -> Iterator[None]:
    """Within the context this process does the run."""
    self._own = job
    try:
      yield
    finally:
      self._own = None

  def __enter__(self) -> "Display":
    if self._console.is_terminal:
      self._live = rich.live.Live(
        self._table(),
        console=self._console,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
      )
      self._live.start()
    self._thread = threading.Thread(target=self._refresh, daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._ended.set()
    self._thread.join()
    if self._live:
      self._live.update(self._table(), refresh=True)
      self._live.stop()

  def _refresh(self) -> None:
    while not self._ended.wait(_TABLE_SECONDS if self._live else _LINE_SECONDS):
      # What is shown must not end the work: a file may vanish while it is looked at.
      with contextlib.suppress(OSError):
        if self._live:
          self._live.update(self._table(), refresh=True)
        elif own := self._own:
          now = status(own)
          said = [now.state, f"step {now.step}"] + [f"loss {now.loss}"] * bool(now.loss)
          self.say(", ".join([f"{now.name}: {said[0]}", *said[1:]]))

  def _table(self) -> rich.table.Table:
    table = rich.table.Table(*_COLUMNS)
    for job in self._jobs:
      table.add_row(*status(job))
    return table
