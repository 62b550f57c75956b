"""SRFlow-DA x4 by AdamW: decoupled weight decay of convolutions' kernels, of nothing else.

python train.py --config=configs/x4_da_adamw.py --workdir=runs/adamw --config.data.train_dir=PHOTOS

Optax's own "adamw" would decay every parameter, also the 1x1 matrices (`optimizer.decays`).
"""

from configs import x4_da


def get_config():
  config = x4_da.get_config()
  config.optim.weight_decay = 0.01
  return config
