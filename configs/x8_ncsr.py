r"""NCSR x8: four levels of twenty steps, the last sixteen of levels 3 and 4 with noise couplings.

    python train.py --config=configs/x8_ncsr.py --workdir=runs/x8_ncsr \
      --config.data.train_dir=df2k_x8 --config.optim.encoder_init=runs/rrdb_x8

Published, on the test set of NTIRE 2021: LPIPS 0.259, LR-PSNR 48.64, diversity 26.94. This config
has not been trained.
"""

from configs import x8_srflow
from configs.x4_ncsr import STEP


def get_config():
  config = x8_srflow.get_config()
  plain = {"squeeze": 2, "transition_steps": 2, "steps": 20, "split": True}
  # A stage has one kind of step: these two are one level.
  before = {"squeeze": 2, "transition_steps": 2, "steps": 4, "split": False}
  noisy = {"squeeze": 1, "transition_steps": 0, "steps": 16, "split": False, "step": STEP}
  config.model.stages = (plain, plain, before, noisy, before, noisy)
  config.data.noise = {"kind": "levels", "max_std": 0.03 * 255}
  config.data.batch_size = 18
  config.optim.learning_rate = 2e-4
  config.num_train_steps = 250_000
  return config
