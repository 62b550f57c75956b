"""Kinds of a researcher's own module: trained, resumed, evaluated and loaded like all others."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

import plugin_kinds
import runs
import srflow_jax
from fakes import write_hr
from models import random_images, random_params
from srflow_jax.config import read_config
from srflow_jax.errors import InputError, InputWarning
from srflow_jax.model.building import build_model
from srflow_jax.model.kinds import plugin_digest
from srflow_jax.runs import check_config, write_config
from srflow_jax.sampling.budget import Plan, Request
from srflow_jax.sampling.sampler import Sampler
from srflow_jax.sampling.tiles import cut
from srflow_jax.training import start
from srflow_jax.training.loop import train
from srflow_jax.weights.transfer import export_weights


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A run of four steps, the last two of which another call has gone on with."""
  folder = tmp_path_factory.mktemp("plugins") / "W"
  config = plugin_kinds.get_config()
  config.optim.decay_at = ()
  first = plugin_kinds.get_config()
  first.num_train_steps = 2
  first.optim.decay_at = config.optim.decay_at
  train(first, str(folder))
  state = train(config, str(folder))
  assert int(state.step) == 4 and int(state.skipped) == 0
  return folder


def test_a_run_that_does_not_name_its_plugins_is_refused():
  """The configuration's own file may import them; `evaluate.py` does not have that file."""
  values = plugin_kinds.get_config()
  values.plugins = ()
  config = read_config(values)
  with pytest.raises(InputError, match=r"config\.plugins must name plugin_kinds, where the "):
    start.check(config, build_model(config.model))


def test_a_plugin_that_changed_since_is_told(workdir, tmp_path, monkeypatch):
  module = tmp_path / "changing_kind.py"
  module.write_text("least = 0.5\n")
  monkeypatch.syspath_prepend(tmp_path)
  values = runs.get_config()
  values.plugins = ("changing_kind",)
  config = read_config(values)
  (tmp_path / "W").mkdir()
  write_config(tmp_path / "W", config)
  check_config(tmp_path / "W", config, allow_change=False)
  module.write_text("least = 0.3\n")
  check_config(tmp_path / "W", config, allow_change=False)  # what counts is what was imported
  plugin_digest.cache_clear()
  with pytest.raises(InputError, match="plugins: the source of changing_kind has changed; --allow"):
    check_config(tmp_path / "W", config, allow_change=False)
  with warnings.catch_warnings():
    warnings.simplefilter("error", InputWarning)
    srflow_jax.load(workdir)
  monkeypatch.setattr(srflow_jax.runs, "plugin_digest", lambda name: "another")
  with pytest.warns(InputWarning, match="source of plugin_kinds has changed since this run was"):
    srflow_jax.load(workdir)


def test_a_run_of_plugins_is_evaluated_by_its_workdir_alone(workdir, tmp_path):
  write_hr(tmp_path / "hr")
  command = [sys.executable, "evaluate.py", f"--workdir={workdir}", f"--hr_dir={tmp_path / 'hr'}"]
  command += ["--num_samples=2", "--temperature=0.5", f"--output_dir={tmp_path / 'out'}"]
  tests = os.path.dirname(__file__)
  done = subprocess.run(
    command,
    cwd=runs.ROOT,
    env=os.environ | {"PYTHONPATH": tests, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=runs.TIMEOUT,
  )
  assert done.returncode == 0, done.stderr
  summary = json.loads((tmp_path / "out" / "summary.json").read_text())
  (name,) = set(summary["systems"]) - {"bicubic"}
  assert np.isfinite(summary["systems"][name]["averages"]["nll"])
  without = subprocess.run(
    command,
    cwd=runs.ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=runs.TIMEOUT,
  )
  assert without.returncode == 2
  assert "config.plugins: plugin_kinds cannot be imported" in without.stderr


def test_a_run_of_plugins_is_loaded_and_sampled(workdir):
  model = srflow_jax.load(workdir)
  lr = np.random.default_rng(0).random((6, 9, 3), np.float32)
  samples = model.sample(lr, num_samples=2, temperature=0.8)
  assert samples.shape == (2, 24, 36, 3) and np.isfinite(samples).all()
  hr = np.random.default_rng(1).random((24, 36, 3), np.float32)
  np.testing.assert_allclose(model.decode(model.encode(hr, lr), lr), hr, atol=1e-4)
  assert np.isfinite(model.log_prob(hr, lr))


def test_tiles_of_plugins_are_the_whole_image():
  model = build_model(plugin_kinds.get_config().model)
  assert model.tile_overlap == 2 + 8  # what the encoder and the last layers say
  params = random_params(model, dtype=np.float32)
  _, given = random_images(model, (24, 40), dtype=np.float32)
  images = []
  for counts in ((1, 1), (1, 2)):
    sampler = Sampler(model, params)
    sampler.budget.use((24, 40), Request(("draw",)), Plan(cut((24, 40), counts, 10, 1)))
    image = np.empty((96, 160, 3), np.float32)
    prepared = sampler.prepare(given.lr[0], Request(("draw",)))
    for _, (rows, columns), part in sampler.draw(prepared, 0, range(1), 0.8):
      image[rows, columns] = part
    images.append(image)
  np.testing.assert_allclose(*images, atol=1e-4)


def test_weights_of_plugins_go_out_and_come_back(workdir, tmp_path):
  file = tmp_path / "plugins.safetensors"
  said = export_weights(str(workdir), str(file))
  assert "in our own names" in said

  def imported(*flags):
    """In a process that has not imported the plugins for another test."""
    command = [
      sys.executable,
      "import_weights.py",
      f"--file={file}",
      f"--workdir={tmp_path / 'back'}",
    ]
    environment = os.environ | {"PYTHONPATH": str(runs.ROOT / "tests"), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
      [*command, *flags],
      cwd=runs.ROOT,
      env=environment,
      capture_output=True,
      text=True,
      timeout=runs.TIMEOUT,
    )

  without = imported()
  assert without.returncode == 2 and "it has parts of plugin_kinds: give a" in without.stderr
  # A file with the configuration alone, as the README has it, that names the module as text.
  config = tmp_path / "config.py"
  values = plugin_kinds.get_config().to_json()
  config.write_text(
    "import json, ml_collections\n"
    f"def get_config():\n  return ml_collections.ConfigDict(json.loads({values!r}))\n"
  )
  done = imported(f"--config={config}")
  assert done.returncode == 0, done.stderr
  lr = np.random.default_rng(0).random((4, 4, 3), np.float32)
  ours, back = (
    srflow_jax.load(folder).sample(lr, seed=3) for folder in (workdir, tmp_path / "back")
  )
  np.testing.assert_array_equal(ours, back)
