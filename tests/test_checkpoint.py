"""Checkpoints and the run's folder: what is kept, what a failure leaves, who may write."""

import dataclasses
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from unittest.mock import Mock

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import runs
from models import random_params
from srflow_jax import checkpoints
from srflow_jax.checkpoints import models, reading
from srflow_jax.errors import InputError
from srflow_jax.model.building import build_model
from srflow_jax.runs import lock_workdir, workdir_path, write_config
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


def restored(workdir, like: TrainState) -> TrainState:
  """The latest checkpoint, which must be whole."""
  state, errors, _ = checkpoint.restore_latest(workdir, like, fresh)
  assert not errors
  return state


def fresh(params) -> TrainState:
  return create_state(runs.get_config().optim, params, jax.random.key(1))


def test_the_latest_and_the_best_are_kept(tmp_path):
  losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: float("nan"), 5: 4.0, 6: 5.0, 7: float("nan")}
  with checkpoints.writer(tmp_path, keep=2, keep_best=2) as writer:
    for step, loss in losses.items():
      checkpoint.save(writer, state_of(step), loss)
  assert runs.saved_steps(tmp_path) == [2, 3, 6, 7]
  with checkpoints.writer(tmp_path, keep=1, keep_best=1) as writer:
    checkpoint.save(writer, state_of(8), 0.5)  # the losses of an earlier process still count
  assert runs.saved_steps(tmp_path) == [8]


def test_all_of_a_state_comes_back(tmp_path):
  state = state_of(3).replace(
    ema={"flow": {"kernel": jnp.arange(8.0)}}, rate_factor=jnp.asarray(0.5), skipped=jnp.asarray(2)
  )
  with checkpoints.writer(tmp_path, keep=1) as writer:
    checkpoint.save(writer, state)
    writer.wait()
    back = restored(tmp_path, like(state))
    for field in dataclasses.fields(state):
      jax.tree.map(
        np.testing.assert_array_equal, *(plain(getattr(s, field.name)) for s in (state, back))
      )
    # A configuration that has given up its average, and one that has taken one up.
    assert restored(tmp_path, like(state.replace(ema={}))).ema == {}
    checkpoint.save(writer, state.replace(ema={}, step=state.step + 1))
    writer.wait()
    again = restored(tmp_path, like(state))
    np.testing.assert_array_equal(again.ema["flow"]["kernel"], state.params["flow"]["kernel"])
    with pytest.raises(
      InputError, match=r"does not fit .* flow/kernel has shape \(8,\), .* \(9,\)"
    ):
      restored(tmp_path, like(state_of(3, size=9)))


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
from test_checkpoint import checkpoint, checkpoints, state_of

with checkpoints.writer(pathlib.Path(sys.argv[1]), keep=2) as writer:
  checkpoint.save(writer, state_of(1))
  writer.wait()
  checkpoint.save(writer, state_of(2, size=20_000_000))
  os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_while_saving_leaves_the_previous_checkpoint(tmp_path):
  command = [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path)]
  killed = subprocess.run(command, cwd=runs.ROOT, timeout=runs.TIMEOUT, check=False)
  assert killed.returncode == -signal.SIGKILL
  assert any("tmp" in path.name for path in (tmp_path / "checkpoints").iterdir())
  assert checkpoints.saved_steps(tmp_path) == [1]
  with checkpoints.writer(tmp_path, keep=2) as writer:
    assert int(restored(tmp_path, like(state_of(1))).step) == 1
    checkpoint.save(writer, state_of(2))
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
    with checkpoints.writer(tmp_path, keep=1) as writer:
      checkpoint.save(writer, state_of(1))
      checkpoint.save(writer, large)
      if found_by == "waiting":
        writer.wait()
      if found_by == "saving again":
        checkpoint.save(writer, large.replace(step=large.step + 1))
  with checkpoints.writer(tmp_path, keep=1) as writer:
    assert int(restored(tmp_path, like(state_of(1))).step) == 1
  assert runs.saved_steps(tmp_path) == [1]


def test_a_failed_save_is_noticed_without_waiting(tmp_path, small_files):
  noise = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
  with pytest.raises(InputError, match="File too large; there is none yet"):
    with checkpoints.writer(tmp_path, keep=1) as writer:
      checkpoint.save(writer, state_of(1).replace(params={"flow": {"kernel": jnp.asarray(noise)}}))
      while True:
        writer.wait(only_if_done=True)


