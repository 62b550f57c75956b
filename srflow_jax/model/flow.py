"""The conditional flow: its steps, its stages, and the whole. Only this file orders layers.

Layers are listed in the order in which they run image → latents.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from srflow_jax.model.bijectors import Grid, LogDet, squeeze, unsqueeze
from srflow_jax.model.features import Features, Given, convolve_all
from srflow_jax.model.kinds import Part
from srflow_jax.ops.repeated import repeated

Array = jax.Array
Latents = tuple[Array, ...]

_BOTH_WAYS = {"forward_and_log_det": False, "inverse_and_log_det": True}


@dataclasses.dataclass(frozen=True)
class StageSpec:
  """One stage of a flow.

  Attributes:
    squeeze: folds blocks of `squeeze` x `squeeze` pixels into channels first; 1 for none.
    transition_steps: how many transition steps come after that.
    steps: how many conditional steps come after those.
    split: factors out some of the channels at the end.
    keep: the channels that a split keeps; 0 for half of them, of odd numbers the larger part.
    transition: the layers of a transition step.
    step: the layers of a conditional step.
    prior: the prior of what the split factors out or, of the last stage, of what leaves it.
  """

  squeeze: int
  transition_steps: int
  steps: int
  split: bool
  keep: int
  transition: tuple[Part, ...]
  step: tuple[Part, ...]
  prior: Part

  def multiple_and_reach(self, has_prior: bool) -> tuple[int, int]:
    """What the sides of its images must be multiples of, and the furthest that a part reaches."""
    layers = [*self.transition * bool(self.transition_steps), *self.step * bool(self.steps)]
    made = [part.unbound(channels=2, feature_channels=1) for part in layers]
    if has_prior:
      made.append(self.prior.unbound(channels=2, kept_channels=1, feature_channels=1))
    return math.lcm(*(part.multiple for part in made)), max([0, *(part.reach for part in made)])

  def kept_channels(self, channels: int) -> int:
    """Channels that the split keeps of so many, all of them if there is no split."""
    if not self.split:
      return channels
    return self.keep or channels - channels // 2

  def out_channels(self, channels: int) -> int:
    """Channels that leave the stage (its latent aside) when `channels` enter it."""
    return self.kept_channels(channels * self.squeeze**2)


@struct.dataclass
class StageContext:
  """What a stage needs of the LR image, once for all samples.

  Attributes:
    transitions: of its transition steps' layers, stacked along the first axis.
    steps: of its conditional steps' layers, likewise.
    prior: of its prior.
  """

  transitions: Any
  steps: Any
  prior: Any


class Step(nn.Module):
  """Layers in a row. Its methods have the form that scans ask for."""

  layers: tuple[Part, ...]
  channels: int
  feature_channels: int

  def setup(self) -> None:
    for name, part in zip(layer_names(self.layers), self.layers, strict=True):
      layer = part(channels=self.channels, feature_channels=self.feature_channels)
      setattr(self, name, layer)

  def _layers(self) -> list[nn.Module]:
    return [getattr(self, name) for name in layer_names(self.layers)]

  def feature_kernels(self, carry: None) -> tuple[None, list[Array | None]]:
    """The layers' `feature_kernel`."""
    return carry, [layer.feature_kernel() for layer in self._layers()]

  def own_contexts(self, carry: None) -> tuple[None, list[Any]]:
    """The layers' `own_context`."""
    return carry, [layer.own_context() for layer in self._layers()]

  def condition(
    self, carry: None, convolved: list[Array | None], features: Features, given: Given
  ) -> tuple[None, list[Any]]:
    """The layers' contexts, from the features convolved with their kernels."""
    layers = zip(self._layers(), convolved, strict=True)
    return carry, [layer.condition(maps, features, given) for layer, maps in layers]

  def forward_and_log_det(self, z: Grid, context: list[Any]) -> tuple[Grid, LogDet]:
    """Maps z."""
    log_det = jnp.zeros(z.shape[0], z.dtype)
    for layer, layer_context in zip(self._layers(), context, strict=True):
      z, layer_log_det = layer.forward_and_log_det(z, layer_context)
      log_det += layer_log_det
    return z, log_det

  def inverse_and_log_det(self, z: Grid, context: list[Any]) -> tuple[Grid, LogDet]:
    """Maps it back."""
    log_det = jnp.zeros(z.shape[0], z.dtype)
    for layer, layer_context in zip(self._layers()[::-1], context[::-1], strict=True):
      z, layer_log_det = layer.inverse_and_log_det(z, layer_context)
      log_det += layer_log_det
    return z, log_det


