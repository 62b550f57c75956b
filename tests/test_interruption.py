"""A run that is killed, again and again, ends exactly as one that was left alone."""

import pathlib
import random
import signal
import time

import jax
import numpy as np
import pytest
import runs

from srflow_jax.training import checkpoint


def assert_same_end(workdir: pathlib.Path, other: pathlib.Path) -> None:
  run, reference = (checkpoint.load_run(folder) for folder in (workdir, other))
  assert run.step == reference.step
  jax.tree.map(np.testing.assert_array_equal, run.params, reference.params)


def kill(process: runs.Process, workdir: pathlib.Path, rng: random.Random, window: float) -> str:
  """Kills a run within so many seconds of its loop's start, or of its own; what there was then."""
  since = "start"
  if rng.random() < 0.8:
    runs.wait_for(lambda: "training:" in process.output, process)
    since = "loop"
  seconds = rng.uniform(0, window)
  time.sleep(seconds)
  process.signal(signal.SIGKILL)
  assert process.end() == -signal.SIGKILL, process.output
  folder = workdir / "checkpoints"
  partial = ", ".join(path.name for path in folder.glob("*tmp*")) or "nothing"
  saved = runs.saved_steps(workdir)
  return f"killed {seconds:.2f} s after its {since}; saved: {saved}; half-written: {partial}"


def killed_again_and_again(folder: pathlib.Path, kills: int, steps: int, window: float) -> None:
  flags = [f"--config.num_train_steps={steps}"]
  whole, workdir = folder / "whole", folder / "W"
  runs.ended(runs.Process(whole, *flags))
  rng = random.Random(kills)
  for number in range(1, kills + 1):
    process = runs.Process(workdir, *flags)
    print(f"{number:2}: {kill(process, workdir, rng, window)}")
  runs.ended(runs.Process(workdir, *flags))
  assert_same_end(workdir, whole)


def test_a_run_killed_twice_ends_as_the_whole_one(tmp_path):
  killed_again_and_again(tmp_path, kills=2, steps=100, window=1.5)


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_as_the_whole_one(tmp_path):
  killed_again_and_again(tmp_path, kills=20, steps=2500, window=3.0)
