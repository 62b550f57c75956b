"""What the loop does when steps are not finite, and when a signal comes."""

import contextlib
import json
import signal

import jax
import numpy as np
import pytest

import runs
from srflow_jax import checkpoints
from srflow_jax.data import describe
from srflow_jax.errors import InputError, Interrupted, stop_signals
from srflow_jax.images import write_png
from srflow_jax.training import devices, loop
from srflow_jax.training.signals import StopRequest
from srflow_jax.training.validation import Validation


def config_of(steps: int):
  config = runs.get_config()
  config.update(num_train_steps=steps, log_every_steps=1, checkpoint_every_steps=2)
  config.optim.max_skipped_steps = 2
  return config


@pytest.fixture
def feed(monkeypatch, no_pictures):
  """Lets a test spoil batches: `feed(spoilt, drawn)`; returns after which steps a feed began.

  `spoilt(number, step)` says whether, in the feed of that number, a step's batch is not finite;
  `drawn(step)` is called when the batch is drawn, which is two steps before its own. A batch drawn
  once more while its feed is open, for the diagnosis, is of that feed.
  """
  original = loop.iterate

  def install(spoilt=lambda number, step: False, drawn=lambda step: None):
    begun, are_open = [], []

    def batches(images, data, scale, seed, done, *process):
      if not are_open:
        begun.append(done)
      number = len(begun)
      with (
        contextlib.closing(original(images, data, scale, seed, done, *process)) as source,
        contextlib.ExitStack() as at_end,
      ):
        are_open.append(done)
        at_end.callback(are_open.pop)
        for step, batch in enumerate(source, done + 1):
          batch = {name: array.astype(np.float32) for name, array in batch.items()}
          if spoilt(number, step):
            batch["hr"][0, 0, 0, 0] = np.nan
          drawn(step)
          yield batch

    monkeypatch.setattr(loop, "iterate", batches)
    return begun

  return install


@pytest.mark.slow
def test_a_run_that_diverges_goes_back_once_with_a_lower_rate(feed, tmp_path, capsys):
  config = config_of(steps=8)
  begun = feed(lambda number, step: step >= (5 if number == 1 else 7))
  with pytest.raises(InputError, match=r"step 8: .* last 2 steps, and .* lowered once before"):
    loop.train(config, str(tmp_path / "W"))
  assert begun == [0, 4]
  output = capsys.readouterr().out
  assert "steps 5 to 5: 1 skipped, not finite; step 5 first in the batch's hr" in output
  assert (
    "step 6: loss, gradient or update was not finite in the last 2 steps; going back to step 4"
    in output
  )
  assert runs.saved_steps(tmp_path / "W") == [2, 4, 6]  # not 8: that would be none to go back to

  begun = feed(lambda number, step: step >= 7)
  with pytest.raises(InputError, match="lowered once before"):
    loop.train(config, str(tmp_path / "W"))  # as a new process would: it knows
  assert begun == [6]

  feed()
  state = loop.train(config, str(tmp_path / "W"))
  assert int(state.step) == 8 and float(state.rate_factor) == 0.5 and int(state.skipped) == 0
  rates = runs.scalars(tmp_path / "W")["train/learning_rate"]
  np.testing.assert_allclose(rates[8], rates[4] / 2, rtol=1e-6)


@pytest.mark.slow
def test_a_skipped_step_is_named_later_on_if_it_still_is_not_finite(feed, tmp_path, capsys):
  config = config_of(steps=4)
  config.log_every_steps = 4
  feed(lambda number, step: step == 2)
  loop.train(config, str(tmp_path / "W"))
  said = "steps 1 to 4: 1 skipped, not finite; step 2"
  assert f"{said} first in the batch's hr" in capsys.readouterr().out
  drawn = []  # the second batch only when it is drawn first
  feed(lambda number, step: step == 2 and 2 not in drawn, drawn=drawn.append)
  loop.train(config, str(tmp_path / "again"))
  assert f"{said} not found again with the parameters of step 4" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_without_a_checkpoint_goes_back_to_its_start(feed, tmp_path):
  begun = feed(lambda number, step: number == 1)
  state = loop.train(config_of(steps=3), str(tmp_path / "W"))
  assert begun == [0, 0]
  assert int(state.step) == 3 and float(state.rate_factor) == 0.5 and int(state.skipped) == 0


