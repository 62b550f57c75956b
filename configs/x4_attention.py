r"""Attention couplings, x4: windowed transformers as nets, at the FLOPs of SRFlow-DA's flow.

    python train.py --config=configs/x4_attention.py --workdir=runs/x4_attention \
      --config.data.train_dir=df2k_x4 --config.optim.encoder_init=runs/rrdb_x4

Jet's recipe (Kolesnikov et al. 2024) at LR resolution: couplings of channels and of space, 4 : 1,
scale `2 sigmoid`, no injectors. LR features enter by a convolution of `[a, u]` and by attention.
Windows are 8 x 8 LR pixels, to multiples of which LR images are padded. The likelihood of a patch
of 160 x 160 takes 110 GFLOP, `x4_da`'s 107, encoder included (counted by `ops.costs`). Not
trained.
"""

from configs import x4_da

CHANNELS = ("mixer", "coupling") * 4


def get_config():
  config = x4_da.get_config()
  config.model.map = {"kind": "double_sigmoid"}
  config.model.conditioner = {
    "kind": "transformer",
    "width": 96,
    "depth": 2,
    "heads": 4,
    "window": 8,
  }
  config.model.step = (
    *("actnorm", *CHANNELS, {"kind": "checkerboard_coupling", "maps": 1}),
    *("actnorm", *CHANNELS, {"kind": "checkerboard_coupling", "maps": 0}),
  )
  config.model.stages = (
    {"squeeze": 4, "transition_steps": 2, "steps": 1, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 1, "split": False},
  )
  return config
