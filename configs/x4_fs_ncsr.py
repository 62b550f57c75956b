r"""FS-NCSR x4 (NTIRE 2022): NCSR that models HR less the enlarged LR image.

    python train.py --config=configs/x4_fs_ncsr.py --workdir=runs/x4_fs_ncsr \
      --config.data.train_dir=df2k_x4 --config.optim.encoder_init=runs/rrdb_x4

Its own enlargement is a cubic with a = -0.75; this one is MATLAB's, -0.5. Not trained.
"""

from configs import x4_ncsr


def get_config():
  config = x4_ncsr.get_config()
  config.model.target = {"kind": "less_bicubic"}
  return config
