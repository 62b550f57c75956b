r"""SRFlow-DA-D x8: one step a stage, its conditioners 38 convolutions deep.

    python train.py --config=configs/x8_da_d.py --workdir=runs/x8_da_d \
      --config.data.train_dir=df2k_x8 --config.optim.encoder_init=runs/rrdb_x8

Published, on DIV2K's validation set with ten samples at temperature 0.9: LR-PSNR 45.18,
PSNR 22.54, LPIPS mean 0.306, global 0.304, local 0.241, diversity 22.54 (docs/reproducing.md).
"""

from configs import base


def get_config():
  config = base.get_config()
  config.model.scale = 8
  config.data.batch_size = 16
  config.model.conditioner.num_hidden = 36
  config.model.conditioner.residual_every = 2
  config.model.stages = (
    {"squeeze": 2, "transition_steps": 2, "steps": 1, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 1, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 1, "split": False},
  )
  return config
