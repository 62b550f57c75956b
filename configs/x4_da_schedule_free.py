r"""SRFlow-DA x4 by schedule-free AdamW: an average of the iterates in place of a falling rate.

python train.py --config=configs/x4_da_schedule_free.py --workdir=runs/sf \
  --config.data.train_dir=PHOTOS

The rate rises, then stays (Defazio et al. 2024); validation and evaluation use the average.
"""

from configs import x4_da


def get_config():
  config = x4_da.get_config()
  config.optim.optimizer = {"kind": "schedule_free_adamw", "b1": 0.9, "b2": 0.999}
  config.optim.decay_at = ()
  config.optim.warmup_steps = 2_000
  return config
