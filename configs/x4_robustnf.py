r"""robustNF x4 (ICCV 2023): FS-NCSR with splines in injectors, noise couplings and couplings.

    python train.py --config=configs/x4_robustnf.py --workdir=runs/x4_robustnf \
      --config.data.train_dir=df2k_x4 --config.optim.encoder_init=runs/rrdb_x4

Far from 0 a spline is a shift, so no inverse explodes on conditions that training has not seen. Not
trained.
"""

from configs import x4_fs_ncsr


def get_config():
  config = x4_fs_ncsr.get_config()
  config.model.map = {"kind": "spline", "bins": 2, "bound": 0.5}
  return config
