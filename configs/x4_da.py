r"""SRFlow-DA x4: deep convolutional blocks in the couplings. `base` is this model.

    python train.py --config=configs/x4_da.py --workdir=runs/x4_da \
      --config.data.train_dir=df2k_x4 --config.optim.encoder_init=runs/rrdb_x4

Published, on DIV2K's validation set with ten samples at temperature 0.9: LR-PSNR 50.88,
PSNR 27.57, LPIPS mean 0.121, global 0.119, local 0.092, diversity 23.55 (docs/reproducing.md).
"""

from configs import base


def get_config():
  config = base.get_config()
  return config