def test_threads_of_a_save_that_failed_end_with_it(tmp_path, small_files):
  """Whatever they still say comes before the line that the command ends with."""
  noise = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
  with pytest.raises(InputError, match="File too large"):
    with checkpoints.writer(tmp_path, keep=1) as writer:
      checkpoint.save(writer, state_of(1).replace(params={"flow": {"kernel": jnp.asarray(noise)}}))
  assert not [t for t in threading.enumerate() if type(t).__module__.startswith("orbax.")]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A run with a moving average, and checkpoints of steps 1 (the best) and 2."""
  folder = tmp_path_factory.mktemp("run")
  config = runs.get_config()
  config.optim.ema_decay = 0.9
  write_config(folder, config)
  model = build_model(config.model)
  with checkpoints.writer(folder, keep=1, keep_best=1) as writer:
    for step, loss in ((1, 1.0), (2, 2.0)):
      params = jax.tree.map(jnp.asarray, random_params(model, step, np.float32))
      state = create_state(config.optim, params, jax.random.key(0))
      ema = jax.tree.map(lambda leaf: leaf + 1, params)
      checkpoint.save(writer, state.replace(step=jnp.asarray(step, jnp.int32), ema=ema), loss)
  return folder


def test_a_run_is_loaded_as_asked(workdir):
  latest, best = checkpoints.load_run(workdir), checkpoints.load_run(workdir, "best")
  assert (latest.step, best.step) == (2, 1)
  chosen = checkpoints.load_run(workdir, 1)
  jax.tree.map(np.testing.assert_array_equal, chosen.params, best.params)
  plain_params = checkpoints.load_run(workdir, ema=False).params
  jax.tree.map(
    lambda ema, p: np.testing.assert_array_equal(ema, p + 1), latest.params, plain_params
  )
  with pytest.raises(InputError, match=r"no checkpoint of step 7 in .*; there are 1, 2"):
    checkpoints.load_run(workdir, 7)


def test_the_best_of_runs_that_were_not_validated_is_refused(tmp_path):
  config = runs.get_config()
  write_config(tmp_path, config)
  with checkpoints.writer(tmp_path, keep=1) as writer:
    checkpoint.save(writer, state_of(1))
  with pytest.raises(InputError, match=r"no checkpoint in .* has a validation loss"):
    checkpoints.load_run(tmp_path, "best")


def damaged_byte(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(bytes(data))


def array_files(tree):
  """The files with the arrays of a tree; how many there are depends on the time of writing."""
  return [path for path in tree.rglob("d/*") if path.is_file()]


def damaged_arrays(tree):
  """Flips a bit in every 64 bytes of each file: which of them still count is TensorStore's."""
  for path in array_files(tree):
    data = bytearray(path.read_bytes())
    data[::64] = bytes(byte ^ 4 for byte in data[::64])
    path.write_bytes(bytes(data))


def emptied_arrays(tree):
  for path in array_files(tree):
    path.write_bytes(b"")


def deleted_arrays(tree):
  for path in array_files(tree):
    path.unlink()


def as_fifo(path):
  path.unlink()
  os.mkfifo(path)


def emptied(folder):
  shutil.rmtree(folder)
  folder.mkdir()


# What befalls the newest checkpoint, 12, and a part of what is said of it. The folder is the
# checkpoint's.
DAMAGE = {
  "bits of the parameters": (lambda c: damaged_arrays(c / "params"), ""),
  "bits of the rest": (lambda c: damaged_arrays(c / "rest"), ""),
  "arrays emptied": (lambda c: emptied_arrays(c / "params"), ""),
  "arrays gone": (lambda c: deleted_arrays(c / "params"), ""),
  "metadata flipped": (lambda c: damaged_byte(c / "params" / "_METADATA"), ""),
  "metadata emptied": (
    lambda c: (c / "params" / "_METADATA").write_text(""),
    "params has no readab",
  ),
  "metadata gone": (
    lambda c: (c / "rest" / "_METADATA").unlink(),
    "(rest has no readable metadata)",
  ),
  "metadata of another type": (
    lambda c: (c / "rest" / "_METADATA").write_text("[1]"),
    "rest has no readable metadata (",
  ),
  "metadata a FIFO": (lambda c: as_fifo(c / "params" / "_METADATA"), "_METADATA is not a regular"),
  "arrays a FIFO": (lambda c: as_fifo(array_files(c / "params")[0]), "is not a regular file"),
  "manifest emptied": (lambda c: (c / "params" / "manifest.ocdbt").write_bytes(b""), "params"),
  "params gone": (lambda c: shutil.rmtree(c / "params"), "params is missing"),
  "rest gone": (lambda c: shutil.rmtree(c / "rest"), "rest is missing"),
  "contents gone": (lambda c: shutil.rmtree(c / "contents"), "contents.json"),
  "contents emptied": (lambda c: contents_of(c).write_text(""), "contents.json"),
  "contents flipped": (lambda c: damaged_byte(contents_of(c)), ""),
  "contents a list": (lambda c: contents_of(c).write_text("[]"), "not what was written"),
  "no digests": (
    lambda c: contents_of(c).write_text('{"step": 12, "validation_loss": 1, "sha256": 3}'),
    "no digests",
  ),
  "contents of a new step": (
    lambda c: contents_of(c).write_text(contents_of(c).read_text().replace("12", "13", 1)),
    "it is of step 13",
  ),
  "empty": (emptied, "contents.json"),
}


