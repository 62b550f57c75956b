"""The field's ideas at one small size, to be compared: `--config=configs/ideas.py:IDEA`.

python train.py --config=configs/ideas.py:ncsr --workdir=runs/ideas_ncsr
      --config.data.train_dir=PHOTOS --config.data.val_dir=OTHERS

All see the same data, crops and seed for 2,000 steps, and have the same encoder, from scratch. An
idea changes what its published config changes (`x4_ncsr.py` and so on) and nothing else.
"""

import ml_collections

from configs import base, x4_attention, x4_ncsr
from srflow_jax.errors import InputError


def _da(config: ml_collections.ConfigDict) -> None:
  pass


def _ncsr(config: ml_collections.ConfigDict) -> None:
  first, second = config.model.stages
  config.model.stages = (first, {**second, "step": x4_ncsr.STEP})
  config.data.noise = {"kind": "levels", "max_std": 0.05 * 255}


def _fs_ncsr(config: ml_collections.ConfigDict) -> None:
  _ncsr(config)
  config.model.target = {"kind": "less_bicubic"}


def _robustnf(config: ml_collections.ConfigDict) -> None:
  _fs_ncsr(config)
  config.model.map = {"kind": "spline", "bins": 2, "bound": 0.5}


def _hcflow(config: ml_collections.ConfigDict) -> None:
  prior = {"kind": "flow", "step": ("actnorm", "mixer", "coupling"), "steps": 2}
  blocks = {"num_blocks": 2, "width": 32, "growth": 16, "taps": (0, 1)}
  level = {"squeeze": 2, "transition_steps": 0, "steps": 2, "split": True}
  config.model.map = {"kind": "atan"}
  config.model.step = ("actnorm", "mixer", {"kind": "coupling", "sees_features": False})
  config.model.stages = (
    level | {"keep": 6, "prior": prior | blocks},
    level | {"keep": 3, "prior": prior},
    {"squeeze": 1, "transition_steps": 0, "steps": 0, "split": False},
  )
  config.model.last_prior = {"kind": "lr"}
  config.data.noise = {"kind": "uniform", "width": 255 / 64}


def _learned_prior(config: ml_collections.ConfigDict) -> None:
  config.model.prior = {"kind": "unet", "width": 16, "depth": 2}
  config.model.last_prior = {"kind": "unet", "width": 16, "depth": 2}


def _attention(config: ml_collections.ConfigDict) -> None:
  config.model.map = {"kind": "double_sigmoid"}
  # Not `update`: a net of convolutions has other fields.
  config.model.conditioner = ml_collections.ConfigDict(
    {"kind": "transformer", "width": 32, "depth": 2, "heads": 2, "window": 4}
  )
  channels = x4_attention.CHANNELS
  config.model.step = ("actnorm", *channels, {"kind": "checkerboard_coupling", "maps": 1})
  config.model.stages = ({"squeeze": 4, "transition_steps": 2, "steps": 1, "split": False},)


def _null_space(config: ml_collections.ConfigDict) -> None:
  config.model.target = {"kind": "null_space"}
  config.model.stages = (
    {"squeeze": 1, "transition_steps": 2, "steps": 2, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 2, "split": False},
  )


def _muon(config: ml_collections.ConfigDict) -> None:
  config.optim.optimizer = {"kind": "muon", "consistent_rms": 0.2}


def _schedule_free(config: ml_collections.ConfigDict) -> None:
  config.optim.optimizer = {"kind": "schedule_free_adamw"}
  config.optim.decay_at = ()
  config.optim.warmup_steps = 100


def _adamw(config: ml_collections.ConfigDict) -> None:
  config.optim.weight_decay = 0.01


IDEAS = {
  "da": _da,
  "ncsr": _ncsr,
  "fs_ncsr": _fs_ncsr,
  "robustnf": _robustnf,
  "hcflow": _hcflow,
  "learned_prior": _learned_prior,
  "attention": _attention,
  "null_space": _null_space,
  "muon": _muon,
  "schedule_free": _schedule_free,
  "adamw": _adamw,
}


def get_config(idea: str = "da") -> ml_collections.ConfigDict:
  if idea not in IDEAS:
    raise InputError(f"configs/ideas.py has no idea {idea!r}: one of {', '.join(IDEAS)}")
  config = base.get_config()
  config.model.encoder.update(width=32, growth=16, num_blocks=2, taps=(0, 1))
  config.model.conditioner.update(width=32, num_hidden=1)
  config.model.stages = (
    {"squeeze": 2, "transition_steps": 2, "steps": 2, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 2, "split": False},
  )
  config.data.update(hr_patch=64, batch_size=8)
  config.num_train_steps = 2_000
  config.log_every_steps = 50
  config.eval_every_steps = 500
  config.checkpoint_every_steps = 500
  IDEAS[idea](config)
  return config.lock()