@pytest.mark.slow
def test_a_signal_saves_the_running_step_and_the_run_goes_on(feed, tmp_path):
  feed()
  whole = loop.train(config_of(steps=6), str(tmp_path / "whole"))
  handlers = [signal.getsignal(number) for number in stop_signals()]
  feed(drawn=lambda step: signal.raise_signal(signal.SIGINT) if step == 5 else None)
  with pytest.raises(Interrupted, match="after step 3; the same command goes on from step 3"):
    loop.train(config_of(steps=6), str(tmp_path / "W"))
  assert handlers == [signal.getsignal(number) for number in stop_signals()]
  assert runs.saved_steps(tmp_path / "W") == [2, 3]
  begun = feed()
  state = loop.train(config_of(steps=6), str(tmp_path / "W"))
  assert begun == [3]
  jax.tree.map(np.testing.assert_array_equal, state.params, whole.params)


def test_a_terminal_that_closes_may_say_so_twice():
  before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
  try:
    with StopRequest(devices.data_mesh()) as stop:
      assert not stop.received()
      signal.raise_signal(signal.SIGHUP)
      signal.raise_signal(signal.SIGHUP)
      assert stop.received()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
  finally:
    signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_signal_in_the_last_step_is_not_lost(feed, tmp_path, monkeypatch):
  """A study's process, say, would go on with the next run."""
  feed()
  loss = Validation.write

  def write(*args):
    signal.raise_signal(signal.SIGTERM)
    return loss(*args)

  monkeypatch.setattr(Validation, "write", write)
  with pytest.raises(Interrupted, match="after step 2; the same command goes on from step 2"):
    loop.train(config_of(steps=2), str(tmp_path / "W"))
  assert runs.saved_steps(tmp_path / "W") == [2]


def test_a_state_after_a_skipped_step_is_not_saved(feed, tmp_path):
  feed(
    spoilt=lambda number, step: step == 3,
    drawn=lambda step: signal.raise_signal(signal.SIGTERM) if step == 5 else None,
  )
  with pytest.raises(Interrupted, match="after step 3; the same command goes on from step 2"):
    loop.train(config_of(steps=6), str(tmp_path / "W"))
  assert runs.saved_steps(tmp_path / "W") == [2]


@pytest.mark.slow
def test_too_many_skipped_steps_are_noticed_between_logs(feed, tmp_path, capsys, monkeypatch):
  config = config_of(steps=12)
  config.log_every_steps = 100
  states = []
  original = loop.checkpoint.restore_latest

  def restore_latest(*args):
    leaves = [array for array in jax.live_arrays() if not array.is_deleted()]
    states.append(sum(array.nbytes for array in leaves))
    return original(*args)

  monkeypatch.setattr(loop.checkpoint, "restore_latest", restore_latest)
  begun = feed(lambda number, step: number == 1 and step in (3, 4))
  state = loop.train(config, str(tmp_path / "W"))
  assert begun == [0, 2]  # although steps 5 and 6 were applied again
  assert "step 4: loss, gradient or update was not finite in the last 2" in capsys.readouterr().out
  assert float(state.rate_factor) == 0.5 and int(state.skipped) == 0
  size = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
  assert states[1] < states[0] + size  # the diverged state is gone before the other is read


@pytest.mark.slow
def test_skipped_steps_are_not_in_the_mean_loss(feed, tmp_path):
  config = config_of(steps=4)
  config.log_every_steps = 4
  config.checkpoint_every_steps = 1
  feed(lambda number, step: step == 2)
  loop.train(config, str(tmp_path / "W"))
  found = runs.scalars(tmp_path / "W")
  assert np.isfinite(found["train/nll"][4]) and found["train/skipped"][4] == 1
  # The best is found although nothing was evaluated where most were saved.
  losses = [checkpoints.contents(tmp_path / "W", s).validation_loss for s in (3, 4)]
  assert np.isfinite(losses).all()


