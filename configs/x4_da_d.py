"""SRFlow-DA-D x4: one step a stage, its conditioners 38 convolutions deep."""

from configs import base


def get_config():
  config = base.get_config()
  config.model.conditioner.num_hidden = 36
  config.model.conditioner.residual_every = 2
  config.model.stages = (
    {"squeeze": 2, "transition_steps": 2, "steps": 1, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 1, "split": False},
  )
  return config
