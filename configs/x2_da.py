r"""SRFlow-DA's flow at x2: the same two stages, one at LR resolution and one at half of it.

    python train.py --config=configs/x2_da.py --workdir=runs/x2_da \
      --config.data.train_dir=PHOTOS

No paper has figures for it.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.model.scale = 2
  return config
