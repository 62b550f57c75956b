"""SRFlow-DA x4 with splines of one interior knot in its injectors and couplings (robustNF's map).

python train.py --config=configs/x4_da_spline.py --workdir=runs/sp --config.data.train_dir=PHOTOS
"""

from configs import x4_da


def get_config():
  config = x4_da.get_config()
  config.model.map = {"kind": "spline", "bins": 2, "bound": 0.5}
  return config
