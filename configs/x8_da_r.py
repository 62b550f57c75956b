"""SRFlow-DA-R x8."""

from configs import x8_da


def get_config():
  config = x8_da.get_config()
  config.model.conditioner.residual_every = 4
  return config
