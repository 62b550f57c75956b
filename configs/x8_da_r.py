r"""SRFlow-DA-R x8: DA with a skip connection around the four hidden convolutions.

    python train.py --config=configs/x8_da_r.py --workdir=runs/x8_da_r \
      --config.data.train_dir=df2k_x8 --config.optim.encoder_init=runs/rrdb_x8

Published, on DIV2K's validation set with ten samples at temperature 0.9: LR-PSNR 50.73,
PSNR 23.42, LPIPS mean 0.256, global 0.253, local 0.191, diversity 24.57 (docs/reproducing.md).
"""

from configs import x8_da


def get_config():
  config = x8_da.get_config()
  config.model.conditioner.residual_every = 4
  return config
