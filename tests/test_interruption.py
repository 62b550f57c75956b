"""A run that is killed, again and again, ends exactly as one that was left alone."""

import os
import pathlib
import random
import signal
import time

import jax
import numpy as np
import pytest

import runs
from srflow_jax import checkpoints
from srflow_jax.cli import USAGE_ERROR


def assert_same_end(workdir: pathlib.Path, other: pathlib.Path) -> None:
  run, reference = (checkpoints.load_run(folder) for folder in (workdir, other))
  assert run.step == reference.step
  jax.tree.map(np.testing.assert_array_equal, run.params, reference.params)


def killed(workdir: pathlib.Path, flags: list[str], rng: random.Random, window: float) -> str:
  """Starts a run and kills it; says when, and what there was then.

  That is within so many seconds of its first new checkpoint, so that it gets on, or now and then
  while it starts.
  """
  before = runs.saved_steps(workdir)
  process = runs.Process(workdir, *flags)
  since = "start"
  if rng.random() < 0.8:
    runs.wait_for(lambda: runs.saved_steps(workdir) != before, process)
    since = "first checkpoint"
  seconds = rng.uniform(0, window if since != "start" else 5.0)
  time.sleep(seconds)
  process.signal(signal.SIGKILL)
  assert process.end() == -signal.SIGKILL, process.output
  partial = ", ".join(path.name for path in (workdir / "checkpoints").glob("*tmp*")) or "nothing"
  saved = runs.saved_steps(workdir)
  return f"killed {seconds:.2f} s after its {since}; saved: {saved}; half-written: {partial}"


def killed_again_and_again(folder: pathlib.Path, kills: int, steps: int) -> None:
  flags = [f"--config.num_train_steps={steps}"]
  whole, workdir = folder / "whole", folder / "W"
  process = runs.Process(whole, *flags)
  runs.wait_for(lambda: runs.saved_steps(whole), process)
  began = time.monotonic()
  runs.ended(process)
  window = 0.8 * (time.monotonic() - began) / kills  # so that it is not over before the last kill
  rng = random.Random(kills)
  for number in range(1, kills + 1):
    print(f"{number:2}: {killed(workdir, flags, rng, window)}", flush=True)
  runs.ended(runs.Process(workdir, *flags))
  assert_same_end(workdir, whole)


@pytest.mark.slow
def test_a_run_killed_twice_ends_as_the_whole_one(tmp_path):
  killed_again_and_again(tmp_path, kills=2, steps=60)


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_as_the_whole_one(tmp_path):
  killed_again_and_again(tmp_path, kills=20, steps=400)


@pytest.mark.skipif(not pathlib.Path("/proc").is_dir(), reason="looks the workers up in /proc")
@pytest.mark.slow
def test_a_killed_worker_ends_a_run_within_seconds_by_one_line(tmp_path):
  workdir = tmp_path / "W"
  flags = ("--config.data.num_workers=2", "--config.num_train_steps=1000000")
  process = runs.Process(workdir, *flags)
  runs.wait_for(lambda: runs.saved_steps(workdir), process)
  tasks = pathlib.Path(f"/proc/{process.pid}/task").glob("*/children")  # of whatever thread
  children = [pid for task in tasks for pid in task.read_text().split()]
  workers = [int(pid) for pid in children if is_worker(pid)]
  os.kill(workers[0], signal.SIGKILL)
  killed = time.monotonic()
  assert process.end() == USAGE_ERROR, process.output
  assert time.monotonic() - killed < 30  # seconds; the machine may be busy
  said = process.output.rstrip().splitlines()[-1]
  latest = runs.saved_steps(workdir)[-1]
  assert said.startswith("error: a data worker was killed"), process.output
  assert said.endswith(f"after step {latest}, the same command goes on from step {latest}")
  assert "Traceback" not in process.output


def is_worker(pid: str) -> bool:
  command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
  return b"spawn_main" in command or b"multiprocessing.spawn" in command
