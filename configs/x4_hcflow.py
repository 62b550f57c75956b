r"""HCFlow x4 (Liang et al., ICCV 2021): what the flow keeps to its end is the LR image.

    python train.py --config=configs/x4_hcflow.py --workdir=runs/x4_hcflow \
      --config.data.train_dir=df2k_x4 --config.optim.encoder_init=runs/rrdb_14

Thirteen steps a level without features; what a split factors out passes thirteen steps that see
RRDB features: of LR at the coarse level, of what is kept and of LR's at the fine one. The nets are
SRFlow's; the encoder is one of 14 blocks (`rrdb_x4` with `--config.model.encoder.num_blocks=14` and
these taps). Published, on DIV2K's validation set: PSNR 27.02, LPIPS 0.124. This config has not been
trained.
"""

from configs import x4_srflow


def get_config():
  config = x4_srflow.get_config()
  config.model.encoder.update(num_blocks=14, taps=(6, 13))
  config.model.map = {"kind": "atan"}
  config.model.step = ("actnorm", "mixer", {"kind": "coupling", "sees_features": False})
  prior = {"kind": "flow", "step": ("actnorm", "mixer", "coupling"), "steps": 13}
  blocks = {"num_blocks": 14, "width": 64, "growth": 32, "taps": (6, 13)}
  level = {"squeeze": 2, "transition_steps": 0, "steps": 13, "split": True}
  config.model.stages = (
    level | {"keep": 6, "prior": prior | blocks},
    level | {"keep": 3, "prior": prior},
    {"squeeze": 1, "transition_steps": 0, "steps": 0, "split": False},
  )
  config.model.last_prior = {"kind": "lr", "log_std": -6.0}
  config.data.noise = {"kind": "uniform", "width": 255 / 64}
  return config
