"""RRDB x8 by itself, trained with L1."""

from configs import rrdb_x4


def get_config():
  config = rrdb_x4.get_config()
  config.model.scale = 8
  return config
