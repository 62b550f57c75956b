r"""SRFlow-DA x4 with mean and scale of every latent learnt from the LR image, by a U-Net a level.

    python train.py --config=configs/x4_da_learned_prior.py --workdir=runs/prior \
      --config.data.train_dir=df2k_x4 --config.optim.encoder_init=runs/rrdb_x4

Flow and priors are trained together; temperature is a factor on the learnt scale. Published learned
priors (BFSR, CVPR 2024) have no scale. Not trained.

The priors alone, on a trained flow that stays as it is, take these in place of the last:

      --config.optim.encoder_init=runs/da --config.optim.encoder_frozen_fraction=1.0 \
      --config.optim.flow_init=runs/da --config.optim.flow_trained=/prior/
"""

from configs import x4_da


def get_config():
  config = x4_da.get_config()
  config.model.prior = {"kind": "unet", "width": 32, "depth": 2}
  config.model.last_prior = {"kind": "unet", "width": 32, "depth": 2}
  return config
