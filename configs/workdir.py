"""The configuration that a workdir holds, to train on with: `--config=configs/workdir.py:W`."""

import pathlib

from srflow_jax.training.workdir import read_config


def get_config(workdir):
  return read_config(pathlib.Path(workdir))
