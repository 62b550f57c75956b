r"""SRFlow and SRFlow-DA with R, S and D, all scaled down alike: does their order show at this size?

    python ablate.py --study=configs/studies/seed_small.py --workdir=runs/seed_small \
      --train_dir=CID22/training --hr_dir=CID22/validation

Sized for CID22 (209 and 41 photographs of 512x512) and three hours on two CPU cores. What is scaled
down, for all alike: half the steps, half the width, half the convolutions of a net (D's to 10 of
36, so its depth is tested more weakly than what the others differ in), a small encoder that has
been trained already and stays frozen, and as target HR less what that encoder makes of LR, which is
learnt many times faster than HR.
"""

from configs import base


def get_config():
  """The base: SRFlow-DA."""
  config = base.get_config()
  config.model.encoder.update(
    width=32, growth=16, num_blocks=6, taps=(3,), global_skip="first_conv"
  )
  config.model.target.kind = "less_encoder"
  config.model.conditioner.update(width=32, num_hidden=2)
  config.model.stages = (
    {"squeeze": 2, "transition_steps": 2, "steps": 3, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 3, "split": False},
  )
  config.data.update(hr_patch=64, batch_size=8, val_patches=40)
  config.optim.encoder_init = "x4_small"
  config.optim.encoder_frozen_fraction = 1.0
  config.optim.learning_rate = 5e-4
  config.optim.warmup_steps = 20
  config.optim.clip_norm = 1000.0
  config.log_every_steps = 20
  config.eval_every_steps = 400
  config.checkpoint_every_steps = 200
  config.keep_checkpoints = 1
  config.keep_best = 0
  return config


SRFLOW = {
  "model.conditioner.num_hidden": 1,
  "model.conditioner.hidden_kernel": 1,
  "model.conditioner.normalize": True,
  "model.stages": tuple(
    {"squeeze": 2, "transition_steps": 2, "steps": 8, "split": split}
    for split in (True, False, False)
  ),
  "data.noise.std": 0.0,
}
S = {
  "model.stages": (
    {"squeeze": 4, "transition_steps": 2, "steps": 1, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 3, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 2, "split": False},
  ),
}
D = {
  "model.conditioner.num_hidden": 10,
  "model.conditioner.residual_every": 2,
  "model.stages": (
    {"squeeze": 2, "transition_steps": 2, "steps": 1, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 1, "split": False},
  ),
}


def get_study():
  return {
    "question": "Does the order of SRFlow, SRFlow-DA, R, S and D show at small size?",
    "expectation": (
      "As published at full size: SRFlow and R are level with DA, S is slightly worse in LPIPS, D "
      "clearly in LPIPS and LR-PSNR. Seeds may well differ by more than DA, R and S do."
    ),
    "base": get_config(),
    "base_name": "da",
    "variants": [
      {"name": "srflow", "set": SRFLOW},
      {"name": "da_r", "set": {"model.conditioner.residual_every": 2}},
      {"name": "da_s", "set": S},
      {"name": "da_d", "set": D},
    ],
    "seeds": [0, 1, 2],
    "budget": {"steps": 800},
    "evaluation": {"num_samples": 3, "temperature": 0.9, "receptive_field_images": 8},
  }
