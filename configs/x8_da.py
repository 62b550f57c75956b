"""SRFlow-DA x8."""

from configs import base


def get_config():
  config = base.get_config()
  config.model.scale = 8
  config.data.batch_size = 16
  config.model.stages = (
    {"squeeze": 2, "transition_steps": 2, "steps": 6, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 6, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 6, "split": False},
  )
  return config
