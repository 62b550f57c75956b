r"""SRFlow and SRFlow-DA with R, S and D, x4, at full size and the published schedule: for GPUs.

    python ablate.py --study=configs/studies/seed_x4.py --workdir=runs/seed_x4 \
      --train_dir=df2k_x4 --hr_dir=DIV2K_valid_HR --encoder_init=runs/rrdb_x4

The published tables are those of docs/reproducing.md.
"""

from configs import x4_da, x4_da_d, x4_da_r, x4_da_s, x4_srflow


def get_study():
  others = {"srflow": x4_srflow, "da_r": x4_da_r, "da_s": x4_da_s, "da_d": x4_da_d}
  return {
    "question": "Do the five systems differ, as published, by more than their seeds do?",
    "expectation": (
      "D is worse than DA in LPIPS and LR-PSNR, S in LPIPS, both beyond seeds; SRFlow and R are "
      "not told apart from DA."
    ),
    "base": x4_da.get_config(),
    "base_name": "da",
    "variants": [{"name": name, "config": c.get_config()} for name, c in others.items()],
    "seeds": [0, 1, 2],
    "budget": {"steps": 200_000},
    "evaluation": {"num_samples": 10, "temperature": 0.9, "receptive_field_images": 20},
  }