def contents_of(folder):
  return folder / "contents" / "contents.json"


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
  """A run's folder with checkpoints of steps 8 and 12."""
  folder = tmp_path_factory.mktemp("two")
  with checkpoints.writer(folder, keep=2, keep_best=1) as writer:
    for step in (8, 12):
      checkpoint.save(writer, state_of(step, size=1000), 1.0)
  return folder


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(name, two_checkpoints, tmp_path):
  damage, said = DAMAGE[name]
  workdir = tmp_path / "W"
  shutil.copytree(two_checkpoints, workdir)
  damage(workdir / "checkpoints" / "12")
  wanted = like(state_of(8, size=1000))
  state, errors, damaged = checkpoint.restore_latest(workdir, wanted, fresh)
  assert int(state.step) == 8 and damaged == [12]
  text = str(errors[0])
  assert text.startswith(f"checkpoint 12 in {workdir} is damaged (") and said in text
  assert "\n" not in text
  assert_same(state, state_of(8, size=1000))
  checkpoints.set_aside(workdir, damaged)
  with checkpoints.writer(workdir, keep=2, keep_best=1) as writer:  # its place is free again
    checkpoint.save(writer, state_of(12, size=1000))
  assert runs.saved_steps(workdir) == [8, 12]
  assert (workdir / "damaged_checkpoints" / "12").is_dir()
  assert_same(restored(workdir, wanted), state_of(12, size=1000))


def assert_same(state, other):
  jax.tree.map(np.testing.assert_array_equal, plain(state), plain(other))


@pytest.mark.parametrize("name", ["metadata gone", "contents emptied", "empty", "params gone"])
def test_damage_to_an_older_checkpoint_stops_nothing(name, two_checkpoints, tmp_path):
  workdir = tmp_path / "W"
  shutil.copytree(two_checkpoints, workdir)
  DAMAGE[name][0](workdir / "checkpoints" / "8")
  wanted = like(state_of(12, size=1000))
  state, _, damaged = checkpoint.restore_latest(workdir, wanted, fresh)
  assert int(state.step) == 12 and damaged == ([8] if name in ("contents emptied", "empty") else [])
  checkpoints.set_aside(workdir, damaged)
  with checkpoints.writer(workdir, keep=2) as writer:
    checkpoint.save(writer, state_of(13, size=1000))
  assert runs.saved_steps(workdir) == [12, 13]


def test_a_checkpoint_of_another_run_is_not_taken(two_checkpoints, tmp_path):
  workdir, other = tmp_path / "W", tmp_path / "other"
  shutil.copytree(two_checkpoints, workdir)
  with checkpoints.writer(other, keep=1) as writer:
    checkpoint.save(writer, state_of(12, size=1000))
  shutil.rmtree(workdir / "checkpoints" / "12")
  shutil.copytree(other / "checkpoints" / "12", workdir / "checkpoints" / "12")
  wanted = like(state_of(8, size=1000))
  state, errors, damaged = checkpoint.restore_latest(workdir, wanted, fresh)
  assert int(state.step) == 8 and damaged == [12]
  assert str(errors[0]) == f"checkpoint 12 in {workdir} is damaged (it is of another run)"
  # Nobody can say of which run they are once the note is gone, or was not written yet.
  (workdir / "progress.json").unlink()
  assert int(restored(workdir, wanted).step) == 12
  shutil.rmtree(workdir / "checkpoints" / "8")
  with checkpoints.writer(workdir, keep=2) as writer:
    checkpoint.save(writer, state_of(13, size=1000))
  assert int(restored(workdir, wanted).step) == 13
  assert checkpoints.contents(workdir, 12).run == checkpoints.contents(workdir, 13).run


