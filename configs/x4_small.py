r"""The smallest flow that the repository ships for x4, on a small RRDB, frozen: quick on two cores.

    python train.py --config=configs/x4_small.py --workdir=runs/x4_small \
      --config.data.train_dir=PHOTOS

The encoder is the shipped one; `configs/x4_small_rrdb.py` trained it.
"""

from configs import x4_realsr


def get_config():
  config = x4_realsr.get_config()
  config.model.encoder.update(width=32, growth=16, num_blocks=6, taps=(1, 3, 5))
  config.model.conditioner.update(width=48, num_hidden=2)
  config.optim.encoder_init = "x4_small"
  return config
