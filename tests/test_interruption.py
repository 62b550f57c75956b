"""A run that is killed, again and again, ends exactly as one that was left alone."""

import pathlib
import random
import signal
import time

import jax
import numpy as np
import pytest

import runs
from srflow_jax import checkpoints


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


def test_a_run_killed_twice_ends_as_the_whole_one(tmp_path):
  killed_again_and_again(tmp_path, kills=2, steps=60)


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_as_the_whole_one(tmp_path):
  killed_again_and_again(tmp_path, kills=20, steps=400)
