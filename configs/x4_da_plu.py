"""SRFlow-DA x4 with its 1x1 convolutions as P L U, whose log-determinants are sums (Glow).

python train.py --config=configs/x4_da_plu.py --workdir=runs/da_plu --config.data.train_dir=PHOTOS
"""

from configs import x4_da


def get_config():
  config = x4_da.get_config()
  config.model.mixer = {"kind": "plu"}
  return config
