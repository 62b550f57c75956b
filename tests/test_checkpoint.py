"""Checkpoints and the run's folder: what is kept, what a failure leaves, who may write."""

import dataclasses
import os
import resource
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import runs
from models import random_params
from srflow_jax.errors import InputError
from srflow_jax.model.building import build_model
from srflow_jax.runs import lock_workdir, write_config
from srflow_jax.training import checkpoint
from srflow_jax.training.step import TrainState, create_state


def state_of(step: int, size: int = 8) -> TrainState:
  """A state after so many steps, of parameters that tell them."""
  optim = runs.get_config().optim
  state = create_state(
    optim, {"flow": {"kernel": jnp.full(size, step, jnp.float32)}}, jax.random.key(1)
  )
  return state.replace(step=jnp.asarray(step, jnp.int32))


def like(state: TrainState) -> TrainState:
  return jax.eval_shape(lambda: state)


def test_the_latest_and_the_best_are_kept(tmp_path):
  losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: float("nan"), 5: 4.0, 6: 5.0, 7: float("nan")}
  with checkpoint.checkpoint_manager(tmp_path, keep=2, keep_best=2) as manager:
    for step, loss in losses.items():
      checkpoint.save(manager, state_of(step), loss)
  assert runs.saved_steps(tmp_path) == [2, 3, 6, 7]
  with checkpoint.checkpoint_manager(tmp_path, keep=1, keep_best=1) as manager:
    checkpoint.save(manager, state_of(8), 0.5)  # the losses of an earlier process still count
  assert runs.saved_steps(tmp_path) == [8]


def test_all_of_a_state_comes_back(tmp_path):
  state = state_of(3).replace(
    ema={"flow": {"kernel": jnp.arange(8.0)}}, rate_factor=jnp.asarray(0.5), skipped=jnp.asarray(2)
  )
  with checkpoint.checkpoint_manager(tmp_path, keep=1) as manager:
    checkpoint.save(manager, state)
    checkpoint.wait(manager)
    back = checkpoint.restore(manager, like(state))
    for field in dataclasses.fields(state):
      jax.tree.map(
        np.testing.assert_array_equal, *(plain(getattr(s, field.name)) for s in (state, back))
      )
    # A configuration that has given up its average, and one that has taken one up.
    assert checkpoint.restore(manager, like(state.replace(ema={}))).ema == {}
    checkpoint.save(manager, state.replace(ema={}, step=state.step + 1))
    checkpoint.wait(manager)
    again = checkpoint.restore(manager, like(state))
    np.testing.assert_array_equal(again.ema["flow"]["kernel"], state.params["flow"]["kernel"])
    with pytest.raises(
      InputError, match=r"does not fit .* flow/kernel has shape \(8,\), .* \(9,\)"
    ):
      checkpoint.restore(manager, like(state_of(3, size=9)))


def plain(tree):
  """A tree of NumPy arrays, keys as their data."""

  def on_host(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)

  return jax.tree.map(on_host, tree)


KILLED_WHILE_SAVING = """
import os, pathlib, signal, sys
sys.path.insert(0, "tests")
from test_checkpoint import checkpoint, state_of

with checkpoint.checkpoint_manager(pathlib.Path(sys.argv[1]), keep=2) as manager:
  checkpoint.save(manager, state_of(1))
  checkpoint.wait(manager)
  checkpoint.save(manager, state_of(2, size=20_000_000))
  os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_while_saving_leaves_the_previous_checkpoint(tmp_path):
  command = [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path)]
  killed = subprocess.run(command, cwd=runs.ROOT, timeout=runs.TIMEOUT, check=False)
  assert killed.returncode == -signal.SIGKILL
  assert any("tmp" in path.name for path in (tmp_path / "checkpoints").iterdir())
  assert checkpoint.has_checkpoint(tmp_path)
  with checkpoint.checkpoint_manager(tmp_path, keep=2) as manager:
    state = checkpoint.restore(manager, like(state_of(1)))
    assert int(state.step) == 1
    checkpoint.save(manager, state_of(2))
  assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]


@pytest.fixture
def small_files():
  """No file can grow beyond 100 kB: writing fails as on a full disk, but for the error's name."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("found_by", ["leaving", "waiting", "saving again"])
