"""SRFlow-DA x4: deep convolutional blocks in the couplings. `base` is this model."""

from configs import base


def get_config():
  config = base.get_config()
  return config