@pytest.mark.parametrize("name", ["a$b", "a{b}", "a#b", "a%b", "a^b", "a:b", "a b", "é", "[a", "*"])
def test_folders_of_odd_names_hold_checkpoints(name, tmp_path):
  with checkpoints.writer(workdir_path(tmp_path / name), keep=1) as writer:
    checkpoint.save(writer, state_of(3))
  assert_same(restored(tmp_path / name, like(state_of(3))), state_of(3))


def test_a_copied_folder_is_not_a_newer_checkpoint(two_checkpoints, tmp_path):
  workdir = tmp_path / "W"
  shutil.copytree(two_checkpoints, workdir)
  shutil.copytree(workdir / "checkpoints" / "12", workdir / "checkpoints" / "99")
  wanted = like(state_of(8, size=1000))
  state, errors, damaged = checkpoint.restore_latest(workdir, wanted, fresh)
  assert int(state.step) == 12 and damaged == [99] and "it is of step 12" in str(errors[0])


def test_a_save_that_is_passed_over_is_an_error(two_checkpoints, tmp_path):
  shutil.copytree(two_checkpoints, tmp_path / "W")
  with pytest.raises(InputError, match="of step 9 was not saved, since there is one of step 12"):
    with checkpoints.writer(tmp_path / "W", keep=2) as writer:
      checkpoint.save(writer, state_of(9))


def test_a_run_does_not_start_anew_when_nothing_is_left(two_checkpoints, tmp_path):
  workdir, wanted = tmp_path / "W", like(state_of(8, size=1000))
  assert checkpoint.restore_latest(tmp_path / "none", wanted, fresh) == (None, [], [])
  shutil.copytree(two_checkpoints, workdir)
  for step in (8, 12):
    (workdir / "checkpoints" / str(step) / "params" / "_METADATA").unlink()
  with pytest.raises(InputError, match=r"checkpoint 12 .* no other that is whole"):
    checkpoint.restore_latest(workdir, wanted, fresh)
  shutil.rmtree(workdir / "checkpoints")
  with pytest.raises(InputError, match=r"checkpoints of .* are gone: one of step 12"):
    checkpoint.restore_latest(workdir, wanted, fresh)


@pytest.mark.parametrize(
  "text, reason",
  [("{}", "it names no step"), ("[]", "it names no step"), ("{", r"it is no JSON .*")],
)
def test_a_damaged_note_of_what_was_saved_damages_no_checkpoint(
  text, reason, two_checkpoints, tmp_path
):
  workdir = tmp_path / "W"
  shutil.copytree(two_checkpoints, workdir)
  note = workdir / "progress.json"
  note.write_text(text)
  wanted = like(state_of(12, size=1000))
  with pytest.raises(InputError, match=f"^{note}: damaged, {reason}; remove it$") as refused:
    checkpoint.restore_latest(workdir, wanted, fresh)
  assert not isinstance(refused.value, checkpoints.DamagedError)
  note.unlink()
  assert_same(restored(workdir, wanted), state_of(12, size=1000))


def test_reading_a_checkpoint_warns_of_nothing(workdir, caplog, monkeypatch):
  monkeypatch.setattr(absl.logging.get_absl_logger(), "propagate", True)
  with caplog.at_level("WARNING", "absl"):
    checkpoints.load_run(workdir)
  assert not caplog.records


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(two_checkpoints, monkeypatch):
  monkeypatch.setattr(os, "access", lambda path, mode: path.name != "_METADATA")
  with pytest.raises(InputError, match=r"_METADATA: cannot be read: Permission denied") as refused:
    checkpoint.restore_latest(two_checkpoints, like(state_of(8, size=1000)), fresh)
  assert not isinstance(refused.value, checkpoints.DamagedError)


@pytest.mark.parametrize(
  "error, reason",
  [
    (OSError(errno.ESTALE, "stale"), "Stale file handle"),
    (ValueError("RESOURCE_EXHAUSTED: [os_error_code='24']"), "Too many open files"),
    (MemoryError(), "more memory than there is"),
  ],
)
def test_what_says_nothing_of_the_files_does_not_make_them_damaged(
  error, reason, two_checkpoints, monkeypatch
):
  monkeypatch.setattr(reading, "_load_tree", Mock(side_effect=error))
  with pytest.raises(InputError, match=reason) as refused:
    checkpoint.restore_latest(two_checkpoints, like(state_of(8, size=1000)), fresh)
  assert not isinstance(refused.value, checkpoints.DamagedError)