def layer_names(layers: tuple[Part, ...]) -> list[str]:
  """Names of a step's layers: their kinds, numbered from the second of a kind."""
  names: list[str] = []
  for part in layers:
    count = sum(part.kind == other.kind for other in layers[: len(names)])
    names.append(f"{part.kind}_{count + 1}" if count else part.kind)
  return names


def steps_in_a_row(
  layers: tuple[Part, ...],
  times: int,
  channels: int,
  feature_channels: int,
  remat: bool = False,
  unroll: bool = False,
) -> nn.Module:
  """`times` equal steps in a row, as one module."""
  step = Step
  if remat:
    step = nn.remat(step, prevent_cse=False, methods=("condition", "forward_and_log_det"))
  methods = {"feature_kernels": False, "condition": False} | _BOTH_WAYS
  shared, batched = {"condition": 2}, ("own_contexts",)
  row = repeated(step, times, methods, shared, batched, unroll)
  return row(layers, channels, feature_channels)


def condition_steps(steps: nn.Module, features: Features, given: Given) -> list[Any]:
  """The contexts of the layers of steps in a row, stacked along the first axis."""
  _, kernels = steps.feature_kernels(None)
  _, own = steps.own_contexts(None)
  _, contexts = steps.condition(None, convolve_all(features, kernels), features, given)
  return [context if mine is None else mine for mine, context in zip(own, contexts, strict=True)]


class Stage(nn.Module):
  """Squeeze, transition steps, conditional steps, split and prior (each as its spec says)."""

  spec: StageSpec
  channels: int  # that enter the stage
  feature_channels: int
  is_last: bool
  remat: bool = False  # keep only what passes between steps for the backward pass
  unroll: bool = False  # lay the steps out one after the other

  def setup(self) -> None:
    spec, channels = self.spec, self.channels * self.spec.squeeze**2
    sizes = channels, self.feature_channels, self.remat, self.unroll
    if spec.transition_steps:
      self.transitions = steps_in_a_row(spec.transition, spec.transition_steps, *sizes)
    if spec.steps:
      self.steps = steps_in_a_row(spec.step, spec.steps, *sizes)
    self.kept = spec.kept_channels(channels)
    if spec.split or self.is_last:
      self.prior = spec.prior(
        channels=channels - self.kept if spec.split else channels,
        kept_channels=self.kept if spec.split else 0,
        feature_channels=self.feature_channels,
      )

  def condition(self, features: Features, given: Given) -> StageContext:
    """The context of the stage, from features of its resolution."""
    spec = self.spec
    return StageContext(
      transitions=condition_steps(self.transitions, features, given)
      if spec.transition_steps
      else None,
      steps=condition_steps(self.steps, features, given) if spec.steps else None,
      prior=self.prior.condition(features, given) if spec.split or self.is_last else None,
    )

  def _steps(self, context: StageContext) -> list[tuple[nn.Module, list[Any]]]:
    """The stage's steps that there are, with their contexts."""
    steps = [(self.transitions, context.transitions)] if self.spec.transition_steps else []
    return [*steps, (self.steps, context.steps)] if self.spec.steps else steps

  def forward_and_log_det(
    self, z: Array, context: StageContext
  ) -> tuple[Array | None, Array | None, Array]:
    """Maps z `[B, H, W, channels]`.

    Returns:
      What goes on to the next stage, None from the last stage; the latent, None from a stage
      without one; the log-det `[B]`.
    """
    z = squeeze(z, self.spec.squeeze)
    log_det = jnp.zeros(z.shape[0], z.dtype)
    for steps, steps_context in self._steps(context):
      z, log_dets = steps.forward_and_log_det(z, steps_context)
      log_det += jnp.sum(log_dets, 0)
    if self.spec.split:
      kept, rest = z[..., : self.kept], z[..., self.kept :]
    elif self.is_last:
      kept, rest = None, z
    else:
      return z, None, log_det
    latent, prior_log_det = self.prior.forward_and_log_det(rest, kept, context.prior)
    return kept, latent, log_det + prior_log_det

  def inverse_and_log_det(
    self, z: Array | None, latent: Array | None, context: StageContext
  ) -> tuple[Array, Array]:
    """Maps it back."""
    log_det = 0.0
    if latent is not None:
      rest, log_det = self.prior.inverse_and_log_det(latent, z, context.prior)
      z = rest if z is None else jnp.concatenate([z, rest], -1)
    assert z is not None  # nothing enters the last stage but its latent
    image: Array = z
    for steps, steps_context in self._steps(context)[::-1]:
      image, log_dets = steps.inverse_and_log_det(image, steps_context)
      log_det += jnp.sum(log_dets, 0)
    zeros = jnp.zeros(image.shape[0], image.dtype)
    return unsqueeze(image, self.spec.squeeze), log_det + zeros


