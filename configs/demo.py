"""A small flow on the shipped small encoder, frozen: `make demo` trains it on two cores.

It models HR less what the encoder makes of LR, so a few hundred steps on scikit-image's photographs
are enough to beat bicubic's LPIPS by a third.
"""

from configs import x4_small


def get_config():
  config = x4_small.get_config()
  config.model.conditioner.width = 32
  config.model.stages = (
    {"squeeze": 4, "transition_steps": 2, "steps": 2, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 2, "split": False},
  )
  config.data.hr_patch = 64
  config.data.batch_size = 8
  config.optim.learning_rate = 1e-3
  config.optim.warmup_steps = 20
  config.optim.ema_decay = 0.0
  config.optim.encoder_init = "x4_small"
  config.num_train_steps = 700
  config.log_every_steps = 20
  config.eval_every_steps = 200
  config.checkpoint_every_steps = 200
  return config
