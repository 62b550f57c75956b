"""What a run's parameters start from: `optim.encoder_init` and `optim.flow_init`."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax.traverse_util

from srflow_jax.checkpoints import load_run
from srflow_jax.config import Config
from srflow_jax.errors import InputError
from srflow_jax.model.building import abstract_params
from srflow_jax.model.model import Model
from srflow_jax.weights import named
from srflow_jax.weights.checkpoint_file import differences, read_checkpoint

Params = dict[str, Any]


def starting_params(config: Config, model: Model) -> Params:
  """The parameters that are not drawn, as `optim.encoder_init` and `optim.flow_init` say.

  Args:
    config: the whole configuration.
    model: its model.

  Returns:
    {"encoder": weights, "flow": weights}, without a part that starts at random. The flow may lack
    some of its arrays.

  Raises:
    InputError: weights cannot be read; the encoder's were trained with another scale or, taps
      aside, another `model.encoder`, so that they are never used with a global skip other than
      their own; or the flow's have another scale, or no array of a name and shape of this one's.
  """
  return _encoder(config) | _flow(config, model)


def _encoder(config: Config) -> Params:
  """The encoder, or {}."""
  source = config.optim.encoder_init
  if not source:
    return {}
  with _named("config.optim.encoder_init"):
    if _is_workdir(source):
      run = load_run(source)
      if lines := differences(config.model, run.config.model, encoder_only=True):
        raise InputError("\n".join(f"{source}: {line}" for line in lines))
      return {"encoder": run.params["encoder"]}
    return read_checkpoint(source, config.model, encoder_only=True).params


def _flow(config: Config, model: Model) -> Params:
  """Those arrays of the other flow that have a name and shape of this model's, or {}."""
  source = config.optim.flow_init
  if not source:
    return {}
  with _named("config.optim.flow_init"):
    block, params = _read(source)
    if block["scale"] != config.model.scale:
      raise InputError(
        f"{source}: config.model.scale is {config.model.scale}, not {block['scale']}"
      )
    theirs = flax.traverse_util.flatten_dict(params.get("flow", {}))
    ours = flax.traverse_util.flatten_dict(abstract_params(model).get("flow", {}))
    same = {path: theirs[path] for path, leaf in ours.items() if _shape(theirs, path) == leaf.shape}
    if not same:
      raise InputError(f"{source}: no array of a name and shape of this flow's")
  return {"flow": flax.traverse_util.unflatten_dict(same)}


@contextlib.contextmanager
def _named(field: str) -> Iterator[None]:
  """Puts a field's name before each line of an `InputError`."""
  try:
    yield
  except InputError as error:
    lines = str(error).split("\n")
    raise InputError("\n".join(f"{field}: {line}" for line in lines)) from None


def _read(source: str) -> tuple[Mapping[str, Any], Params]:
  """A `model` block and all parameters of a workdir, of a file or of a name."""
  if _is_workdir(source):
    run = load_run(source)
    return run.config.model, run.params
  found = read_checkpoint(source)
  return found.model_config, found.params


def _is_workdir(source: str) -> bool:
  return source not in named.FINDERS and pathlib.Path(source).is_dir()


def _shape(arrays: Mapping[tuple[str, ...], Any], path: tuple[str, ...]) -> tuple[int, ...] | None:
  return arrays[path].shape if path in arrays else None


def flow_line(model: Model, given: Params) -> str:
  """How much of a flow does not start at random, and which of its parts do, in one line."""
  ours = flax.traverse_util.flatten_dict(abstract_params(model)["flow"])
  drawn = ours.keys() - flax.traverse_util.flatten_dict(given["flow"]).keys()
  parts = sorted({"/".join(path[:2]) for path in drawn})
  rest = f"; drawn from the seed: parts of {', '.join(parts)}" if parts else ""
  return f"flow: {len(ours) - len(drawn)} of {len(ours)} arrays from optim.flow_init{rest}"
