"""Configurations that compare the field's ideas: each is a model, trains, goes on, samples."""

import jax
import numpy as np
import pytest

import srflow_jax
from configs import ideas
from srflow_jax.config import read_config
from srflow_jax.model.building import build_model
from srflow_jax.training import optimizer
from srflow_jax.training.loop import train


@pytest.mark.parametrize("idea", ideas.IDEAS)
def test_an_idea_is_a_configuration_that_differs_from_the_base_alone_in_it(idea):
  config, base = read_config(ideas.get_config(idea)), read_config(ideas.get_config())
  assert (config == base) == (idea == "da")
  optimizer.check(config.optim, config.data.batch_size, 1)
  model = build_model(config.model)
  assert config.model.encoder == base.model.encoder
  assert config.data.hr_patch % (model.scale * model.lr_multiple) == 0
  same = ("seed", "num_train_steps", "compute")
  assert all(getattr(config, name) == getattr(base, name) for name in same)


@pytest.mark.slow
@pytest.mark.parametrize("idea", ideas.IDEAS)
def test_an_idea_trains_goes_on_exactly_and_samples(idea, tmp_path):
  config = ideas.get_config(idea)
  config.data.update(hr_patch=32, batch_size=2, val_patches=2)
  config.optim.decay_at = ()  # so that a run cut short has the rates of the whole
  config.update(log_every_steps=4, eval_every_steps=1000, checkpoint_every_steps=4)
  states = []
  for name, ends in (("whole", (8,)), ("halves", (4, 8))):
    for end in ends:
      config.num_train_steps = end
      state = train(config, str(tmp_path / name))
    assert int(state.skipped) == 0
    states.append(state.params)
  jax.tree.map(np.testing.assert_array_equal, *states)
  lr = np.random.default_rng(0).random((9, 7, 3), np.float32)
  samples = srflow_jax.load(tmp_path / "whole").sample(lr, num_samples=2, temperature=1.0)
  assert samples.shape == (2, 36, 28, 3) and np.isfinite(samples).all()
