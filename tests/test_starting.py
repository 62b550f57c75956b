"""Flows that start from others, and flows of which a part is trained."""

import flax.traverse_util
import jax
import numpy as np
import pytest

import runs
from models import random_images, random_params
from srflow_jax.config import read_config
from srflow_jax.errors import InputError
from srflow_jax.model.building import build_model, init_params
from srflow_jax.training.loop import train
from srflow_jax.weights.checkpoint_file import differences
from srflow_jax.weights.starting import flow_line, starting_params
from srflow_jax.weights.transfer import export_weights
from test_weights import checkpoint_of


def flat(tree):
  return {"/".join(path): leaf for path, leaf in flax.traverse_util.flatten_dict(tree).items()}


def config_of(prior="unet", **optim):
  """Two stages, each with a prior, whose kind may be another than that of `source`."""
  config = runs.get_config()
  config.model.stages = (
    {"squeeze": 2, "transition_steps": 1, "steps": 2, "split": True},
    {"squeeze": 2, "transition_steps": 0, "steps": 1, "split": False},
  )
  if prior == "unet":
    config.model.prior = config.model.last_prior = {"kind": "unet", "width": 4, "depth": 1}
  config.data.update(batch_size=2, val_patches=2)
  config.update(num_train_steps=2)
  config.optim.update(optim)
  return config


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """(folder, parameters) of a flow whose priors are the published ones; beside it a file."""
  folder = tmp_path_factory.mktemp("source") / "W"
  config = config_of(prior="published")
  params = random_params(build_model(config.model), dtype=np.float32)
  checkpoint_of(config, params, folder)
  export_weights(str(folder), str(folder.with_suffix(".safetensors")), overwrite=True)
  return folder, flat(params)


def test_encoders_are_compared_with_their_defaults():
  def block(**encoder):
    return {"scale": 4, "encoder": encoder, "stages": ({"squeeze": 4},)}

  def differing(one, other):
    return differences(block(**one), block(**other), encoder_only=True)

  assert differing({"kind": "edsr"}, {"kind": "edsr", "width": 64, "taps": (3,)}) == []
  assert differing({"kind": "edsr", "num_blocks": 16}, {"kind": "edsr"}) == []
  assert differing({"kind": "none"}, {"kind": "none", "width": 64}) == []
  assert differing({"kind": "edsr", "width": 32}, {"kind": "edsr"}) == [
    "config.model.encoder.width is 32, not 64"
  ]
  assert "config.model.encoder.kind is 'none', not 'edsr'" in differing(
    {"kind": "none"}, {"kind": "edsr"}
  )


@pytest.mark.parametrize("suffix", ["", ".safetensors"])
def test_a_flow_starts_from_what_another_has_in_common(suffix, source):
  folder, theirs = source
  config = read_config(config_of(flow_init=f"{folder}{suffix}"))
  model = build_model(config.model)
  given = starting_params(config, model)
  shared = {name for name in theirs if name.startswith("flow/") and "/prior/" not in name}
  assert flat(given).keys() == shared
  for name, array in flat(given).items():
    np.testing.assert_array_equal(array, theirs[name])
  assert flow_line(model, given).endswith(
    "drawn from the seed: parts of stages_0/prior, stages_1/prior"
  )


@pytest.mark.slow
def test_only_the_priors_of_a_frozen_flow_are_trained(source, tmp_path, capsys, no_pictures):
  """With weight decay and a moving average, which must not touch it either."""
  folder, theirs = source
  optim = {
    "flow_init": str(folder),
    "flow_trained": "/prior/",
    "encoder_init": str(folder),
    "encoder_frozen_fraction": 1.0,
    "weight_decay": 0.5,
    "ema_decay": 0.9,
  }
  whole = train(config_of(**optim), tmp_path / "whole")
  assert "arrays from optim.flow_init; drawn" in capsys.readouterr().out
  for tree in (whole.params, whole.ema):
    for name, array in flat(tree).items():
      if "/prior/" not in name:
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
  for leaf in jax.tree.leaves(whole.opt_state["encoder"]):  # it waits until the encoder is trained
    assert not np.any(leaf)
  priors = {name: array for name, array in flat(whole.params).items() if "/prior/" in name}
  zero_convolutions = [array for name, array in priors.items() if "ZeroConv_0/conv/kernel" in name]
  assert len(zero_convolutions) == 2 and all(np.any(array) for array in zero_convolutions)


@pytest.mark.slow
def test_layers_in_a_row_keep_what_they_share(source):
  """Nets of another width in the same scan: these are drawn, the actnorms beside them are not."""
  folder, theirs = source
  config = config_of(prior="published", flow_init=str(folder))
  config.model.conditioner.width = 6
  config = read_config(config)
  model = build_model(config.model)
  hr, given = random_images(model, (4, 4), dtype=np.float32)
  params = flat(init_params(model, jax.random.key(0), hr, given, starting_params(config, model)))
  shared = [name for name in theirs if theirs[name].shape == params[name].shape]
  shared = [name for name in shared if name.startswith("flow/")]
  assert {"actnorm", "mixer"} <= {part for name in shared for part in name.split("/")}
  assert not all(name in shared for name in params if name.startswith("flow/"))
  for name in shared:
    np.testing.assert_array_equal(params[name], theirs[name], err_msg=name)
  jax.tree.map(lambda array: np.testing.assert_array_equal(np.isfinite(array), True), params)


@pytest.mark.parametrize(
  "optim, message",
  [
    ({"flow_trained": "("}, r"config.optim.flow_trained is '\(': no regular expression: missing"),
    ({"flow_trained": "priors"}, r"flow_trained is 'priors': in the name of no .* one is flow/"),
    ({"flow_init": "/nowhere"}, "config.optim.flow_init: .*/nowhere"),
  ],
)
def test_what_cannot_be_used_is_refused(optim, message, tmp_path):
  with pytest.raises(InputError, match=message):
    train(config_of(**optim), tmp_path / "W")
  assert not (tmp_path / "W").exists()


def test_a_flow_with_nothing_in_common_is_refused(source, tmp_path):
  folder, _ = source
  config = config_of(flow_init=str(folder))
  config.model.scale = 8
  config.data.hr_patch = 32
  with pytest.raises(InputError, match=r"flow_init: .*config.model.scale is 8, not 4"):
    train(config, tmp_path / "W")
  config = config_of(flow_init=str(folder))
  config.model.stages = ({"squeeze": 4, "transition_steps": 0, "steps": 3, "split": False},)
  with pytest.raises(InputError, match=r"flow_init: .*no array of a name and shape of this flow's"):
    train(config, tmp_path / "W")


@pytest.mark.parametrize("field", ["flow_init", "flow_trained"])
def test_an_encoder_alone_has_no_flow_to_start_or_to_train(field, tmp_path):
  config = config_of(**{field: "x"})
  config.model.stages = ()
  with pytest.raises(InputError, match=f"config.optim.{field} is 'x': this model is an encoder"):
    train(config, tmp_path / "W")
