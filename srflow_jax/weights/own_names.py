"""Weights files with our own names: each parameter under its path, as `flow/stages_0/prior/bias`.

Models with a part that no published model has are written so. Their files hold the `model` block in
the header, which tells how to build the model.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from srflow_jax.errors import InputError
from srflow_jax.model.building import abstract_params
from srflow_jax.model.model import Model

_MAX_LINES = 20  # how many faults of a file's tensors are named


def are_own_names(names: Iterable[str]) -> bool:
  """Whether a file with tensors of these names is written in our own."""
  return all(name.startswith(("encoder/", "flow/")) for name in names)


def to_state_dict(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """A model's parameters, or some parts of them, by their names."""
  return {name: np.asarray(leaf) for name, leaf in flatten_dict(dict(params), sep="/").items()}


def from_state_dict(
  model: Model, tensors: Mapping[str, np.ndarray], parts: Iterable[str]
) -> dict[str, Any]:
  """A model's parameters from tensors by our names.

  Args:
    model: the model.
    tensors: the tensors; of parts that are not asked for, they are passed over.
    parts: the parts of the parameters.

  Raises:
    InputError: tensors are missing, surplus or misshapen; a line for each.
  """
  wanted = abstract_params(model)
  wanted = flatten_dict({part: wanted[part] for part in parts}, sep="/")
  given = {name: array for name, array in tensors.items() if name.partition("/")[0] in parts}
  lines = [f"missing tensor {name}" for name in sorted(wanted.keys() - given.keys())]
  lines += [f"surplus tensor {name}" for name in sorted(given.keys() - wanted.keys())]
  lines += [
    f"tensor {name} has shape {given[name].shape}, the model's is {leaf.shape}"
    for name, leaf in wanted.items()
    if name in given and given[name].shape != leaf.shape
  ]
  if lines:
    raise InputError("\n".join(lines[:_MAX_LINES]))
  flat = {name: jnp.asarray(array, jnp.float32) for name, array in given.items()}
  return unflatten_dict(flat, sep="/")
