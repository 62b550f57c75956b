r"""SRFlow x8: sixteen steps a stage, shallow conditioners with actnorms.

Its own release taps blocks 1, 3, 5, 7; SRFlow-DA's tables use those of `base`.

    python train.py --config=configs/x8_srflow.py --workdir=runs/x8_srflow \
      --config.data.train_dir=df2k_x8 --config.optim.encoder_init=runs/rrdb_x8

Published, on DIV2K's validation set with ten samples at temperature 0.9: LR-PSNR 50.09,
PSNR 23.03, LPIPS mean 0.272, global 0.276, local 0.200, diversity 25.28 (docs/reproducing.md).
"""

from configs import base


def get_config():
  config = base.get_config()
  config.model.scale = 8
  config.data.batch_size = 16
  config.model.conditioner.num_hidden = 1
  config.model.conditioner.hidden_kernel = 1
  config.model.conditioner.normalize = True
  config.model.stages = (
    {"squeeze": 2, "transition_steps": 2, "steps": 16, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 16, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 16, "split": False},
    {"squeeze": 2, "transition_steps": 2, "steps": 16, "split": False},
  )
  config.optim.learning_rate = 5e-4
  config.data.noise.std = 0.0
  return config
