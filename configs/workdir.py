"""The configuration that a workdir holds, to train on with: `--config=configs/workdir.py:W`."""

import ml_collections

from srflow_jax import runs
from srflow_jax.errors import InputError


def get_config(workdir=""):
  if not workdir:
    raise InputError("configs/workdir.py needs a run's folder: --config=configs/workdir.py:WORKDIR")
  config = runs.load_config(runs.workdir_path(workdir))
  return ml_collections.ConfigDict(config.to_dict()).lock()
