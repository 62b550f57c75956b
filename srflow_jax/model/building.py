"""From a configuration to a model, and from a model to parameters."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from srflow_jax import blocks
from srflow_jax.errors import InputError
from srflow_jax.model.encoders import EncoderSpec
from srflow_jax.model.flow import StageSpec
from srflow_jax.model.model import ComputeSpec, Model, SRFlow, SuperResolver
from srflow_jax.model.nets import ConditionerSpec

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class _ModelBlock:
  """A configuration's `model` block."""

  scale: int = blocks.limited(one_of=(2, 4, 8, 16))
  encoder: EncoderSpec
  stages: tuple[StageSpec, ...]
  conditioner: ConditionerSpec | None = None


def _plain(block: Any) -> Any:
  return block.to_dict() if isinstance(block, ml_collections.ConfigDict) else block


def build_model(config: Mapping[str, Any], compute: Mapping[str, Any] | None = None) -> Model:
  """Builds the model of a configuration's `model` block.

  Args:
    config: `scale`, `encoder` (`EncoderSpec`), `conditioner` (`ConditionerSpec`) and `stages` (a
      sequence of `StageSpec`), as mappings. Without stages the model is the encoder alone, and
      `conditioner` is not needed.
    compute: the configuration's block of that name (`ComputeSpec`); None: float32, all kept.

  Raises:
    InputError: a key is unknown or missing, or a value is out of range.
  """
  block = blocks.read(_ModelBlock, _plain(config), "model")
  how = ComputeSpec() if compute is None else blocks.read(ComputeSpec, _plain(compute), "compute")
  if not block.stages:
    return SuperResolver(block.scale, block.encoder, how)
  if block.stages[-1].split:
    raise InputError("model.stages: the last has no split")
  if block.conditioner is None:
    raise InputError("missing key model.conditioner")
  return SRFlow(
    scale=block.scale,
    encoder_spec=block.encoder,
    conditioner_spec=block.conditioner,
    stage_specs=block.stages,
    compute=how,
  )


@functools.partial(jax.jit, static_argnums=0)
def init_params(
  model: Model, key: Array, hr: Array, lr: Array, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
  """Initialises parameters, actnorms from one real batch.

  Args:
    model: the model.
    key: a PRNG key.
    hr: a batch as training sees it, `[B, H, W, 3]`.
    lr: its LR images.
    given: parameters that are there already, such as `{"encoder": ...}`; they are kept.
  """
  _, variables = model.apply(
    {"params": dict(given or {})},
    hr,
    lr,
    rngs={"params": key},
    mutable=["params"],
    method="every_layer",
  )
  return variables["params"]


def abstract_params(model: Model) -> dict[str, Any]:
  """The tree of a model's parameters as shapes and types; computes nothing."""
  tree = _traced_params(model, jax.config.jax_enable_x64)
  return jax.tree.map(lambda leaf: leaf, tree)  # a copy: the caller may change it


@functools.lru_cache(maxsize=8)
def _traced_params(model: Model, x64: bool) -> dict[str, Any]:
  # Tracing a published flow takes seconds, and loading a run asks several times. Types of
  # parameters depend on JAX's x64 setting, hence the second argument.
  size = 2 * model.scale * model.lr_multiple
  hr = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  lr = jax.ShapeDtypeStruct((1, size // model.scale, size // model.scale, 3), jnp.float32)
  return jax.eval_shape(lambda *args: init_params(model, *args), jax.random.key(0), hr, lr)


def count_parameters(params: Any) -> int:
  """The number of trainable scalars in a tree of parameters."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
