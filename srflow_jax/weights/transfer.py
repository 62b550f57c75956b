"""Published weights into a workdir, and a workdir's weights into a file of published names."""

import hashlib
import os
import pathlib
import secrets
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from srflow_jax import checkpoints
from srflow_jax.config import read_config
from srflow_jax.errors import InputError
from srflow_jax.listing import check_utf8
from srflow_jax.model.building import build_model, count_parameters
from srflow_jax.runs import note_import, workdir_path, write_config
from srflow_jax.weights import files, named, own_names, rrdb_names
from srflow_jax.weights.checkpoint_file import differences, read_checkpoint
from srflow_jax.weights.loading import load_model
from srflow_jax.weights.published import has_published_names, to_state_dict, unused_tensors

Config = ml_collections.ConfigDict


def import_weights(
  source: str, workdir: str, config: Config | None, shipped: Mapping[str, Config]
) -> str:
  """Makes a workdir that can be trained on and evaluated, of published weights.

  Args:
    source: a file or name that `files.read` takes.
    workdir: the folder to make; it may exist if it is empty.
    config: the configuration to train on with, whose model the file must hold; None to take the
      shipped one that is nearest, with the file's model.
    shipped: those, by name.

  Returns:
    What to tell the user.

  Raises:
    InputError: the file or the folder cannot be used. Nothing has then been written.
  """
  folder = workdir_path(workdir)
  try:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
      raise InputError(f"{folder} exists and is not an empty folder")
  except OSError as error:
    raise InputError(f"{folder}: cannot be read: {error.strerror or error}") from None
  if config is not None:
    build_model(read_config(config).model)  # what is wrong with the configuration is said first
  found = read_checkpoint(source, config.model if config else None)
  if config is None:
    name = min(shipped, key=lambda name: len(differences(shipped[name].model, found.model_config)))
    config = ml_collections.ConfigDict(shipped[name].to_dict())
    config.model = ml_collections.ConfigDict(_with_kinds(found.model_config, config.model))
    settings = f"with the settings of {name}"
  else:
    config = ml_collections.ConfigDict(config.to_dict())
    settings = "with the settings given"
  config.optim.encoder_init = config.optim.flow_init = ""  # they have started
  _write_run(folder, config, found.params, found.sources)
  sizes = (f"{part} {count_parameters(tree):,}" for part, tree in found.params.items())
  skip = config.model.encoder.get("global_skip")
  skip = f", global skip from {skip}" if skip else ""
  return "\n".join(
    (
      f"{source}: x{config.model.scale}, {', '.join(sizes)} parameters{skip}; {settings}",
      *found.notes,
      f"evaluate it:  python evaluate.py --workdir={workdir}",
      f"train it on:  python train.py --config=configs/workdir.py:{workdir} --workdir={workdir}",
    )
  )


def _with_kinds(model: Mapping[str, Any], shipped: Config) -> dict[str, Any]:
  """A `model` block with the kinds of its parts, which tensors do not show: the shipped ones."""
  full = shipped.to_dict()
  for key, value in model.items():
    kind = full[key].get("kind") if isinstance(full.get(key), dict) else None
    full[key] = {"kind": kind} | value if kind is not None and isinstance(value, Mapping) else value
  return full


