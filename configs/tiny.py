"""A small x4 model that learns something in minutes on two cores: tests and examples start from it.

Like DA-S it works at LR resolution throughout, which is cheap. The noise is stronger than the
published one: a density that is less sharp is learnt in fewer steps, and its samples stay tame.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.model.encoder.update(width=32, growth=16, num_blocks=2, taps=(0,))
  config.model.conditioner.update(width=48, num_hidden=1)
  config.model.stages = (
    {"squeeze": 4, "transition_steps": 2, "steps": 4, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 4, "split": False},
  )
  config.data.hr_patch = 64
  config.data.batch_size = 8
  config.data.noise.std = 3.0
  config.optim.learning_rate = 1e-3
  config.num_train_steps = 800
  config.log_every_steps = 20
  config.eval_every_steps = 400
  config.checkpoint_every_steps = 400
  return config
