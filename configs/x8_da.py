r"""SRFlow-DA x8: three stages of six steps.

    python train.py --config=configs/x8_da.py --workdir=runs/x8_da \
      --config.data.train_dir=df2k_x8 --config.optim.encoder_init=runs/rrdb_x8

Published, on DIV2K's validation set with ten samples at temperature 0.9: LR-PSNR 50.91,
PSNR 23.75, LPIPS mean 0.261, global 0.259, local 0.198, diversity 23.45 (docs/reproducing.md).
"""

from configs import base


def get_config():
  config = base.get_config()
  config.model.scale = 8
  config.data.batch_size = 16
  config.model.stages = (
    {"squeeze": 2, "transition_steps": 2, "steps": 6, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 6, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 6, "split": False},
  )
  return config