def export_weights(
  workdir: str,
  file: str,
  float16: bool = False,
  facts: Mapping[str, str] | None = None,
  encoder: str = "",
  overwrite: bool = False,
) -> str:
  """Writes the weights of a workdir's latest checkpoint, in published names where they exist.

  Args:
    workdir: a run of a flow or of an RRDB, or a name of `named.FINDERS`.
    file: the `.safetensors` to write.
    float16: rounds the weights to 16 bits, which halves the file.
    facts: more texts for the file's header, as "licence" and "origin".
    encoder: a name of `named.SHIPPED`, if the file shall hold the flow alone, in our own names:
      who reads it takes that encoder, which must be the one that the run has.
    overwrite: whether a file that is there is replaced.

  Returns:
    What to tell the user.

  Raises:
    InputError: the run cannot be read, a fact is not UTF-8, or the file cannot be written.
  """
  path = pathlib.Path(file)
  if path.suffix != ".safetensors":
    raise InputError(f"{path}: must end in .safetensors")
  if not os.path.isdir(path.parent):
    raise InputError(f"{path}: no such folder: {path.parent}")
  if os.path.lexists(path) and not overwrite:
    raise InputError(f"{path} is there already: give another --file, or --overwrite")
  for name, text in (facts or {}).items():
    check_utf8(text, f"--{name}={text}")
  run = load_model(workdir)
  if encoder:
    _check_encoder(run, encoder)
    tensors = own_names.to_state_dict({"flow": run.params["flow"]})
    _write(path, tensors, run, float16, dict(facts or {}) | {files.ENCODER_KEY: encoder})
    return (
      f"{path}: {len(tensors)} tensors, in our own names: the flow alone, its encoder {encoder}"
    )
  if not has_published_names(run.model):
    tensors = own_names.to_state_dict(run.params)
    _write(path, tensors, run, float16, facts)
    return f"{path}: {len(tensors)} tensors, in our own names: no published model has all its parts"
  # An RRDB alone gets names that its skip was published with.
  skip = run.model.encoder_part.get("global_skip")
  alone = rrdb_names.BASICSR if skip == "first_conv" else rrdb_names.ESRGAN
  names = rrdb_names.SRFLOW if run.model.stochastic else alone
  tensors = to_state_dict(run.model, run.params, names)
  if run.model.stochastic:
    tensors |= unused_tensors(run.model)
  _write(path, tensors, run, float16, facts)
  lines = [f"{path}: {len(tensors)} tensors, the encoder's in {names.label}'s names"]
  others = {"last_block": "first_conv", "first_conv": "last_block"}[skip]
  if names.global_skip != skip:
    lines.append(
      f"warning: the encoder's global skip is from {skip}, as the file's header says; programs "
      f"that read such names and skip from {others} compute other images"
    )
  return "\n".join(lines)


def _check_encoder(run: checkpoints.Run, name: str) -> None:
  """Refuses to write a flow alone unless its encoder is the named one, up to float16's rounding."""
  if name not in named.SHIPPED:
    raise InputError(f"encoder {name!r} is none of {', '.join(named.SHIPPED)}")
  if "flow" not in run.params:
    raise InputError("the run has no flow that could be written alone")
  try:
    theirs = read_checkpoint(name, run.config.model, encoder_only=True).params["encoder"]
  except InputError as error:
    raise InputError(f"the run's encoder is not {name}: {error}") from None
  for (place, own), other in zip(
    jax.tree_util.tree_leaves_with_path(run.params["encoder"]), jax.tree.leaves(theirs), strict=True
  ):
    if not np.allclose(own, other, rtol=2**-10, atol=1e-6):
      where = jax.tree_util.keystr(place, simple=True, separator="/")
      raise InputError(f"the run's encoder is not {name}, but was trained on: encoder/{where}")


def _write(
  path: pathlib.Path,
  tensors: Mapping[str, np.ndarray],
  run: checkpoints.Run,
  float16: bool,
  facts: Mapping[str, str] | None,
) -> None:
  if float16:
    tensors = {name: _float16(path, name, array) for name, array in tensors.items()}
  plugins = {files.PLUGINS_KEY: ",".join(run.config.plugins)} if run.config.plugins else {}
  files.write(path, tensors, run.config.model.to_dict(), dict(facts or {}) | plugins)


def _float16(path: pathlib.Path, name: str, array: np.ndarray) -> np.ndarray:
  with np.errstate(over="ignore"):
    half = array.astype(np.float16)
  if not np.isfinite(half).all():
    raise InputError(f"{path}: tensor {name} has values too large for float16")
  return half


def _write_run(
  folder: pathlib.Path, config: Config, params: Mapping[str, Any], sources: Sequence[str]
) -> None:
  """Writes a run of 0 steps, whole or not at all, with a note of where it comes from."""
  partial = None
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    own = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.partial")
    own.mkdir()  # which fails if it is there
    partial = own
    write_config(partial, config)
    note_import(partial, _origin(sources))
    with checkpoints.writer(partial, keep=1) as writer:
      writer.save(0, {"params": jax.tree.map(jnp.asarray, dict(params))})
    os.replace(partial, folder)
  except OSError as error:
    raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None
  finally:
    if partial is not None:
      shutil.rmtree(partial, ignore_errors=True)


def _origin(sources: Sequence[str]) -> dict[str, Any]:
  paths = [path for source in sources for path in files.paths(source)]
  return {path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in paths}
