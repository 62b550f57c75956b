"""From a configuration to a model, and from a model to parameters."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from clu import parameter_overview

# For the kinds that they register:
import srflow_jax.model.attention
import srflow_jax.model.conditional_priors
import srflow_jax.model.couplings
import srflow_jax.model.residual_encoders  # noqa: F401
from srflow_jax import blocks
from srflow_jax.blocks import limited
from srflow_jax.errors import InputError
from srflow_jax.model import layers, targets
from srflow_jax.model.encoders import Encoder
from srflow_jax.model.features import Given
from srflow_jax.model.flow import StageSpec
from srflow_jax.model.kinds import Part, all_parts, read_part, read_parts
from srflow_jax.model.maps import Map
from srflow_jax.model.mixers import Mixer
from srflow_jax.model.model import ComputeSpec, Model
from srflow_jax.model.nets import Net
from srflow_jax.model.priors import Prior
from srflow_jax.model.srflow import SRFlow, SuperResolver

Array = jax.Array

SCALES = (2, 4, 8, 16)
MAX_SQUEEZE = 64

PUBLISHED_TRANSITION = ("actnorm", "mixer")
PUBLISHED_STEP = ("actnorm", "mixer", "injector", "coupling")
# Where the model's block says which part stands at a place unless a layer's own block says it.
_PLACES = {"map": Map, "mixer": Mixer, "conditioner": Net}


@dataclasses.dataclass(frozen=True)
class _ScaleField:
  """The scale of a model's block."""

  scale: int = limited(one_of=SCALES)


@dataclasses.dataclass(frozen=True)
class _StageFields:
  """The fields of a stage's block whose values are numbers; see `flow.StageSpec`."""

  squeeze: int = limited(one_of=tuple(2**i for i in range(MAX_SQUEEZE.bit_length())))
  transition_steps: int = limited(at_least=0, at_most=1024)
  steps: int = limited(at_least=0, at_most=1024)
  split: bool = limited()
  keep: int = limited(0, at_least=0)


def build_model(config: Any, compute: ComputeSpec | None = None) -> Model:
  """Builds the model of a configuration's `model` block.

  Args:
    config: the block, as `configs/base.py` describes it, of any mapping's type; a file may hold
      anything else in its place. Without stages the model is the encoder alone, and what belongs
      to the flow is not needed. Parts that it does not name are the published ones.
    compute: the configuration's `compute`, how the model computes; None: float32, all kept.

  Raises:
    InputError: a key is unknown or missing, a value is out of range, or parts do not fit.
  """
  where = "config.model"
  config = dict(blocks.as_mapping(config, where))
  known = ("scale", "encoder", "stages", *_PLACES, "transition", "step", "prior", "last_prior")
  known += ("target",)
  if unknown := sorted(set(config) - set(known)):
    raise InputError(f"unknown key {where}.{unknown[0]}: one of {', '.join(known)}")
  if missing := [key for key in ("scale", "encoder", "stages") if key not in config]:
    raise InputError(f"missing key {where}.{missing[0]}")
  if config["scale"] == 3:
    raise InputError(
      f"{where}.scale is 3: one of {', '.join(map(str, SCALES))} (3 needs squeezes by 3, which do "
      "not exist yet)"
    )
  scale = blocks.read(_ScaleField, {"scale": config["scale"]}, where).scale
  encoder = read_part(Encoder, config["encoder"], f"{where}.encoder")
  compute = compute or ComputeSpec()
  stages = config["stages"]
  if not isinstance(stages, list | tuple):
    raise InputError(f"{where}.stages is {stages!r}: it must be a list of stages")
  if not stages:
    if not encoder.cls.super_resolves:
      raise InputError(
        f"{where}.stages is empty, so the encoder is the model, but an encoder of kind "
        f"{encoder.kind} has no super-resolution of its own"
      )
    return SuperResolver(scale=scale, encoder_part=encoder, compute=compute)
  target = read_part(targets.Target, config.get("target", {}), f"{where}.target")
  if target.needs_super_resolution and not encoder.cls.super_resolves:
    raise InputError(
      f"{where}.target is {target.kind}, but an encoder of kind {encoder.kind} has no "
      "super-resolution of its own"
    )
  model = SRFlow(
    scale=scale,
    encoder_part=encoder,
    compute=compute,
    stage_specs=_read_stages(config, target.channels_and_downscale(scale), where),
    target=target,
  )
  if model.lr_multiple > 1 and not target.takes_padding:
    raise InputError(
      f"{where}.target is {target.kind}, whose images cannot be padded, but the flow's parts need "
      f"LR images of multiples of {model.lr_multiple} pixels"
    )
  return model


