"""The configuration that a workdir holds, to train on with: `--config=configs/workdir.py:W`."""

import pathlib

from flax.traverse_util import flatten_dict

from configs import base
from srflow_jax.errors import InputError
from srflow_jax.runs import read_config


def get_config(workdir):
  config = read_config(pathlib.Path(workdir))
  fields = (set(flatten_dict(c.to_dict(), sep=".")) for c in (base.get_config(), config))
  missing = sorted(field for field in set.difference(*fields) if not field.startswith("model."))
  if missing:  # a model's own fields depend on its kind, and are checked where it is built
    raise InputError(f"{workdir} is of an earlier version: its config.json has no {missing[0]}")
  return config
