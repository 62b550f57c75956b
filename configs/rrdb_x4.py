r"""RRDB x4 by itself, trained with L1: a system of its own, and a start for flows' encoders.

    python train.py --config=configs/rrdb_x4.py --workdir=runs/rrdb_x4 \
      --config.data.train_dir=df2k_x4

Published, on DIV2K's validation set: LR-PSNR 49.20, PSNR 29.44, LPIPS 0.253
(docs/reproducing.md).
"""

from configs import base


def get_config():
  config = base.get_config()
  config.model.encoder.taps = ()
  config.model.stages = ()  # no flow: the encoder is the model
  with config.unlocked():
    del config.model.conditioner
  config.data.batch_size = 16
  config.data.noise.std = 0.0
  config.optim.b2 = 0.99
  config.optim.decay_at = ()
  config.optim.cosine_cycles = 4
  config.optim.encoder_frozen_fraction = 0.0
  config.num_train_steps = 1_000_000
  return config
