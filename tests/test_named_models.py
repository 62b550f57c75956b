"""Models that are known by a name, and files with a flow alone whose encoder is known by one."""

import json

import jax
import numpy as np
import pytest

from configs import x4_small
from models import random_params
from srflow_jax import checkpoints
from srflow_jax.errors import InputError
from srflow_jax.evaluation import Settings
from srflow_jax.evaluation.run import evaluate_workdirs
from srflow_jax.model.building import build_model
from srflow_jax.runs import write_config
from srflow_jax.weights import files, named, own_names
from srflow_jax.weights.checkpoint_file import read_checkpoint
from srflow_jax.weights.loading import load_model
from srflow_jax.weights.starting import starting_params
from srflow_jax.weights.transfer import export_weights, import_weights
from test_weights_files import assert_equal_trees


def small_config():
  config = x4_small.get_config()
  config.model.encoder.update(width=4, growth=3, num_blocks=2, taps=(0, 1))
  config.model.conditioner.update(width=6, num_hidden=1)
  config.model.stages = ({"squeeze": 4, "transition_steps": 0, "steps": 1, "split": False},)
  return config


def write_run(folder, config, params):
  folder.mkdir()
  write_config(folder, config)
  with checkpoints.writer(folder, keep=1) as writer:
    writer.save(0, {"params": jax.tree.map(jax.numpy.asarray, params)})
  return str(folder)


@pytest.mark.parametrize("name", ["x4_small", "x4_realsr"])
def test_shipped_flows_know_the_noise_of_their_training(name):
  """It is of `configs/base.py`, which may change; theirs was of standard deviation 4 / sqrt(3)."""
  noise = load_model(name).config.data.noise
  assert noise.variance == pytest.approx((4 / np.sqrt(3) / 255) ** 2)


@pytest.fixture
def params():
  return random_params(build_model(small_config().model), dtype=np.float32)


@pytest.fixture
def alone(tmp_path, params, monkeypatch):
  """A file of a flow alone, on an encoder that is known as "tiny"; itself known as "flow"."""
  config = small_config()
  paths = {name: tmp_path / f"{name}.safetensors" for name in ("tiny", "flow")}
  for name, path in paths.items():
    monkeypatch.setitem(named.SHIPPED, name, path.name)
    monkeypatch.setitem(named.FINDERS, name, lambda path=path: path)
  encoder = config.model.to_dict() | {"stages": (), "target": {"kind": "hr"}}
  encoder["encoder"] |= {"taps": ()}
  del encoder["conditioner"]
  files.write(paths["tiny"], own_names.to_state_dict({"encoder": params["encoder"]}), encoder)
  run = write_run(tmp_path / "run", config, params)
  told = export_weights(run, str(paths["flow"]), facts={"licence": "CC0"}, encoder="tiny")
  assert "the flow alone, its encoder tiny" in told
  return paths["flow"]


def test_a_flow_alone_is_read_with_its_encoder(alone, params, tmp_path):
  tensors, facts = files.read(str(alone))
  assert all(name.startswith("flow/") for name in tensors) and facts["encoder"] == "tiny"
  found = read_checkpoint(str(alone))
  assert_equal_trees(found.params, params)
  assert found.sources == (str(alone), "tiny")
  only = read_checkpoint(str(alone), encoder_only=True).params
  assert_equal_trees(only, {"encoder": params["encoder"]})
  import_weights("flow", str(tmp_path / "W"), None, {"x4_small": small_config()})
  assert_equal_trees(checkpoints.load_run(tmp_path / "W").params, params)
  imported = json.loads((tmp_path / "W/imported.json").read_text())
  assert list(imported) == ["flow.safetensors", "tiny.safetensors"]


def test_a_name_stands_for_a_run(alone, params, tmp_path, monkeypatch):
  run = load_model("flow")
  assert_equal_trees(run.params, params)
  assert run.step == 0 and run.config.model.scale == 4
  config = small_config()
  config.optim.encoder_init = "flow"
  monkeypatch.chdir(tmp_path)
  (tmp_path / "flow").mkdir()  # a folder of that name is meant by "./flow" alone
  start = starting_params(config, build_model(config.model))
  assert_equal_trees(start, {"encoder": params["encoder"]})
  with pytest.raises(InputError, match="flow is no run: it has no checkpoints"):
    load_model("flow", step="best")
  with pytest.raises(InputError, match="flow is no folder to write to: give --output_dir"):
    evaluate_workdirs(["flow"], "", "", "", Settings(), "")


def test_a_flow_of_another_encoder_is_not_written_alone(alone, params, tmp_path):
  other = jax.tree.map(lambda leaf: 1.01 * leaf, params)
  run = write_run(tmp_path / "other", small_config(), other)
  with pytest.raises(InputError, match="encoder is not tiny, but was trained on: encoder/"):
    export_weights(run, str(tmp_path / "x.safetensors"), encoder="tiny")
  with pytest.raises(InputError, match=r"encoder is not realsr: realsr: .*growth is 3, not 32"):
    export_weights(run, str(tmp_path / "x.safetensors"), encoder="realsr")
  with pytest.raises(InputError, match="encoder 'no' is none of realsr"):
    export_weights(run, str(tmp_path / "x.safetensors"), encoder="no")
  with pytest.raises(InputError, match="no flow that could be written alone"):
    export_weights("tiny", str(tmp_path / "x.safetensors"), encoder="tiny")
  assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
  "tensor, encoder, message",
  [
    ("flow/x", "/etc/passwd", "names the encoder '/etc/passwd', which is none of realsr"),
    ("encoder/x", "tiny", "has an encoder, though its header names tiny"),
    ("flow/x", "realsr", "realsr: config.model.encoder"),
  ],
)
def test_headers_that_do_not_fit(alone, tensor, encoder, message, tmp_path):
  path = tmp_path / "bad.safetensors"
  block = small_config().model.to_dict()
  files.write(path, {tensor: np.zeros(3, np.float32)}, block, {files.ENCODER_KEY: encoder})
  with pytest.raises(InputError, match=message):
    read_checkpoint(str(path))
