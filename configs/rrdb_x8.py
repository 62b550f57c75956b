r"""RRDB x8 by itself, trained with L1: a system of its own, and a start for flows' encoders.

    python train.py --config=configs/rrdb_x8.py --workdir=runs/rrdb_x8 \
      --config.data.train_dir=df2k_x8

Published, on DIV2K's validation set: LR-PSNR 45.43, PSNR 25.50, LPIPS 0.419
(docs/reproducing.md).
"""

from configs import rrdb_x4


def get_config():
  config = rrdb_x4.get_config()
  config.model.scale = 8
  return config
