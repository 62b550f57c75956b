"""Studies on Slurm: without submitit, on its local engine, and on a real Slurm."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

import runs
import studies_tiny
from srflow_jax.cli import INTERRUPTED
from srflow_jax.errors import InputError
from srflow_jax.studies import slurm
from srflow_jax.studies.results import read_rows

HAS_SUBMITIT = importlib.util.find_spec("submitit") is not None


@pytest.mark.skipif(HAS_SUBMITIT, reason="submitit is installed")
def test_without_submitit_it_is_said_how_to_get_it(tmp_path):
  with pytest.raises(InputError, match=r'pip install "srflow_jax\[slurm\]"'):
    slurm.submit(tmp_path, ["true"], slurm.Resources())


def test_without_a_cluster_it_is_said_where_to_type_it(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "submitit", sys.modules.get("submitit") or os)
  monkeypatch.setattr(shutil, "which", lambda name: None)
  with pytest.raises(InputError, match="there is no sbatch here"):
    slurm.submit(tmp_path, ["true"], slurm.Resources())


def test_a_job_ends_as_its_command_does(monkeypatch):
  assert slurm.Task(["true"])() == 0
  assert slurm.Task(["sh", "-c", "exit 4"])() == 4  # runs that failed are recorded
  with pytest.raises(RuntimeError, match="status 2 of sh"):
    slurm.Task(["sh", "-c", "exit 2"])()


@pytest.mark.parametrize(
  ("environment", "job"),
  [
    ({"SLURM_JOB_ID": "7"}, "7"),
    ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}, "7_3"),
  ],
)
def test_an_interrupted_job_is_put_into_the_queue_again(monkeypatch, environment, job):
  for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  commands = []
  monkeypatch.setattr(slurm.subprocess, "run", lambda command, check: commands.append(command))
  monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)
  assert slurm.Task(["sh", "-c", f"exit {INTERRUPTED}"])() == INTERRUPTED
  assert commands == [["scontrol", "requeue", job]]


@pytest.mark.skipif(not HAS_SUBMITIT, reason="needs submitit")
def test_a_job_that_is_told_to_save_has_its_command_stopped(tmp_path):
  code = (
    "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); open(sys.argv[1], 'w')\n"
    "time.sleep(60)"
  )
  task = slurm.Task([sys.executable, "-c", code, str(tmp_path / "begun")])
  task._process = subprocess.Popen(task._command)
  while not (tmp_path / "begun").exists():
    time.sleep(0.05)
  again = task.checkpoint()
  assert task._process.wait() == INTERRUPTED
  assert again.function._command == task._command


@pytest.mark.skipif(not HAS_SUBMITIT, reason="needs submitit")
def test_jobs_of_submitits_local_engine(tmp_path, monkeypatch):
  monkeypatch.chdir(runs.ROOT)
  files = [tmp_path / "done0", tmp_path / "done1"]
  code = "import pathlib, os, sys; pathlib.Path(sys.argv[1], f'done{os.getpid()}').touch()"
  command = [sys.executable, "-c", code, str(tmp_path)]
  names = slurm.submit(tmp_path, command, slurm.Resources(array=2), cluster="local")
  end = time.monotonic() + 60
  while len(list(tmp_path.glob("done*"))) < len(files) and time.monotonic() < end:
    time.sleep(0.1)
  assert len(names) == len(list(tmp_path.glob("done*"))) == 2


needs_slurm = pytest.mark.skipif(
  not HAS_SUBMITIT or not shutil.which("sbatch"),
  reason="needs submitit and a Slurm, as tests/slurm_here.sh sets one up",
)


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  """A folder that all of the cluster's machines see, which `tmp_path` may not be."""
  return pathlib.Path(os.environ.get("SLURM_TEST_FOLDER", tmp_path))


def job_states() -> list[str]:
  command = ["squeue", "--noheader", "--array", "--format=%i %T"]
  return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.slow
@needs_slurm
def test_a_study_goes_on_after_a_preemption(folder):
  """Four runs on two slots; the job that does the first is preempted, and put into the queue."""
  photographs = studies_tiny.write_photographs(folder / "photographs")
  workdir = folder / "W"
  flags = [f"--{name}={photographs}" for name in ("train_dir", "val_dir", "hr_dir")]
  program = ("ablate.py", f"--study={studies_tiny.__file__}")
  slots = ("--slurm", "--slurm_array=2", "--slurm_cpus=1", "--slurm_minutes=120")
  runs.ended(runs.Process(workdir, *flags, *slots, program=program, name="submit"))
  end = time.monotonic() + 3600
  while not runs.saved_steps(workdir / "runs" / "base-seed3"):
    assert time.monotonic() < end, job_states()
    time.sleep(1)
  first = next(line.split()[0] for line in job_states() if line.endswith("RUNNING"))
  subprocess.run(["scancel", "--signal=USR2", first], check=True)  # as a preemption's grace
  while job_states():
    assert time.monotonic() < end, job_states()
    time.sleep(2)
  rows = read_rows(workdir / "runs.csv")
  done = {(row.variant, row.seed) for row in rows if row.metric == "lpips_mean"}
  assert {(v, s) for v in ("base", "two") for s in (3, 5)} <= done
  output = "".join(path.read_text() for path in (workdir / slurm.FOLDER).glob(f"{first}_*.out"))
  assert f"Requeued job {first}" in output and output.count("Starting with JobEnvironment") == 2
  logs = [path.read_text() for path in (workdir / "runs").glob("*/log.txt")]
  assert sum(bool(re.search(r"continuing \S+ from step [1-9]", log)) for log in logs) == 1


@pytest.mark.slow
@needs_slurm
def test_two_tasks_train_one_run(folder):
  flags = ["--distributed", "--config.num_train_steps=5"]
  srun = ["srun", "--ntasks=2", "--overcommit", sys.executable, "train.py"]
  command = [*srun, f"--config={runs.__file__}", f"--workdir={folder / 'both'}", *flags]
  result = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, timeout=1800)
  assert result.returncode == 0, result.stdout + result.stderr
  assert runs.saved_steps(folder / "both") == [5]
  assert result.stdout.count("parameters: ") == 1  # one of the two tells
