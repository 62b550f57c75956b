"""SRFlow-DA-S x8."""

from configs import base


def get_config():
  config = base.get_config()
  config.model.scale = 8
  config.data.batch_size = 16
  config.model.stages = (
    {"squeeze": 8, "transition_steps": 2, "steps": 1, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 6, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 6, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 5, "split": False},
  )
  return config
