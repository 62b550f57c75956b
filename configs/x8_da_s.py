r"""SRFlow-DA-S x8: one squeeze to LR resolution, all steps there.

    python train.py --config=configs/x8_da_s.py --workdir=runs/x8_da_s \
      --config.data.train_dir=df2k_x8 --config.optim.encoder_init=runs/rrdb_x8

Published, on DIV2K's validation set with ten samples at temperature 0.9: LR-PSNR 52.21,
PSNR 23.71, LPIPS mean 0.268, global 0.265, local 0.204, diversity 23.17 (docs/reproducing.md).
"""

from configs import base


def get_config():
  config = base.get_config()
  config.model.scale = 8
  config.data.batch_size = 16
  config.model.stages = (
    {"squeeze": 8, "transition_steps": 2, "steps": 1, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 6, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 6, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 5, "split": False},
  )
  return config
