"""Does the runs of a study, beside any number of processes that share its folder.

STUDY/study.json   what the study was when it began
STUDY/runs/RUN/    each run's folder: see `stages.py`; its output goes to `log.txt` there
STUDY/runs.csv     the results of all runs as one table
"""

import contextlib
import dataclasses
import json
import pathlib
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

import jax

from srflow_jax import checkpoints
from srflow_jax.cli import end_interrupted
from srflow_jax.errors import InputError, Interrupted, one_line, stop_signals
from srflow_jax.evaluation.progress import FILE as EVALUATION_PROGRESS
from srflow_jax.files import write_whole
from srflow_jax.runs import lock_workdir
from srflow_jax.studies import claims
from srflow_jax.studies.planning import StudyPlan
from srflow_jax.studies.progress import Display
from srflow_jax.studies.results import FAILED, Row, collect, read_rows, write_rows
from srflow_jax.studies.stages import ROWS, RUNS, Job

_ATTEMPTS = "attempts.jsonl"
_MOST_DEATHS = 3  # of processes, at one and the same place of a run


@dataclasses.dataclass(frozen=True)
class Options:
  """How a study is run.

  Attributes:
    command: what was typed, for the reports of evaluations.
    timing: of claims.
    wait: whether to wait for runs that other processes have, to take them over should these die.
    retry_failed: whether runs that had failed before go on.
  """

  command: str = ""
  timing: claims.Timing = dataclasses.field(default_factory=claims.Timing)
  wait: bool = True
  retry_failed: bool = False


def jobs_of(plan: StudyPlan, folder: pathlib.Path, command: str = "") -> list[Job]:
  """The jobs of a study in a folder."""
  return [Job(plan, run, folder / RUNS / run.name, command) for run in plan.runs]


def tables(jobs: Sequence[Job]) -> list[pathlib.Path]:
  """The folders of the runs' tables."""
  return [job.folder / ROWS for job in jobs]


def failure(job: Job) -> str:
  """Why a run failed, or ""."""
  table = job.table(FAILED)
  return str(read_rows(table)[0].value) if table.exists() else ""


def forget_failures(jobs: Sequence[Job], timing: claims.Timing) -> None:
  """Lets failed runs that nobody has go on from their latest checkpoints."""
  for job in jobs:
    if failure(job) and (claim := claims.take(job.folder, timing)):
      job.table(FAILED).unlink(missing_ok=True)
      (job.folder / _ATTEMPTS).unlink(missing_ok=True)
      claim.release()


def run_jobs(
  jobs: Sequence[Job], folder: pathlib.Path, options: Options, display: Display
) -> list[Row]:
  """Does all runs of a study that nobody else does; returns when all have ended, if it waits.

  A run that fails is recorded, and the others go on.

  Args:
    jobs: the runs.
    folder: the study's.
    options: how.
    display: is told what happens.

  Returns:
    The rows of all runs, which `runs.csv` has too.

  Raises:
    InputError: a folder cannot be written, or the device fails.
    Interrupted: a signal came; the same command goes on.
  """
  if options.retry_failed:
    forget_failures(jobs, options.timing)
  waited = False
  while left := [job for job in jobs if job.left() and not failure(job)]:
    done = False
    for job in left:
      if _try(job, options, display):
        collect(tables(jobs), folder / "runs.csv")
        done = True
    if done:
      waited = False
      continue
    if not waited:
      others = {found.where for job in left if (found := claims.holder(job.folder))}
      names = ", ".join(job.run.name for job in left)
      display.say(f"left to {', '.join(sorted(others)) or 'others'}: {names}")
      waited = True
    if not options.wait:
      break
    time.sleep(options.timing.heartbeat)
  return collect(tables(jobs), folder / "runs.csv")


def _try(job: Job, options: Options, display: Display) -> bool:
  """Does a run if its claim is free; returns whether it was."""
  claim = claims.take(job.folder, options.timing)
  if claim is None:
    return False
  with claims.held(claim, _give_up), _stoppable(job, claim):
    if failure(job) or not job.left():  # it has ended since this process looked
      return True
    if claim.taken_from:
      display.say(f"{job.run.name}: {claim.taken_from}")
    try:
      with lock_workdir(job.folder):
        pass
    except InputError as busy:  # `train.py`, say, was started there by hand
      display.say(f"{job.run.name}: {busy}")
      return False
    with display.running(job):
      _do(job, display)
  return True


