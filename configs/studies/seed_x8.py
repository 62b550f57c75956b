r"""SRFlow and SRFlow-DA with R, S and D, x8, at full size and the published schedule: for GPUs.

    python ablate.py --study=configs/studies/seed_x8.py --workdir=runs/seed_x8 \
      --train_dir=df2k_x8 --hr_dir=DIV2K_valid_HR --encoder_init=runs/rrdb_x8

The published tables are those of docs/reproducing.md.
"""

from configs import x8_da, x8_da_d, x8_da_r, x8_da_s, x8_srflow
from configs.studies import seed_x4


def get_study():
  others = {"srflow": x8_srflow, "da_r": x8_da_r, "da_s": x8_da_s, "da_d": x8_da_d}
  return seed_x4.get_study() | {
    "expectation": (
      "D is worse than DA in LPIPS and LR-PSNR, SRFlow in LPIPS, both beyond seeds; S and R are "
      "not told apart from DA in LPIPS, and S is better in LR-PSNR."
    ),
    "base": x8_da.get_config(),
    "variants": [{"name": name, "config": c.get_config()} for name, c in others.items()],
  }
