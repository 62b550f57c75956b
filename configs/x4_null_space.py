r"""Consistency by construction, x4: a flow in the null space of MATLAB's downscaling.

    python train.py --config=configs/x4_null_space.py --workdir=runs/x4_null_space \
      --config.data.train_dir=df2k_x4 --config.optim.encoder_init=runs/rrdb_x4

SRFlow-DA-S's steps over the 45 coordinates of an LR pixel that LR leaves open. The LR image of
every sample is LR, before it is clipped and rounded to 8 bits. Not trained.
"""

from configs import x4_da_s


def get_config():
  config = x4_da_s.get_config()
  config.model.target = {"kind": "null_space"}
  first, *others = config.model.stages
  config.model.stages = ({**first, "squeeze": 1}, *others)  # they are at LR's size already
  return config