def _give_up(reason: str) -> None:
  """Ends this process at once: another one has its work."""
  end_interrupted(f"{reason}; the same command goes on with other runs")


@contextlib.contextmanager
def _stoppable(job: Job, claim: claims.Claim) -> Iterator[None]:
  """Lets go of a run where a signal comes that ends the process; training answers it itself."""

  def stop(number: int, frame: FrameType | None) -> None:
    del number, frame
    _end_attempt(job)
    claim.release()
    end_interrupted("stopped by a signal; the same command goes on")

  before = {number: signal.signal(number, stop) for number in stop_signals()}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _do(job: Job, display: Display) -> None:
  """Does what is left of a run, and records why if it fails."""
  stage = "start"
  try:
    deaths = _begin_attempt(job)
    if deaths >= _MOST_DEATHS:
      raise InputError(
        f"{deaths} processes in a row died here ({_place(job)}): killed for lack of memory?"
      )
    for stage in job.left():
      display.say(f"{job.run.name}: {stage}")
      begin = time.monotonic()
      with _output_to(job.folder / "log.txt"):
        job.do(stage)
      display.say(f"{job.run.name}: {stage} done after {time.monotonic() - begin:.0f} s")
    _end_attempt(job)
  except Interrupted:
    _end_attempt(job)
    raise
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" in str(error):
      _fail(job, stage, error, display)
      return
    # A broken device would fail one run after the other. So it counts as a process that died.
    raise InputError(
      f"{job.run.name}: {stage}: the device failed, so this process ends: {_reason(error)}. The "
      f"same command goes on; a run that ends {_MOST_DEATHS} processes at one place has failed"
    ) from error
  except Exception as error:  # whatever a researcher's own kinds may raise: the others go on
    _fail(job, stage, error, display)
  finally:
    jax.clear_caches()  # the next run's programs are others


def _fail(job: Job, stage: str, error: Exception, display: Display) -> None:
  """Records why a run failed."""
  reason = _reason(error)
  if not isinstance(error, InputError):
    with _output_to(job.folder / "log.txt"):
      traceback.print_exception(error)
  _end_attempt(job)
  steps = checkpoints.saved_steps(job.folder)
  step = steps[-1] if steps else 0
  job.table(FAILED).parent.mkdir(exist_ok=True)
  write_rows(job.table(FAILED), [job.row(FAILED, f"{stage}: {reason}", step=step)])
  display.say(f"{job.run.name}: failed in {stage}: {reason}")


def _reason(error: Exception) -> str:
  """What an error says, in one line."""
  reason = one_line(error, at_most=1000)
  return reason if isinstance(error, InputError) else f"{type(error).__name__}: {reason}"


def _place(job: Job) -> str:
  """How far a run is, in words: it changes whenever something of it was saved."""
  steps = checkpoints.saved_steps(job.folder)
  measured = sum(path.stat().st_size for path in job.folder.rglob(EVALUATION_PROGRESS))
  stages = len(job.stages()) - len(job.left())
  return f"{stages} stages done, step {steps[-1] if steps else 0} saved, {measured} bytes measured"


def _begin_attempt(job: Job) -> int:
  """Notes that the run is begun; returns how many processes died at this very place before."""
  path, place = job.folder / _ATTEMPTS, _place(job)
  lines = path.read_text().splitlines() if path.exists() else []
  deaths = 0
  for line in reversed(lines):
    if json.loads(line) != place:
      break
    deaths += 1
  write_whole(path, "".join(f"{line}\n" for line in [*lines, json.dumps(place)]))
  return deaths


def _end_attempt(job: Job) -> None:
  """Notes that the process did not die."""
  path = job.folder / _ATTEMPTS
  if path.exists():
    write_whole(path, path.read_text() + json.dumps("ended") + "\n")


@contextlib.contextmanager
def _output_to(path: pathlib.Path) -> Iterator[None]:
  """Appends to a file what is printed, progress bars included."""
  with path.open("a", buffering=1) as log:
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
      yield
