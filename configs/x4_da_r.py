r"""SRFlow-DA-R x4: DA with a skip connection around the four hidden convolutions.

    python train.py --config=configs/x4_da_r.py --workdir=runs/x4_da_r \
      --config.data.train_dir=df2k_x4 --config.optim.encoder_init=runs/rrdb_x4

Published, on DIV2K's validation set with ten samples at temperature 0.9: LR-PSNR 50.92,
PSNR 27.23, LPIPS mean 0.120, global 0.119, local 0.089, diversity 25.50 (docs/reproducing.md).
"""

from configs import base


def get_config():
  config = base.get_config()
  config.model.conditioner.residual_every = 4
  return config
