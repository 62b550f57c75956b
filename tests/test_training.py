"""Training: the published optimisation, what is skipped, what is resumed, what is refused."""

import importlib
import json
import math
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden_weights
import runs
from srflow_jax import checkpoints
from srflow_jax.config import read_config
from srflow_jax.errors import InputError
from srflow_jax.model.building import build_model, init_params
from srflow_jax.model.features import Given
from srflow_jax.training import start
from srflow_jax.training.events import TABLE, event_writer
from srflow_jax.training.loop import train
from srflow_jax.training.optimizer import learning_rate_schedule
from srflow_jax.training.step import create_state, make_train_step
from srflow_jax.weights import published

ROOT = pathlib.Path(__file__).resolve().parents[1]
DATA = pathlib.Path(__file__).parent / "data"


def load_config(name: str):
  return importlib.import_module(f"configs.{name}").get_config()


def micro_config():
  """A configuration that compiles in seconds, on the bundled photographs."""
  config = load_config("tiny")
  config.model.encoder.update(width=4, growth=2, num_blocks=1, taps=(0,))
  config.model.conditioner.update(width=4, num_hidden=1)
  config.model.stages = (
    {"squeeze": 2, "transition_steps": 0, "steps": 2, "split": True},
    {"squeeze": 2, "transition_steps": 1, "steps": 1, "split": False},
  )
  config.optim.decay_at = ()  # so that a run cut short has the rates of the whole
  config.data.update(hr_patch=16, batch_size=2, val_patches=2)
  config.update(num_train_steps=4, log_every_steps=2, eval_every_steps=4, checkpoint_every_steps=2)
  return config


