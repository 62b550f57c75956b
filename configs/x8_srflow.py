"""SRFlow x8. Its own release taps blocks 1, 3, 5, 7; SRFlow-DA's tables use these."""

from configs import base


def get_config():
  config = base.get_config()
  config.model.scale = 8
  config.data.batch_size = 16
  config.model.conditioner.num_hidden = 1
  config.model.conditioner.hidden_kernel = 1
  config.model.conditioner.normalize = True
  config.model.stages = (
    {"squeeze": 2, "transition_steps": 2, "steps": 16, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 16, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 16, "split": False},
    {"squeeze": 2, "transition_steps": 2, "steps": 16, "split": False},
  )
  config.optim.learning_rate = 5e-4
  config.data.noise.std = 0.0
  return config
