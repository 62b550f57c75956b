"""What an encoder starts from: `optim.encoder_init`."""

import pathlib
from typing import Any

from srflow_jax.checkpoints import load_run
from srflow_jax.config import Config
from srflow_jax.errors import InputError
from srflow_jax.model.model import Model
from srflow_jax.weights import named
from srflow_jax.weights.checkpoint_file import differences, read_checkpoint


def starting_encoder(config: Config, model: Model) -> dict[str, Any]:
  """The encoder's weights as `optim.encoder_init` says.

  Args:
    config: the whole configuration.
    model: its model.

  Returns:
    {"encoder": weights}, or {} for a random start.

  Raises:
    InputError: they cannot be read, or were trained with another scale or, taps aside, another
      `model.encoder`. So weights are never used with a global skip other than their own.
  """
  source = config.optim.encoder_init
  if not source:
    return {}
  try:
    if source not in named.FINDERS and pathlib.Path(source).is_dir():
      run = load_run(source)
      if lines := differences(config.model, run.config.model, encoder_only=True):
        raise InputError("\n".join(f"{source}: {line}" for line in lines))
      return {"encoder": run.params["encoder"]}
    return read_checkpoint(source, config.model, encoder_only=True).params
  except InputError as error:
    lines = str(error).split("\n")
    raise InputError("\n".join(f"config.optim.encoder_init: {line}" for line in lines)) from None