def test_what_cannot_be_written_is_said_and_the_good_stays(found_by, tmp_path, small_files):
  noise = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
  large = state_of(2).replace(params={"flow": {"kernel": jnp.asarray(noise)}})
  message = r"cannot save to .*: File too large; the last good one is of step 1"
  with pytest.raises(InputError, match=message):
    with checkpoint.checkpoint_manager(tmp_path, keep=1) as manager:
      checkpoint.save(manager, state_of(1))
      checkpoint.save(manager, large)
      if found_by == "waiting":
        checkpoint.wait(manager)
      if found_by == "saving again":
        checkpoint.save(manager, large.replace(step=large.step + 1))
  with checkpoint.checkpoint_manager(tmp_path, keep=1) as manager:
    assert int(checkpoint.restore(manager, like(state_of(1))).step) == 1
  assert runs.saved_steps(tmp_path) == [1]


def test_a_failed_save_is_noticed_without_waiting(tmp_path, small_files):
  noise = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
  with pytest.raises(InputError, match="File too large; there is none yet"):
    with checkpoint.checkpoint_manager(tmp_path, keep=1) as manager:
      checkpoint.save(manager, state_of(1).replace(params={"flow": {"kernel": jnp.asarray(noise)}}))
      while True:
        checkpoint.wait(manager, only_if_done=True)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A run with a moving average, and checkpoints of steps 1 (the best) and 2."""
  folder = tmp_path_factory.mktemp("run")
  config = runs.get_config()
  config.optim.ema_decay = 0.9
  write_config(folder, config)
  model = build_model(config.model)
  with checkpoint.checkpoint_manager(folder, keep=1, keep_best=1) as manager:
    for step, loss in ((1, 1.0), (2, 2.0)):
      params = jax.tree.map(jnp.asarray, random_params(model, step, np.float32))
      state = create_state(config.optim, params, jax.random.key(0))
      ema = jax.tree.map(lambda leaf: leaf + 1, params)
      checkpoint.save(manager, state.replace(step=jnp.asarray(step, jnp.int32), ema=ema), loss)
  return folder


def test_a_run_is_loaded_as_asked(workdir):
  latest, best = checkpoint.load_run(workdir), checkpoint.load_run(workdir, "best")
  assert (latest.step, best.step) == (2, 1)
  chosen = checkpoint.load_run(workdir, 1)
  jax.tree.map(np.testing.assert_array_equal, chosen.params, best.params)
  plain_params = checkpoint.load_run(workdir, ema=False).params
  jax.tree.map(
    lambda ema, p: np.testing.assert_array_equal(ema, p + 1), latest.params, plain_params
  )
  with pytest.raises(InputError, match=r"no checkpoint of step 7 in .*; there are 1, 2"):
    checkpoint.load_run(workdir, 7)


def test_the_best_of_runs_that_were_not_validated_is_refused(tmp_path):
  config = runs.get_config()
  write_config(tmp_path, config)
  with checkpoint.checkpoint_manager(tmp_path, keep=1) as manager:
    checkpoint.save(manager, state_of(1))
  with pytest.raises(InputError, match=r"no checkpoint in .* has a validation loss"):
    checkpoint.load_run(tmp_path, "best")


LOCKS = """
import pathlib, sys, time
from srflow_jax.runs import lock_workdir

with lock_workdir(pathlib.Path(sys.argv[1])):
  print("locked", flush=True)
  time.sleep(600)
"""


def test_a_folder_is_for_one_run_until_its_process_ends(tmp_path):
  command = [sys.executable, "-c", LOCKS, str(tmp_path / "W")]
  with subprocess.Popen(command, cwd=runs.ROOT, stdout=subprocess.PIPE, text=True) as other:
    try:
      assert other.stdout.readline() == "locked\n"
      with pytest.raises(InputError, match=f"in use by another run: process {other.pid} on "):
        lock_workdir(tmp_path / "W")
    finally:
      other.kill()
  with lock_workdir(tmp_path / "W"):
    assert f"process {os.getpid()} " in (tmp_path / "W" / "lock").read_text()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match="cannot write to the workdir"):
    lock_workdir(tmp_path / "file" / "W")