@pytest.mark.parametrize("winograd", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_published_training_run(winograd, request):
  """Six Adam steps on the golden batch: the published losses and gradient norms."""
  if winograd:  # else the images are too small for it to pay
    request.getfixturevalue("always_winograd")
  case = json.loads((DATA / "train_da_x4.json").read_text())
  meta = json.loads((DATA / "da_x4.json").read_text())
  arrays = np.load(DATA / "da_x4.npz")
  config = load_config("x4_da")
  config.data.noise.std = 0.0
  config.optim.learning_rate = 1e-4
  model = build_model(config.model)
  state_dict = golden_weights.state_dict(meta["state_dict"], meta["seed"])
  params = jax.tree.map(jnp.asarray, published.from_state_dict(model, state_dict))
  state = create_state(config.optim, params, jax.random.key(0))
  step = make_train_step(model, read_config(config), parts=("flow",))
  # The step takes 8-bit images; the golden ones are floats, which it divides by 255 all the same.
  batch = {"hr": 255 * arrays["gt"], "lr": 255 * arrays["lr"]}
  nll, norms = [], []
  for _ in case["nll_bits_per_pixel"]:
    state, metrics = step(state, batch)
    nll.append(float(metrics["nll"]))
    norms.append(float(metrics["gradient_norm"]))
  np.testing.assert_allclose(nll, case["nll_bits_per_pixel"], rtol=1e-3)
  np.testing.assert_allclose(norms, case["flow_gradient_norm"], rtol=1e-2)


def micro_state(config, seed=0):
  model = build_model(config.model)
  rng = np.random.default_rng(seed)
  batch = {
    "hr": rng.integers(0, 256, (2, 16, 16, 3), np.uint8),
    "lr": rng.integers(0, 256, (2, 4, 4, 3), np.uint8),
  }
  hr, lr = (batch[name] / np.float32(255) for name in ("hr", "lr"))
  params = init_params(model, jax.random.key(0), hr, Given(lr))
  return model, create_state(config.optim, params, jax.random.key(0)), batch


def copied(tree):
  def copy(leaf):
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.array(jax.random.key_data(leaf) if is_key else leaf)

  return jax.tree.map(copy, tree)


def assert_equal(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.mark.slow
def test_what_is_not_finite_is_skipped_and_counted():
  config = micro_config()
  model, state, batch = micro_state(config)
  step = make_train_step(model, read_config(config), ("encoder", "flow"))
  before = copied(state)
  bad = {"hr": batch["hr"].astype(np.float32), "lr": batch["lr"]}
  bad["hr"][0, 0, 0, 0] = np.nan
  for i in (1, 2):
    state, metrics = step(state, bad)
    assert int(metrics["skipped"]) == int(metrics["skipped_in_a_row"]) == i
  assert_equal((state.params, state.opt_state), (before.params, before.opt_state))
  assert int(state.step) == 2
  state, metrics = step(state, {"hr": batch["hr"].astype(np.float32), "lr": batch["lr"]})
  assert int(metrics["skipped"]) == 2 and int(metrics["skipped_in_a_row"]) == 0
  moved = jax.tree.map(lambda a, b: np.any(a != b), copied(state.params), before.params)
  assert any(jax.tree.leaves(moved))


def test_learning_rate_is_halved_at_the_published_steps():
  schedule = learning_rate_schedule(load_config("x4_da").optim, 200_000)
  steps = [0, 99_999, 100_001, 150_001, 180_001, 190_001]
  rates = [2e-4, 2e-4, 1e-4, 5e-5, 2.5e-5, 1.25e-5]
  np.testing.assert_allclose([schedule(step) for step in steps], rates, rtol=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A finished run of four steps: (config, workdir, final state)."""
  workdir = tmp_path_factory.mktemp("run") / "workdir"
  config = micro_config()
  state = copied(train(config, str(workdir)))
  return config, workdir, state


def test_a_run_leaves_what_evaluation_needs(run):
  config, workdir, state = run
  loaded = checkpoints.load_run(workdir)
  assert loaded.step == 4
  assert loaded.config.to_dict() == json.loads(json.dumps(config.to_dict()))
  assert_equal(copied(loaded.params), state.params)


def test_a_run_is_seen_in_tensorboard(run):
  _, workdir, _ = run
  tags = runs.scalars(workdir).keys()
  assert {"train/nll", "train/learning_rate", "train/skipped"} <= tags
  assert any(tag.startswith("validation/") for tag in tags)


def table_of(workdir):
  """The rows of `metrics.csv`: (step, name) and the number, in order."""
  heading, *lines = (workdir / TABLE).read_text().splitlines()
  assert heading == "step,name,value"
  rows = [line.split(",") for line in lines]
  return [((int(step), name), float(value)) for step, name, value in rows]


def test_a_run_s_table_has_each_number_of_its_events_once(run):
  _, workdir, _ = run
  events = {
    (step, tag): value for tag, by in runs.scalars(workdir).items() for step, value in by.items()
  }
  rows = table_of(workdir)
  assert len(rows) == len(events) == len(dict(rows))
  for place, value in rows:
    np.testing.assert_allclose(value, events[place], rtol=1e-6)


def test_a_table_goes_on_after_a_kill_without_a_step_twice(tmp_path):
  def log(done, steps):
    with event_writer(tmp_path, done) as writer:
      for step in steps:
        writer.add_scalar("train/nll", step / 3, step)
        writer.add_scalar("validation/psnr", math.inf, step)
        assert (tmp_path / TABLE).read_text().endswith(f"{step},validation/psnr,inf\n")  # at once

  log(0, (1, 2, 3))
  with open(tmp_path / TABLE, "a") as file:
    file.write("4,train/nll,0.12")  # killed while it wrote
  log(2, (3, 4))  # from the checkpoint of step 2
  rows = table_of(tmp_path)
  assert [step for (step, name), _ in rows if name == "train/nll"] == [1, 2, 3, 4]
  assert len(rows) == 8 and dict(rows)[1, "train/nll"] == pytest.approx(1 / 3, rel=1e-8)
  with open(tmp_path / TABLE, "a") as file:
    file.write("\0\0,,\n9\n")  # damaged
  log(4, ())
  assert table_of(tmp_path) == rows
  log(0, ())
  assert table_of(tmp_path) == []


def test_of_several_processes_the_first_alone_writes_a_table(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  with event_writer(tmp_path, 0) as writer:
    writer.add_scalar("train/nll", 1.0, 1)
  assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_ends_as_the_whole_one(run, tmp_path, no_pictures):
  """Two steps, then a new process's two more: the same parameters, bit for bit."""
  config, _, whole = run
  first = config.copy_and_resolve_references()
  first.num_train_steps = 2
  train(first, str(tmp_path))
  state = train(config, str(tmp_path))
  assert_equal(copied(state), whole)


@pytest.mark.parametrize(
  "field, value, message",
  [
    ("data.hr_patch", 18, "hr_patch is 18"),
    ("data.batch_size", 0, "batch_size is 0"),
    ("data.train_dir", "/nowhere", "/nowhere"),
    ("log_every_steps", 0, "log_every_steps is 0"),
    ("model.scale", 5, "model.scale is 5"),
  ],
)
def test_bad_configurations_are_refused_before_anything_is_written(field, value, message, tmp_path):
  config = micro_config()
  config.update_from_flattened_dict({field: value})
  with pytest.raises(InputError, match=message):
    train(config, str(tmp_path / "workdir"))
  assert not (tmp_path / "workdir").exists()


def test_another_configuration_on_an_old_workdir_is_refused(run):
  config, workdir, _ = run
  config = config.copy_and_resolve_references()
  config.optim.learning_rate = 0.5
  with pytest.raises(InputError, match=r"optim.learning_rate: 0.001 → 0.5"):
    train(config, str(workdir))


def test_another_configuration_may_be_allowed(run, tmp_path, capsys, no_pictures):
  config, workdir, whole = run
  config = config.copy_and_resolve_references()
  shutil.copytree(workdir, tmp_path / "W")
  config.optim.learning_rate = 0.5
  state = train(config, str(tmp_path / "W"), allow_config_change=True)
  assert_equal(copied(state), whole)  # there was nothing left to do
  assert "warning" in (said := capsys.readouterr().err) and "learning_rate: 0.001 → 0.5" in said
  train(config, str(tmp_path / "W"))  # and now it is the workdir's own
  before = (tmp_path / "W" / "config.json").read_text()
  config.model.conditioner.width = 5
  with pytest.raises(InputError, match=r"does not fit the configuration: flow/.* has shape"):
    train(config, str(tmp_path / "W"), allow_config_change=True)
  assert (tmp_path / "W" / "config.json").read_text() == before


def test_bad_workdirs_are_refused(run, tmp_path):
  _, workdir, _ = run
  with pytest.raises(InputError, match="no such workdir"):
    checkpoints.load_run(tmp_path / "none")
  with pytest.raises(InputError, match="holds no config"):
    checkpoints.load_run(tmp_path)
  config = json.loads((workdir / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(InputError, match="no checkpoint in"):
    checkpoints.load_run(tmp_path)
  (tmp_path / "checkpoints").symlink_to(workdir / "checkpoints")
  config["model"]["conditioner"]["width"] = 5
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(InputError, match="does not fit the configuration"):
    checkpoints.load_run(tmp_path)


def command(*args: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
  )


def test_the_command_line_reports_mistakes_in_one_line(tmp_path):
  """One in a process of its own; `test_config.py` has the table."""
  result = command("train.py", f"--workdir={tmp_path / 'w'}", "--config=configs/none.py")
  assert result.returncode == 2
  assert result.stderr == "error: --config=configs/none.py: no such file\n"
  assert not (tmp_path / "w").exists()


def test_no_other_framework_is_imported():
  modules = "srflow_jax.training.loop, srflow_jax.evaluation.run, srflow_jax.model"
  code = f"import sys, {modules}; print([m for m in ('torch', 'tensorflow') if m in sys.modules])"
  assert command("-c", code).stdout.strip() == "[]"


def test_a_configuration_of_an_earlier_version_is_refused_in_one_line(run, tmp_path):
  _, workdir, _ = run
  config = json.loads((workdir / "config.json").read_text())
  del config["optim"]["warmup_steps"]
  (tmp_path / "config.json").write_text(json.dumps(config))
  flags = [f"--config=configs/workdir.py:{tmp_path}", f"--workdir={tmp_path / 'w'}"]
  result = command("train.py", *flags)
  assert result.returncode == 2
  assert result.stderr == (
    f"error: {tmp_path / 'config.json'}: missing key config.optim.warmup_steps\n"
  )


@pytest.mark.parametrize(
  "field, value, message",
  [
    ("batch_size", 2000, "batch_size is 2000: so many patches take 0.0 GB, and there are 0.0"),
    ("val_patches", 10**6, "val_patches is 1000000: so many patches take 0.8 GB, and there"),
    ("num_workers", 129, "num_workers is 129: this machine's cores serve 128 at most"),
  ],
)
def test_sizes_beyond_the_machine_are_refused(field, value, message, monkeypatch):
  monkeypatch.setattr(start, "host_bytes", lambda: 1e6)
  monkeypatch.setattr(start, "num_processors", lambda: 2)
  values = runs.get_config()
  values.data[field] = value
  config = read_config(values)
  with pytest.raises(InputError, match=message):
    start.check(config, build_model(config.model))
