"""Trains a model; run again, the same command goes on where it stopped.

    python train.py --config=configs/x4_da.py --workdir=W --config.data.train_dir=PHOTOS

Any field of the configuration can be changed: `--config.model.stages[0].steps=4`. All fields stand
in `configs/base.py`.
"""

from absl import flags
from ml_collections import config_flags

from srflow_jax import cli
from srflow_jax.errors import InputError
from srflow_jax.training.loop import train

_CONFIG = config_flags.DEFINE_config_file("config", None, "A configuration file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
  """Trains as the flags say."""
  if len(argv) > 1:
    raise InputError(f"unexpected argument: {argv[1]}")
  train(_CONFIG.value, _WORKDIR.value)


if __name__ == "__main__":
  cli.run(main)
