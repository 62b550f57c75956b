r"""SRFlow x4: sixteen steps a stage, shallow conditioners with actnorms.

    python train.py --config=configs/x4_srflow.py --workdir=runs/x4_srflow \
      --config.data.train_dir=df2k_x4 --config.optim.encoder_init=runs/rrdb_x4

Published, on DIV2K's validation set with ten samples at temperature 0.9: LR-PSNR 50.64,
PSNR 27.09, LPIPS mean 0.120, global 0.119, local 0.089, diversity 25.24 (docs/reproducing.md).
"""

from configs import base


def get_config():
  config = base.get_config()
  config.model.conditioner.num_hidden = 1
  config.model.conditioner.hidden_kernel = 1
  config.model.conditioner.normalize = True
  config.model.stages = (
    {"squeeze": 2, "transition_steps": 2, "steps": 16, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 16, "split": False},
    {"squeeze": 2, "transition_steps": 2, "steps": 16, "split": False},
  )
  config.optim.learning_rate = 2.5e-4
  config.data.noise.std = 0.0
  return config