def write_as_before(workdir, state, loss):
  """A checkpoint as versions without digests wrote it."""
  rest = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
  params, ema = rest.pop("params"), rest.pop("ema")
  rest["opt_state"] = {  # without the empty state of what applies the rate
    part: optax.chain(optax.scale_by_adam()).init(tree) for part, tree in params.items()
  }
  trees = {"params": params, "rest": rest} | ({"ema": ema} if ema else {})
  with ocp.CheckpointManager(
    workdir / "checkpoints",
    options=ocp.CheckpointManagerOptions(best_fn=lambda metrics: -metrics["validation_loss"]),
    item_handlers={name: ocp.StandardCheckpointHandler() for name in trees},
  ) as manager:
    items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
    args = ocp.args.Composite(**items)
    manager.save(int(state.step), args=args, metrics={"validation_loss": loss})


def test_checkpoints_of_earlier_versions_are_read(tmp_path):
  write_as_before(tmp_path, state_of(3), 0.25)
  assert checkpoints.contents(tmp_path, 3) == checkpoints.Contents(None, 0.25)
  assert_same(restored(tmp_path, like(state_of(3))), state_of(3))
  with checkpoints.writer(tmp_path, keep=1, keep_best=1) as writer:
    checkpoint.save(writer, state_of(4), 0.5)
    checkpoint.save(writer, state_of(5), 0.75)
  assert runs.saved_steps(tmp_path) == [3, 5]
  metrics = tmp_path / "checkpoints" / "3" / "metrics" / "metrics"
  good = metrics.read_text()
  for text in ("", "[1]", '{"validation_loss": "x"}', good[:-2]):
    metrics.write_text(text)
    state, errors, damaged = checkpoint.restore_latest(tmp_path, like(state_of(3)), fresh)
    assert int(state.step) == 5 and damaged == [3] and "3 in" in str(errors[0])
  checkpoints.set_aside(tmp_path, damaged)
  with checkpoints.writer(tmp_path, keep=2) as writer:
    checkpoint.save(writer, state_of(6))


def test_parameters_alone_begin_a_run(tmp_path):
  state = state_of(0)
  with checkpoints.writer(tmp_path, keep=1) as writer:
    writer.save(0, {"params": state.params})
  assert_same(restored(tmp_path, like(state)), fresh(state.params))


def test_evaluation_beside_a_run_takes_the_next_latest(workdir, monkeypatch):
  monkeypatch.setattr(models.time, "sleep", lambda seconds: None)
  original, asked = models.saved_steps, []

  def steps(folder):  # as if training deleted the latest three times while it was being read
    asked.append(folder)
    return [*original(folder), 7] if len(asked) <= 3 else original(folder)

  monkeypatch.setattr(models, "saved_steps", steps)
  assert checkpoints.load_run(workdir).step == 2 and len(asked) == 4


def test_evaluation_names_a_damaged_checkpoint_and_the_others(workdir, tmp_path, monkeypatch):
  monkeypatch.setattr(models.time, "sleep", lambda seconds: None)
  shutil.copytree(workdir, tmp_path / "W")
  damaged_arrays(tmp_path / "W" / "checkpoints" / "2" / "ema")
  with pytest.raises(InputError, match=r"checkpoint 2 .* is damaged .*; there are others .*: 1$"):
    checkpoints.load_run(tmp_path / "W")
  assert checkpoints.load_run(tmp_path / "W", 1).step == 1


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
        with lock_workdir(tmp_path / "W"):
          pass
    finally:
      other.kill()
  with lock_workdir(tmp_path / "W"):
    assert f"process {os.getpid()} " in (tmp_path / "W" / "lock").read_text()
    with pytest.raises(InputError, match=f"in use by another run: process {os.getpid()} on "):
      with lock_workdir(tmp_path / "W"):
        pass
    with pytest.raises(InputError, match="in use"):  # the first still has it
      with lock_workdir(tmp_path / "W"):
        pass
  with lock_workdir(tmp_path / "W"):
    pass


def test_the_lock_follows_no_link(tmp_path):
  (tmp_path / "W").mkdir()
  (tmp_path / "other").write_text("mine")
  (tmp_path / "W" / "lock").symlink_to(tmp_path / "other")
  with pytest.raises(InputError, match="cannot write to the workdir"):
    with lock_workdir(tmp_path / "W"):
      pass
  assert (tmp_path / "other").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match="cannot write to the workdir"):
    with lock_workdir(tmp_path / "file" / "W"):
      pass
