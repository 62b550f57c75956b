"""SRFlow-DA x4 on the encoder that the repository carries, trained on DF2K: weights/README.md."""

from configs import x4_da


def get_config():
  config = x4_da.get_config()
  config.optim.encoder_init = "realsr"
  config.model.encoder.global_skip = "first_conv"  # what its weights were trained with
  return config
