"""A study on a Slurm cluster: an array of jobs, each of which takes runs until none is left.

A job that is preempted or out of time saves its run, is put into the queue again and goes on. The
engine is submitit (`pip install "srflow_jax[slurm]"`).
"""

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from srflow_jax.cli import INTERRUPTED
from srflow_jax.errors import InputError

FOLDER = "slurm"  # of the study's folder: submitit's files and the jobs' output
_MOST_TIMEOUTS = 1000  # that a job is put into the queue again after
_ENDED = (0, 4)  # statuses of `ablate.py` with which a job is done: a failed run is recorded


@dataclasses.dataclass(frozen=True)
class Resources:
  """What each job asks for.

  Attributes:
    partition: Slurm's; "" for its default.
    gpus: GPUs.
    cpus: processors.
    array: how many jobs there are.
    minutes: how long one may run before it is put into the queue again.
    grace: seconds before that, or before a preemption, at which it is told to save.
  """

  partition: str = ""
  gpus: int = 0
  cpus: int = 4
  array: int = 1
  minutes: int = 24 * 60
  grace: int = 180


class Task:
  """What a job runs: the same command, in a process of its own. submitit pickles it."""

  def __init__(self, command: Sequence[str]) -> None:
    """Takes the command."""
    self._command = list(command)
    self._process: subprocess.Popen | None = None

  def __call__(self) -> int:
    """Runs the command; returns its status.

    Raises:
      RuntimeError: it failed.
    """
    # Slurm sends submitit's signal to all processes of the job; it is this one's to answer.
    self._process = subprocess.Popen(
      self._command, preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    )
    while (status := self._process.poll()) is None:
      time.sleep(0.5)
    if status == INTERRUPTED:
      _requeue()
    elif status not in _ENDED:
      raise RuntimeError(f"status {status} of {' '.join(self._command)}")
    return status

  def checkpoint(self) -> Any:
    """Has the command save its state; submitit then puts the job into the queue again."""
    import submitit  # pyright: ignore[reportMissingImports] an extra

    if self._process is not None:
      self._process.send_signal(signal.SIGTERM)
      # Not `wait`, whose lock the interrupted `poll` may hold; the process is left to it.
      os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
    return submitit.helpers.DelayedSubmission(Task(self._command))


def _requeue() -> None:
  """Puts this job into the queue again: Slurm ends it and starts it anew, on any machine."""
  job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ["SLURM_JOB_ID"]
  if index := os.environ.get("SLURM_ARRAY_TASK_ID"):
    job = f"{job}_{index}"
  subprocess.run(["scontrol", "requeue", job], check=True)
  time.sleep(600)  # until Slurm ends this process


def submit(
  folder: pathlib.Path, command: Sequence[str], resources: Resources, cluster: str = "slurm"
) -> list[str]:
  """Submits a study's jobs.

  Args:
    folder: the study's, which all machines must share.
    command: what each job runs.
    resources: what each job asks for.
    cluster: submitit's engine; "local" runs the jobs here, for tests.

  Returns:
    The jobs' names.

  Raises:
    InputError: submitit or Slurm is not there, or Slurm refuses the jobs.
  """
  try:
    import submitit  # pyright: ignore[reportMissingImports] an extra
  except ImportError:
    raise InputError('--slurm needs submitit: pip install "srflow_jax[slurm]"') from None
  if cluster == "slurm" and not shutil.which("sbatch"):
    raise InputError("--slurm: there is no sbatch here: type it on a machine of the cluster")
  executor = submitit.AutoExecutor(
    folder=folder / FOLDER, cluster=cluster, slurm_max_num_timeout=_MOST_TIMEOUTS
  )
  executor.update_parameters(
    name=folder.resolve().name,
    timeout_min=resources.minutes,
    cpus_per_task=resources.cpus,
    gpus_per_node=resources.gpus or None,
    slurm_partition=resources.partition or None,
    slurm_array_parallelism=resources.array,
    slurm_signal_delay_s=resources.grace,
    slurm_additional_parameters={"requeue": True},
  )
  try:
    with executor.batch():
      jobs = [executor.submit(Task(command)) for _ in range(resources.array)]
  except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError, OSError) as error:
    raise InputError(f"--slurm: {' '.join(str(error).split())}") from error
  return [job.job_id for job in jobs]
