"""How checkpoints are written while training goes on, and which are kept."""

import contextlib
import dataclasses
import math
import os
import pathlib
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from srflow_jax.checkpoints.reading import (
  CONTENTS,
  CONTENTS_FILE,
  TREES,
  DamagedError,
  contents,
  digest,
  folder_of,
  saved_steps,
  system_error,
  validation_loss,
)
from srflow_jax.errors import InputError
from srflow_jax.runs import Saved, last_saved, note_saved


class Writer:
  """Writes a run's checkpoints and deletes those that need not be kept; see `writer`."""

  def __init__(self, workdir: pathlib.Path, keep: int, keep_best: int) -> None:
    self._workdir = workdir
    self._losses = {step: validation_loss(workdir, step) for step in saved_steps(workdir)}
    self._run = _word_of_run(workdir)
    self._saving: int | None = None  # the step that is not yet noted as saved
    handlers = {name: ocp.StandardCheckpointHandler() for name in TREES}
    handlers[CONTENTS] = ocp.JsonCheckpointHandler(CONTENTS_FILE)
    self._manager = ocp.CheckpointManager(
      folder_of(workdir).resolve(),
      options=ocp.CheckpointManagerOptions(
        cleanup_tmp_directories=True,
        preservation_policy=_Preserved(keep, keep_best, self._losses),
      ),
      item_handlers=handlers,
    )

  def save(self, step: int, trees: Mapping[str, Any], validation_loss: float = math.nan) -> None:
    """Begins to save a checkpoint; the arrays may be changed or deleted at once.

    Args:
      step: the steps done.
      trees: "params", and "ema" and "rest" if there are such.
      validation_loss: of the parameters, to find the best by; not a number if not computed.

    Raises:
      InputError: this or the previous one cannot be written; the good ones stay.
    """
    loss = validation_loss if math.isfinite(validation_loss) else None
    about = {
      "step": step,
      "validation_loss": loss,
      "sha256": {name: digest(tree) for name, tree in trees.items()},
      "run": self._run,
    }
    items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
    items[CONTENTS] = ocp.args.JsonSave(about)
    self.wait()
    self._losses[step] = validation_loss
    with self._failures_named():
      begun = self._manager.save(step, args=ocp.args.Composite(**items))
    if not begun:
      raise InputError(
        f"{self._manager.directory}: the checkpoint of step {step} was not saved, since there is "
        f"one of step {self._manager.latest_step()}"
      )
    self._saving = step

  def wait(self, only_if_done: bool = False) -> None:
    """Waits until all is saved; `InputError` if it cannot be.

    Args:
      only_if_done: do not wait, but check a save that has already ended.
    """
    if only_if_done and self._manager.is_saving_in_progress():
      return
    with self._failures_named():
      self._manager.wait_until_finished()
    if self._saving is not None and jax.process_index() == 0:
      note_saved(self._workdir, Saved(self._saving, self._run))
    self._saving = None

  def close(self) -> None:
    """Waits, and ends the threads that write."""
    try:
      self.wait()
    finally:
      with self._failures_named():
        self._manager.close()
      _join_threads()

  def reload(self) -> None:
    """Reads again which checkpoints there are, after some were set aside."""
    self._manager.reload()

  @contextlib.contextmanager
  def _failures_named(self) -> Iterator[None]:
    """Makes an `InputError` of what the system refuses to write."""
    try:
      yield
    except (OSError, ValueError) as error:
      number = system_error(error)
      if number is None:
        raise
      reason = os.strerror(number)
      self._saving = None
      steps = saved_steps(self._workdir)
      good = f"the last good one is of step {steps[-1]}" if steps else "there is none yet"
      raise InputError(f"cannot save to {self._manager.directory}: {reason}; {good}") from error


def _join_threads() -> None:
  """Waits for the threads of a save that failed, so that none speaks after the error's line."""
  for thread in threading.enumerate():
    if type(thread).__module__.startswith("orbax."):
      threading.Thread.join(thread)  # not its own way, which raises what it failed with


def _word_of_run(workdir: pathlib.Path) -> str:
  """The word that marks a run's checkpoints: the one that it has, or a new one."""
  saved = last_saved(workdir)
  if saved and saved.run:
    return saved.run
  for step in saved_steps(workdir)[::-1]:  # a process was killed before it noted its first one
    with contextlib.suppress(DamagedError):
      if run := contents(workdir, step).run:
        return run
  return secrets.token_hex(8)


@dataclasses.dataclass(frozen=True)
class _Preserved(checkpoint_managers.PreservationPolicy):
  """The latest `keep` checkpoints, and the `keep_best` of the lowest validation loss."""

  keep: int
  keep_best: int
  losses: Mapping[int, float]

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: checkpoint_managers.PreservationContext
  ) -> list[bool]:
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    loss = {step: self.losses.get(step, math.nan) for step in steps}
    validated = sorted((step for step in steps if math.isfinite(loss[step])), key=loss.get)
    kept = {*sorted(steps)[-self.keep :], *validated[: self.keep_best]}
    return [step in kept for step in steps]


@contextlib.contextmanager
def writer(workdir: pathlib.Path, keep: int, keep_best: int = 0) -> Iterator[Writer]:
  """Opens a workdir's checkpoints for writing; all processes of a run must enter it.

  What a killed process left half-written is deleted. Leaving waits for what is being saved.

  Args:
    workdir: the run's folder.
    keep: how many of the latest checkpoints are kept.
    keep_best: how many of those with the lowest validation loss are kept beside them.

  Raises:
    InputError: a checkpoint cannot be written; the good ones stay.
  """
  opened = Writer(workdir, keep, keep_best)
  try:
    yield opened
  finally:
    opened.close()


def set_aside(workdir: pathlib.Path, steps: Sequence[int]) -> None:
  """Moves damaged checkpoints to W/damaged_checkpoints, so that others can take their place."""
  aside = workdir / "damaged_checkpoints"
  try:
    for step in steps:
      aside.mkdir(exist_ok=True)
      names = (f"{step}" if i == 1 else f"{step}-{i}" for i in range(1, 1_000_000))
      target = next(aside / name for name in names if not (aside / name).exists())
      os.rename(folder_of(workdir) / str(step), target)
  except OSError as error:
    raise InputError(f"{aside}: cannot be written: {error.strerror}") from error