def _read_stages(
  config: Mapping[str, Any], shape: tuple[int, int], where: str
) -> tuple[StageSpec, ...]:
  """Reads a model's stages, with all that they take from the model's block.

  Args:
    config: the block.
    shape: of the flow's image, as `targets.Target.shape` says it.
    where: the block's place in the configuration.
  """
  defaults = {
    place: read_part(place, config.get(key, {}), f"{where}.{key}", {})
    for key, place in _PLACES.items()
    if key in config or key != "conditioner"
  }
  shared = {
    key: read_parts(layers.Layer, config.get(key, published), f"{where}.{key}", defaults)
    for key, published in (("transition", PUBLISHED_TRANSITION), ("step", PUBLISHED_STEP))
  } | {
    "prior": read_part(Prior, config.get("prior", {}), f"{where}.prior", defaults),
  }
  last_prior = config.get("last_prior", {"kind": "standard"})
  specs, (channels, downscale) = [], shape
  for i, stage in enumerate(config["stages"]):
    place = f"{where}.stages[{i}]"
    is_last = i == len(config["stages"]) - 1
    stage = dict(blocks.as_mapping(stage, place))
    own: dict[str, Any] = dict(shared)
    if is_last:
      own["prior"] = read_part(Prior, last_prior, f"{where}.last_prior", defaults)
    for key in ("transition", "step"):
      if key in stage:
        own[key] = read_parts(layers.Layer, stage.pop(key), f"{place}.{key}", defaults)
    if "prior" in stage:
      own["prior"] = read_part(Prior, stage.pop("prior"), f"{place}.prior", defaults)
    fields = blocks.read(_StageFields, stage, place)
    spec = StageSpec(**dataclasses.asdict(fields), **own)
    downscale *= spec.squeeze
    channels = _checked(spec, channels, is_last, config["scale"] / downscale, place)
    specs.append(spec)
  return tuple(specs)


def _checked(spec: StageSpec, channels: int, is_last: bool, enlargement: float, where: str) -> int:
  """Refuses what does not fit in a stage; returns how many channels leave it.

  Args:
    spec: the stage.
    channels: how many enter it.
    is_last: whether it is the last.
    enlargement: the size of its images over that of LR.
    where: its place in the configuration.
  """
  channels *= spec.squeeze**2
  if is_last and spec.split:
    raise InputError(f"{where}: the last of config.model.stages has no split")
  if is_last and spec.prior.cls.needs_kept(spec.prior.filled()):
    raise InputError(
      f"{where}: at the end of the flow no channels are kept for a {spec.prior.kind} prior to be "
      "given: give it 'features'"
    )
  if spec.split and not 0 < spec.kept_channels(channels) < channels:
    raise InputError(f"{where}: its split keeps {spec.kept_channels(channels)} of {channels}")
  if spec.split or is_last:
    given = channels - spec.kept_channels(channels) if spec.split else channels
    try:
      spec.prior.cls.check_place(given, enlargement)
    except ValueError as error:
      raise InputError(f"{where}: {error}") from error
  couples = any(
    issubclass(part.cls, layers.SplitCoupling)
    for times, step in ((spec.transition_steps, spec.transition), (spec.steps, spec.step))
    for part in step * bool(times)
  )
  if couples and channels < 2:
    raise InputError(f"{where}: a coupling needs two channels or more")
  return spec.kept_channels(channels)


@functools.partial(jax.jit, static_argnums=0)
def init_params(
  model: Model, key: Array, hr: Array, given: Given, kept: Mapping[str, Any] | None = None
) -> dict[str, Any]:
  """Initialises parameters, actnorms from one real batch.

  Args:
    model: the model.
    key: a PRNG key.
    hr: a batch as training sees it, `[B, H, W, 3]`.
    given: what the model is told of it.
    kept: parameters that are there already, such as `{"encoder": ...}`; they are kept.
  """
  _, variables = model.apply(
    {"params": dict(kept or {})},
    hr,
    given,
    rngs={"params": key},
    mutable=["params"],
    method="every_layer",
  )
  return dict(variables["params"])


def abstract_params(model: Model) -> dict[str, Any]:
  """The tree of a model's parameters as shapes and types; computes nothing."""
  # JAX makes the attributes of its configuration, and linen the hash of a module, as they run.
  tree = _traced_params(model, jax.config.jax_enable_x64)  # pyright: ignore
  return jax.tree.map(lambda leaf: leaf, tree)  # a copy: the caller may change it


@functools.lru_cache(maxsize=8)
def _traced_params(model: Model, x64: bool) -> dict[str, Any]:
  # Tracing a published flow takes seconds, and loading a run asks several times. Types of
  # parameters depend on JAX's x64 setting, hence the second argument.
  size = 2 * model.scale * model.lr_multiple
  hr = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  lr = jax.ShapeDtypeStruct((1, size // model.scale, size // model.scale, 3), jnp.float32)

  def init(key: Array, hr: Array, lr: Array) -> dict[str, Any]:
    return init_params(model, key, hr, Given(lr))

  return jax.eval_shape(init, jax.random.key(0), hr, lr)


def parts_of(model: Model) -> Iterator[Part]:
  """The kinds that a model is made of, those that are settings of others too."""
  parts: list[Any] = [model.encoder_part]
  if isinstance(model, SRFlow):
    parts.append(model.target)
    for spec in model.stage_specs:
      parts += [*spec.transition, *spec.step, spec.prior]
  return all_parts(parts)


def parameter_table(params: Any) -> str:
  """A table of every parameter's name, shape, type and size.

  Of layers in a row, the first axis counts the layers.
  """
  return parameter_overview.get_parameter_overview(params, include_stats=False)


def count_parameters(params: Any) -> int:
  """The number of trainable scalars in a tree of parameters."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
