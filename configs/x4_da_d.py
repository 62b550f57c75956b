r"""SRFlow-DA-D x4: one step a stage, its conditioners 38 convolutions deep.

    python train.py --config=configs/x4_da_d.py --workdir=runs/x4_da_d \
      --config.data.train_dir=df2k_x4 --config.optim.encoder_init=runs/rrdb_x4

Published, on DIV2K's validation set with ten samples at temperature 0.9: LR-PSNR 49.00,
PSNR 26.78, LPIPS mean 0.132, global 0.131, local 0.101, diversity 23.24 (docs/reproducing.md).
"""

from configs import base


def get_config():
  config = base.get_config()
  config.model.conditioner.num_hidden = 36
  config.model.conditioner.residual_every = 2
  config.model.stages = (
    {"squeeze": 2, "transition_steps": 2, "steps": 1, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 1, "split": False},
  )
  return config
