"""SRFlow-DA-S x4: one squeeze to LR resolution, all steps there."""

from configs import base


def get_config():
  config = base.get_config()
  config.model.stages = (
    {"squeeze": 4, "transition_steps": 2, "steps": 1, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 6, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 5, "split": False},
  )
  return config