def test_images_that_vanish_cost_no_step(feed, tmp_path):
  config = config_of(steps=6)
  config.checkpoint_every_steps = 100

  def lost(step):
    if step == 5:
      raise InputError("a.png: no such file")

  feed(drawn=lost)
  with pytest.raises(InputError, match=r"a.png.*after step 3, the same command .* step 3$"):
    loop.train(config, str(tmp_path / "W"))
  assert runs.saved_steps(tmp_path / "W") == [3]

  def killed(step):
    if step == 6:  # among those that are read before the first step
      raise RuntimeError("a worker\nwas killed")

  feed(drawn=killed)
  with pytest.raises(InputError, match=r"^reading images failed: .*killed.*$"):
    loop.train(config, str(tmp_path / "W"))
  assert runs.saved_steps(tmp_path / "W") == [3]


def test_a_run_falls_back_to_the_checkpoint_before_a_damaged_one(feed, tmp_path, capsys):
  feed()
  whole = loop.train(config_of(steps=6), str(tmp_path / "W"))
  (tmp_path / "W" / "checkpoints" / "99").mkdir()
  damaged = tmp_path / "W" / "checkpoints" / "6" / "params"
  (damaged / "_METADATA").write_text("")
  begun = feed()
  state = loop.train(config_of(steps=6), str(tmp_path / "W"))
  assert begun == [4]
  said = capsys.readouterr().out
  assert "checkpoint 99 in" in said and "checkpoint 6 in" in said and "going on from 4" in said
  jax.tree.map(np.testing.assert_array_equal, state.params, whole.params)
  assert runs.saved_steps(tmp_path / "W") == [2, 4, 6]
  assert sorted(p.name for p in (tmp_path / "W" / "damaged_checkpoints").iterdir()) == ["6", "99"]


def write_photographs(folder, count=2):
  for number in range(count):
    image = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
    write_png(folder / f"{number}.png", image)


@pytest.mark.slow
def test_a_run_inside_its_images_folder_goes_on_with_the_same_images(tmp_path, capsys):
  photographs = tmp_path / "photographs"
  write_photographs(photographs)
  workdir, config = photographs / "runs" / "W", config_of(steps=2)
  config.data.train_dir = str(photographs)
  loop.train(config, str(workdir))
  noted = json.loads((workdir / "data.json").read_text())
  assert noted["train"]["images"] == 2 and noted["validation"]["images"] == 2
  assert noted == describe(loop.read_config(config).data, 4)
  # What evaluations write into the run's folder and beside it.
  write_photographs(workdir / "evaluation" / "samples")
  write_photographs(photographs / "out" / "samples")
  (photographs / "out" / "progress.jsonl").touch()
  config.num_train_steps = 4
  loop.train(config, str(workdir))
  assert json.loads((workdir / "data.json").read_text()) == noted


@pytest.mark.slow
def test_a_run_says_so_if_its_images_changed(tmp_path, capsys):
  photographs = tmp_path / "photographs"
  write_photographs(photographs)
  workdir, config = tmp_path / "W", config_of(steps=2)
  config.data.train_dir = str(photographs)
  loop.train(config, str(workdir))
  write_photographs(photographs, count=3)
  before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
  with pytest.raises(InputError, match=r"data for train: 2 images \(.*\) → 3 images .*; --allow_c"):
    loop.train(config, str(workdir))
  assert before == {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
  loop.train(config, str(workdir), allow_config_change=True)
  assert "goes on with another configuration: data for train: 2 images" in capsys.readouterr().err
  loop.train(config, str(workdir))  # they are the run's images from now on


@pytest.mark.parametrize(
  "note, said",
  [
    ("[]", "data.json is []: it must be a block"),
    ('{"train": 3}', "data.json: train is 3: it must be a block"),
    ('{"train": {"images": 3}}', "missing key .*data.json: train.digest"),
    ('{"train": {"images": "3", "digest": ""}}', "data.json: train.images is '3'"),
    ("{", "data.json: damaged, it is no JSON"),
  ],
)
def test_a_damaged_note_of_images_is_named(note, said, tmp_path):
  (tmp_path / "data.json").write_text(note)
  with pytest.raises(InputError, match=said.replace("[]", r"\[\]")):
    loop.check_data(tmp_path, {"train": {"images": 3, "digest": "a"}}, allow_change=True)
