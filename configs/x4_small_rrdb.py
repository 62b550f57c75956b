"""A small RRDB x4, trained with L1: the encoder of `x4_small`.

Trained on what a large encoder makes of LR photographs, it learns to be as sharp as that:

    python train.py --config=configs/x4_small_rrdb.py --workdir=runs/x4_small_rrdb
      --config.data.train_dir=ENLARGED_BY_IT:LR
"""

from configs import rrdb_x4


def get_config():
  config = rrdb_x4.get_config()
  config.model.encoder.update(width=32, growth=16, num_blocks=6, global_skip="first_conv")
  config.data.hr_patch = 128
  config.data.rotations = True
  config.optim.learning_rate = 5e-4
  config.optim.warmup_steps = 200
  config.optim.cosine_cycles = 1
  config.optim.ema_decay = 0.999
  config.num_train_steps = 20_000
  return config
