"""The conditional flow: steps, stages, the whole. The only place that knows the order of layers.

Layers are listed in the order in which they run image → latents.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from srflow_jax.model.bijectors import (
  ActNorm,
  Coupling,
  Injector,
  InvertibleConv1x1,
  Split,
  squeeze,
  unsqueeze,
)
from srflow_jax.model.encoders import Features
from srflow_jax.model.nets import ConditionerSpec
from srflow_jax.ops.repeated import repeated

Array = jax.Array
Latents = tuple[Array, ...]
# Stacked along the first axis, a stage's steps' injectors' (shift, scale), and the parts of their
# coupling nets' first convolutions that see the features. () for a stage without steps.
StageContext = tuple[tuple[Array, Array], Array] | tuple[()]


@dataclasses.dataclass(frozen=True)
class StageSpec:
  """One stage of a flow.

  Attributes:
    squeeze: folds blocks of so many pixels a side into channels first; 1 for none.
    transition_steps: unconditional steps (actnorm, 1x1 convolution) after that.
    steps: conditional steps (actnorm, 1x1 convolution, injector, coupling) after those.
    split: factors out half of the channels at the end.
  """

  squeeze: int
  transition_steps: int
  steps: int
  split: bool

  def __post_init__(self) -> None:
    if self.squeeze < 1 or self.squeeze & (self.squeeze - 1):
      raise ValueError(f"a stage's squeeze must be a power of two: {self}")
    if self.transition_steps < 0 or self.steps < 0:
      raise ValueError(f"a stage cannot have fewer than 0 steps: {self}")

  def out_channels(self, channels: int) -> int:
    """Channels that leave the stage (its latent aside) when `channels` enter it."""
    channels *= self.squeeze**2
    return channels - channels // 2 if self.split else channels


class TransitionStep(nn.Module):
  """Actnorm, then 1x1 convolution."""

  def setup(self) -> None:
    self.actnorm = ActNorm()
    self.conv1x1 = InvertibleConv1x1()

  def forward_and_log_det(self, z: Array) -> tuple[Array, Array]:
    """Maps z `[B, h, w, C]`."""
    z, log_det_actnorm = self.actnorm.forward_and_log_det(z)
    z, log_det_conv = self.conv1x1.forward_and_log_det(z)
    return z, log_det_actnorm + log_det_conv

  def inverse_and_log_det(self, z: Array) -> tuple[Array, Array]:
    """Maps it back."""
    z, log_det_conv = self.conv1x1.inverse_and_log_det(z)
    z, log_det_actnorm = self.actnorm.inverse_and_log_det(z)
    return z, log_det_conv + log_det_actnorm


class ConditionalStep(nn.Module):
  """Actnorm, 1x1 convolution, injector, coupling. Its methods have the form that scans ask for."""

  channels: int
  conditioner: ConditionerSpec
  feature_channels: int

  def setup(self) -> None:
    self.linear = TransitionStep()
    self.injector = Injector(self.channels, self.conditioner, self.feature_channels)
    self.coupling = Coupling(self.channels, self.conditioner, self.feature_channels)

  def feature_kernel(self, carry: None) -> tuple[None, Array]:
    """The kernel `[3, 3, feature_channels, 2 * width]` of the first convolutions over the features.

    The injector's comes first, then the coupling's.
    """
    kernels = self.injector.net.feature_kernel(), self.coupling.net.feature_kernel()
    return carry, jnp.concatenate(kernels, -1)

  def condition(self, carry: None, hidden: Array) -> tuple[None, tuple[Array, Array]]:
    """The injector's shift and scale, from its net's first convolution of the features."""
    return carry, self.injector.condition(hidden)

  def forward_and_log_det(self, z: Array, context: StageContext) -> tuple[Array, Array]:
    """Maps z `[B, h, w, C]`."""
    affine, hidden = context
    z, log_det_linear = self.linear.forward_and_log_det(z)
    z, log_det_injector = self.injector.forward_and_log_det(z, affine)
    z, log_det_coupling = self.coupling.forward_and_log_det(z, hidden)
    return z, log_det_linear + log_det_injector + log_det_coupling

  def inverse_and_log_det(self, z: Array, context: StageContext) -> tuple[Array, Array]:
    """Maps it back."""
    affine, hidden = context
    z, log_det_coupling = self.coupling.inverse_and_log_det(z, hidden)
    z, log_det_injector = self.injector.inverse_and_log_det(z, affine)
    z, log_det_linear = self.linear.inverse_and_log_det(z)
    return z, log_det_coupling + log_det_injector + log_det_linear


class Stage(nn.Module):
  """Squeeze, transition steps, conditional steps, split (each as its spec says)."""

  spec: StageSpec
  channels: int  # that enter the stage
  conditioner: ConditionerSpec
  feature_channels: int
  remat: bool = False  # keep only what passes between conditional steps for the backward pass

  def setup(self) -> None:
    channels = self.channels * self.spec.squeeze**2
    both_ways = {"forward_and_log_det": False, "inverse_and_log_det": True}
    if self.spec.transition_steps:
      self.transitions = repeated(TransitionStep, self.spec.transition_steps, both_ways)()
    step = ConditionalStep
    if self.remat:
      step = nn.remat(step, prevent_cse=False, methods=("condition", "forward_and_log_det"))
    if self.spec.steps:
      methods = {"feature_kernel": False, "condition": False} | both_ways
      steps = repeated(step, self.spec.steps, methods)
      self.steps = steps(channels, self.conditioner, self.feature_channels)
    if self.spec.split:
      self.split = Split()

  def condition(self, features: Features) -> StageContext:
    """The context of the stage's steps.

    The first convolutions of all of them over the features are one convolution, so the features'
    many channels are read once.
    """
    if not self.spec.steps:
      return ()
    _, kernels = self.steps.feature_kernel(None)
    hidden = features.convolve(jnp.concatenate([*kernels], -1))
    hidden = jnp.split(hidden, 2 * len(kernels), -1)
    injectors, couplings = jnp.stack(hidden[::2]), jnp.stack(hidden[1::2])
    return self.steps.condition(None, injectors)[1], couplings

  def _steps(self, context: StageContext) -> list[tuple[nn.Module, tuple[StageContext, ...]]]:
    """The stage's transition and conditional steps, and what they take beside z."""
    transitions = [(self.transitions, ())] if self.spec.transition_steps else []
    return [*transitions, (self.steps, (context,))] if self.spec.steps else transitions

  def forward_and_log_det(
    self, z: Array, context: StageContext
  ) -> tuple[Array, Array | None, Array]:
    """Maps z `[B, H, W, channels]` to what goes on, the latent if the stage splits, log-det."""
    z = squeeze(z, self.spec.squeeze)
    log_det = jnp.zeros(z.shape[0], z.dtype)
    for steps, contexts in self._steps(context):
      z, log_dets = steps.forward_and_log_det(z, *contexts)
      log_det += jnp.sum(log_dets, 0)
    if not self.spec.split:
      return z, None, log_det
    z, latent, split_log_det = self.split.forward_and_log_det(z)
    return z, latent, log_det + split_log_det

  def inverse_and_log_det(
    self, z: Array, latent: Array | None, context: StageContext
  ) -> tuple[Array, Array]:
    """Maps it back."""
    log_det = jnp.zeros(z.shape[0], z.dtype)
    if self.spec.split:
      z, split_log_det = self.split.inverse_and_log_det(z, latent)
      log_det += split_log_det
    for steps, contexts in self._steps(context)[::-1]:
      z, log_dets = steps.inverse_and_log_det(z, *contexts)
      log_det += jnp.sum(log_dets, 0)
    return unsqueeze(z, self.spec.squeeze), log_det


