"""The flow that the repository ships for x4: small, on the encoder trained on DF2K, frozen.

It models HR less the encoder's own super-resolution, which is learnt many times faster than HR.

    python train.py --config=configs/x4_realsr.py --workdir=runs/mine --config.data.train_dir=PHOTOS
"""

from configs import base


def get_config():
  config = base.get_config()
  config.model.encoder.global_skip = "first_conv"  # what the encoder's weights were trained with
  config.model.target.kind = "less_encoder"
  config.model.conditioner.num_hidden = 2
  config.model.stages = (
    {"squeeze": 4, "transition_steps": 2, "steps": 2, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 4, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 4, "split": False},
  )
  config.data.batch_size = 16
  config.data.rotations = True
  config.optim.learning_rate = 5e-4
  config.optim.warmup_steps = 200
  config.optim.clip_norm = 1000.0
  config.optim.ema_decay = 0.999
  config.optim.encoder_init = "realsr"
  config.optim.encoder_frozen_fraction = 1.0
  config.num_train_steps = 20_000
  return config
