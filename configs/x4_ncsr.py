r"""NCSR x4 (Kim & Son, NTIRE 2021): SRFlow with noise couplings, whose nets see the noise in HR.

    python train.py --config=configs/x4_ncsr.py --workdir=runs/x4_ncsr \
      --config.data.train_dir=df2k_x4 --config.optim.encoder_init=runs/rrdb_x4

Published, on DIV2K's validation set: LR-PSNR 50.75, LPIPS 0.119, diversity 26.72. This config has
not been trained.
"""

from configs import x4_srflow

STEP = ("actnorm", "mixer", "injector", "noise_coupling", "coupling")


def get_config():
  config = x4_srflow.get_config()
  first, *others = config.model.stages
  config.model.stages = (first, *({**stage, "step": STEP} for stage in others))
  config.data.noise = {"kind": "levels", "max_std": 0.05 * 255}
  config.data.batch_size = 18
  config.optim.learning_rate = 2e-4
  config.num_train_steps = 220_000
  return config
