"""SRFlow-DA x4 by Muon: convolutions' kernels in orthogonal steps, everything else by Adam.

python train.py --config=configs/x4_da_muon.py --workdir=runs/muon --config.data.train_dir=PHOTOS

1x1 matrices and zero convolutions are Adam's. With `consistent_rms` 0.2 an update of a kernel is as
large as one of Adam's (Liu et al. 2025), so the published learning rate serves both.
"""

from configs import x4_da


def get_config():
  config = x4_da.get_config()
  config.optim.optimizer = {"kind": "muon", "consistent_rms": 0.2}
  return config
