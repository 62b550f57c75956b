r"""SRFlow-DA-S x4: one squeeze to LR resolution, all steps there.

    python train.py --config=configs/x4_da_s.py --workdir=runs/x4_da_s \
      --config.data.train_dir=df2k_x4 --config.optim.encoder_init=runs/rrdb_x4

Published, on DIV2K's validation set with ten samples at temperature 0.9: LR-PSNR 50.48,
PSNR 27.43, LPIPS mean 0.130, global 0.129, local 0.098, diversity 24.01 (docs/reproducing.md).
"""

from configs import base


def get_config():
  config = base.get_config()
  config.model.stages = (
    {"squeeze": 4, "transition_steps": 2, "steps": 1, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 6, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 5, "split": False},
  )
  return config
