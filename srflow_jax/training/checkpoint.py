"""What a run leaves in its workdir, and how it is read again.

W/config.json     the resolved configuration
W/checkpoints/N/  after N steps: `params`, `ema` if there is one, and `rest` (all else that
                  training needs)
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp

from srflow_jax.errors import InputError
from srflow_jax.model import SRFlow, abstract_params, build_model
from srflow_jax.training.step import TrainState

# Fields that a run may change when it goes on; all others decide what its numbers mean.
MAY_CHANGE = ("num_train_steps", "log_every_steps", "eval_every_steps", "checkpoint_every_steps")
MAY_CHANGE += ("keep_checkpoints", "eval_temperature", "data.cache_mb", "data.num_workers")


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained model.

  Attributes:
    config: the configuration that it was trained with.
    model: the model, built from it.
    params: the parameters of the latest checkpoint.
    step: the steps that made them.
  """

  config: ml_collections.ConfigDict
  model: SRFlow
  params: dict[str, Any]
  step: int


def _plain(value: Any) -> Any:
  """A configuration's value as JSON would give it back."""
  return json.loads(json.dumps(value))


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
  if not isinstance(config, dict):
    return {prefix: config}
  flat = {}
  for key, value in config.items():
    flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
  return flat


def config_differences(old: Any, new: Any) -> list[str]:
  """The fields in which two configurations differ, as "field: old → new", may-change ones aside."""
  old, new = (_flat(_plain(config.to_dict())) for config in (old, new))
  return [
    f"{field}: {old.get(field)!r} → {new.get(field)!r}"
    for field in sorted(old | new)
    if field not in MAY_CHANGE and old.get(field) != new.get(field)
  ]


def write_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
  """Writes the configuration, whole or not at all."""
  path = workdir / "config.json"
  partial = path.with_suffix(".json.partial")
  partial.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
  os.replace(partial, path)


def read_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
  """Reads a workdir's configuration.

  Raises:
    InputError: there is no such folder, it holds no run, or its configuration is damaged.
  """
  path = workdir / "config.json"
  if not workdir.is_dir():
    raise InputError(f"no such workdir: {workdir}")
  if not path.is_file():
    raise InputError(f"no run in {workdir}: it holds no config.json")
  try:
    return ml_collections.ConfigDict(json.loads(path.read_text())).lock()
  except (ValueError, TypeError) as error:
    raise InputError(f"{path}: not a configuration: {error}") from error


def checkpoint_manager(workdir: pathlib.Path, keep: int | None = None) -> ocp.CheckpointManager:
  """Orbax's manager of a workdir's checkpoints; `keep` the latest so many (None: all)."""
  options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=keep is not None)
  handlers = {item: ocp.StandardCheckpointHandler() for item in ("params", "ema", "rest")}
  folder = (workdir / "checkpoints").resolve()
  return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


def has_checkpoint(workdir: pathlib.Path) -> bool:
  """Whether a workdir holds a checkpoint."""
  if not (workdir / "checkpoints").is_dir():
    return False
  with checkpoint_manager(workdir) as manager:
    return manager.latest_step() is not None


def _items(state: TrainState) -> dict[str, Any]:
  """A state as items: parameters and their average, all that evaluation needs, by themselves."""
  rest = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
  items = {"params": rest.pop("params"), "ema": rest.pop("ema"), "rest": rest}
  return {name: item for name, item in items.items() if item}


def save(manager: ocp.CheckpointManager, state: TrainState) -> None:
  """Begins to save a state under its step; training may go on meanwhile."""
  items = {name: ocp.args.StandardSave(item) for name, item in _items(state).items()}
  manager.save(int(state.step), args=ocp.args.Composite(**items))


def restore(manager: ocp.CheckpointManager, like: TrainState) -> TrainState:
  """Restores the latest checkpoint with the shapes, types and sharding of `like`."""
  items = {name: ocp.args.StandardRestore(item) for name, item in _items(like).items()}
  saved = manager.restore(manager.latest_step(), args=ocp.args.Composite(**items))
  return TrainState(params=saved["params"], ema=saved.get("ema", {}), **saved["rest"])


def with_sharding(tree: Any, sharding: jax.sharding.Sharding) -> Any:
  """A tree of shapes and types, to be restored with a sharding."""
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
  )


def _check_shapes(like: Any, saved: Any, where: pathlib.Path) -> None:
  wanted, found = (
    {
      jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
      for path, leaf in leaves
    }
    for leaves in (jax.tree_util.tree_leaves_with_path(tree) for tree in (like, saved))
  )
  for name in sorted(wanted.keys() | found.keys()):
    if wanted.get(name) != found.get(name):
      raise InputError(
        f"{where} is of another configuration than its config.json: {name} has shape "
        f"{found.get(name)}, the model's is {wanted.get(name)}"
      )


def load_run(workdir: str | os.PathLike) -> Run:
  """Loads the model of a workdir with the parameters of its latest checkpoint.

  Raises:
    InputError: there is no run, no checkpoint, or one that does not fit the configuration.
  """
  workdir = pathlib.Path(workdir)
  config = read_config(workdir)
  model = build_model(config.model)
  folder = workdir / "checkpoints"
  if not folder.is_dir():
    raise InputError(f"no checkpoint in {workdir}")
  with checkpoint_manager(workdir) as manager:
    step = manager.latest_step()
    if step is None:
      raise InputError(f"no checkpoint in {workdir}")
    like = abstract_params(model)
    _check_shapes(like, manager.item_metadata(step)["params"].tree, folder / str(step))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    items = {"params": ocp.args.StandardRestore(with_sharding(like, device))}
    params = manager.restore(step, args=ocp.args.Composite(**items))["params"]
  return Run(config, model, params, step)
