"""The configuration that a workdir holds, to train on with: `--config=configs/workdir.py:W`."""

import pathlib

from flax.traverse_util import flatten_dict

from configs import base
from srflow_jax.errors import InputError
from srflow_jax.training.workdir import read_config


def get_config(workdir):
  config = read_config(pathlib.Path(workdir))
  fields = (flatten_dict(c.to_dict(), sep=".") for c in (base.get_config(), config))
  if missing := sorted(set.difference(*map(set, fields))):
    raise InputError(f"{workdir} is of an earlier version: its config.json has no {missing[0]}")
  return config
