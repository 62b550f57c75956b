"""A small x4 model that learns something in minutes on two cores: `make demo` trains it."""

from configs import base


def get_config():
  config = base.get_config()
  config.model.encoder.update(width=32, growth=16, num_blocks=3, taps=(0, 1, 2))
  config.model.conditioner.update(width=32, num_hidden=2)
  config.model.stages = (
    {"squeeze": 2, "transition_steps": 1, "steps": 3, "split": True},
    {"squeeze": 2, "transition_steps": 1, "steps": 3, "split": False},
  )
  config.data.hr_patch = 64
  config.data.batch_size = 8
  config.optim.learning_rate = 1e-3
  config.num_train_steps = 400
  config.log_every_steps = 20
  config.eval_every_steps = 200
  config.checkpoint_every_steps = 200
  return config
