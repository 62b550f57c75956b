"""SRFlow-DA-R x4: DA with a skip connection around the four hidden convolutions."""

from configs import base


def get_config():
  config = base.get_config()
  config.model.conditioner.residual_every = 4
  return config