class ConditionalFlow(nn.Module):
  """Stages from an image to a tuple of standard-normal latents, finest first.

  The image is `[B, H / downscale, W / downscale, channels]` of HR images `[B, H, W, 3]`. H and W
  must be multiples of the last of `downscales`.
  """

  stage_specs: tuple[StageSpec, ...]
  feature_channels: int
  remat: bool = False
  unroll: bool = False
  channels: int = 3
  downscale: int = 1

  def setup(self) -> None:
    stages, channels = [], self.channels
    for i, spec in enumerate(self.stage_specs):
      is_last = i == len(self.stage_specs) - 1
      how = self.remat, self.unroll
      stages.append(Stage(spec, channels, self.feature_channels, is_last, *how))
      channels = spec.out_channels(channels)
    self.stages = stages

  @property
  def downscales(self) -> tuple[int, ...]:
    """HR size over each stage's size: the flow's image's, times the squeezes so far."""
    result, downscale = [], self.downscale
    for spec in self.stage_specs:
      downscale *= spec.squeeze
      result.append(downscale)
    return tuple(result)

  def latent_shapes(self, batch: int, height: int, width: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of the latents of HR images `[batch, height, width, 3]`."""
    shapes, channels = [], self.channels
    for spec, downscale in zip(self.stage_specs, self.downscales, strict=True):
      size = (batch, height // downscale, width // downscale)
      squeezed, channels = channels * spec.squeeze**2, spec.out_channels(channels)
      if spec.split:
        shapes.append((*size, squeezed - channels))
    return (*shapes, (*size, channels))

  @property
  def latents_drawn(self) -> tuple[bool, ...]:
    """Of each latent, whether sampling draws it (`priors.Prior.is_drawn`)."""
    specs = [spec for spec in self.stage_specs[:-1] if spec.split]
    return tuple(spec.prior.cls.is_drawn for spec in (*specs, self.stage_specs[-1]))

  def condition(self, features: dict[int, Features], given: Given) -> tuple[StageContext, ...]:
    """All stages' contexts, from features at each of `downscales`."""
    return tuple(
      stage.condition(features[downscale], given)
      for stage, downscale in zip(self.stages, self.downscales, strict=True)
    )

  def forward_by_stage(
    self, image: Array, context: tuple[StageContext, ...]
  ) -> tuple[Latents, tuple[Array, ...]]:
    """Image → latents and the log-det of each stage, `[B]`, nats."""
    z, latents, log_dets = image, [], []
    for stage, stage_context in zip(self.stages, context, strict=True):
      z, latent, log_det = stage.forward_and_log_det(z, stage_context)
      log_dets.append(log_det)
      if latent is not None:
        latents.append(latent)
    return tuple(latents), tuple(log_dets)

  def inverse_and_log_det(
    self, latents: Latents, context: tuple[StageContext, ...]
  ) -> tuple[Array, Array]:
    """Latents → image and the log-det of that map."""
    left, z, log_det = list(latents), None, 0.0
    for stage, stage_context in zip(self.stages[::-1], context[::-1], strict=True):
      latent = left.pop() if stage.spec.split or stage.is_last else None
      z, stage_log_det = stage.inverse_and_log_det(z, latent, stage_context)
      log_det += stage_log_det
    return z, log_det  # pyright: ignore[reportReturnType] there is a stage, so both are arrays