class ConditionalFlow(nn.Module):
  """Stages from an image `[B, H, W, 3]` to a tuple of standard-normal latents, finest first.

  H and W must be multiples of the last of `downscales`.
  """

  stage_specs: tuple[StageSpec, ...]
  conditioner: ConditionerSpec
  feature_channels: int
  remat: bool = False

  def setup(self) -> None:
    stages, channels = [], 3
    for spec in self.stage_specs:
      stages.append(Stage(spec, channels, self.conditioner, self.feature_channels, self.remat))
      channels = spec.out_channels(channels)
    self.stages = stages

  @property
  def downscales(self) -> tuple[int, ...]:
    """HR size over each stage's size: the product of the squeezes so far."""
    result, downscale = [], 1
    for spec in self.stage_specs:
      downscale *= spec.squeeze
      result.append(downscale)
    return tuple(result)

  def latent_shapes(self, batch: int, height: int, width: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of the latents of images `[batch, height, width, 3]`."""
    shapes, channels = [], 3
    for spec, downscale in zip(self.stage_specs, self.downscales, strict=True):
      size = (batch, height // downscale, width // downscale)
      squeezed, channels = channels * spec.squeeze**2, spec.out_channels(channels)
      if spec.split:
        shapes.append((*size, squeezed - channels))
    return (*shapes, (*size, channels))

  def condition(self, features: dict[int, Features]) -> tuple[StageContext, ...]:
    """All stages' contexts, from features at each of `downscales`."""
    return tuple(
      stage.condition(features[downscale])
      for stage, downscale in zip(self.stages, self.downscales, strict=True)
    )

  def forward_by_stage(
    self, hr: Array, context: tuple[StageContext, ...]
  ) -> tuple[Latents, tuple[Array, ...]]:
    """Image `[B, H, W, 3]` → latents and the log-det of each stage, `[B]`, nats."""
    z, latents, log_dets = hr, [], []
    for stage, stage_context in zip(self.stages, context, strict=True):
      z, latent, log_det = stage.forward_and_log_det(z, stage_context)
      log_dets.append(log_det)
      if latent is not None:
        latents.append(latent)
    return (*latents, z), tuple(log_dets)

  def forward_and_log_det(
    self, hr: Array, context: tuple[StageContext, ...]
  ) -> tuple[Latents, Array]:
    """Image `[B, H, W, 3]` → latents and log-det `[B]`, nats."""
    latents, log_dets = self.forward_by_stage(hr, context)
    return latents, sum(log_dets)

  def inverse_and_log_det(
    self, latents: Latents, context: tuple[StageContext, ...]
  ) -> tuple[Array, Array]:
    """Latents → image and the log-det of that map."""
    *latents, z = latents
    log_det = jnp.zeros(z.shape[0], z.dtype)
    for stage, stage_context in zip(self.stages[::-1], context[::-1], strict=True):
      latent = latents.pop() if stage.spec.split else None
      z, stage_log_det = stage.inverse_and_log_det(z, latent, stage_context)
      log_det += stage_log_det
    return z, log_det
