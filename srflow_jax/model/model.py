"""Encoder and flow as one model of `p(hr | lr)`: likelihoods, latents and samples.

A `Context` holds all that depends on the LR image alone. Compute it once, with `condition`, then
ask of it as much as you like: `model.apply({"params": params}, ..., method="NAME")`.
"""

import dataclasses
import math
from typing import ClassVar

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from srflow_jax.model.encoders import Encoder, EncoderSpec
from srflow_jax.model.flow import ConditionalFlow, Latents, StageContext, StageSpec
from srflow_jax.model.nets import ConditionerSpec
from srflow_jax.ops.noise import normal_field

Array = jax.Array
Origin = tuple[int | Array, int | Array]  # row and column of an LR pixel


@flax.struct.dataclass
class Context:
  """All that depends on the LR image alone.

  Attributes:
    stages: for each stage, the injectors' shifts and scales and the LR part of the coupling nets'
      first convolutions, `[steps, B, h, w, channels]` each.
    hr_size: height and width of the image that the flow models.
    padded_size: the same, enlarged at the bottom and right to what the flow's squeezes divide.
  """

  stages: tuple[StageContext, ...]
  hr_size: tuple[int, int] = flax.struct.field(pytree_node=False)
  padded_size: tuple[int, int] = flax.struct.field(pytree_node=False)

  @property
  def batch(self) -> int:
    """Images in the batch."""
    return jax.tree.leaves(self.stages)[0].shape[1]


@dataclasses.dataclass(frozen=True)
class ComputeSpec:
  """How a model computes, which changes no parameter.

  Attributes:
    bfloat16: encoder and conditioners compute in bfloat16; the flow's variables, log-dets and the
      loss stay in float32.
    remat: the backward pass computes encoder blocks and flow steps again instead of keeping what
      they had computed.
  """

  bfloat16: bool = False
  remat: bool = False


@flax.struct.dataclass
class DensityParts:
  """What the log-density of images is the sum of, `[B]` each, nats.

  Attributes:
    log_dets: of each stage, finest first.
    latent_log_probs: of each latent under N(0, 1), finest first.
    latents: the latents.
  """

  log_dets: tuple[Array, ...]
  latent_log_probs: tuple[Array, ...]
  latents: Latents

  @property
  def log_prob(self) -> Array:
    """The sum of all."""
    return sum(self.log_dets) + sum(self.latent_log_probs)


def pad_to(image: Array, size: tuple[int, int]) -> Array:
  """Pads `[B, h, w, C]` by reflection at the bottom and right to `size` (height, width)."""
  pads = [new - old for new, old in zip(size, image.shape[1:3], strict=True)]
  # One pixel has nothing to reflect: it is repeated.
  for axis, pad in enumerate(pads, start=1):
    widths = [(0, pad if i == axis else 0) for i in range(4)]
    image = jnp.pad(image, widths, "reflect" if image.shape[axis] > 1 else "edge")
  return image


def standard_normal_log_prob(latents: Latents) -> Array:
  """The log-density of latents under N(0, 1), summed over all of them: `[B]`, nats."""
  return sum(-0.5 * jnp.sum(z**2 + math.log(2 * math.pi), axis=(1, 2, 3)) for z in latents)


class SRFlow(nn.Module):
  """A conditional normalizing flow from HR images to latents, given LR images.

  LR images are `[B, h, w, 3]`, HR images `[B, h * scale, w * scale, 3]`, values in [0, 1]. Any size
  will do: where the flow's squeezes do not divide it, both are padded by reflection, likelihoods
  are those of the padded image, and what is decoded is cropped back.
  """

  scale: int
  encoder_spec: EncoderSpec
  conditioner_spec: ConditionerSpec
  stage_specs: tuple[StageSpec, ...]
  compute: ComputeSpec = ComputeSpec()

  loss_name: ClassVar[str] = "nll"
  parts: ClassVar[tuple[str, ...]] = ("encoder", "flow")  # of the tree of parameters

  def setup(self) -> None:
    self.encoder = Encoder(self.encoder_spec, self.scale, **dataclasses.asdict(self.compute))
    self.flow = ConditionalFlow(
      self.stage_specs,
      self.conditioner_spec,
      self.encoder_spec.feature_channels,
      self.compute.remat,
    )

  @property
  def lr_multiple(self) -> int:
    """What LR height and width are padded to multiples of."""
    return max(1, math.prod(spec.squeeze for spec in self.stage_specs) // self.scale)

  def condition(self, lr: Array) -> Context:
    """Computes the context of lr `[B, h, w, 3]`."""
    multiple = self.lr_multiple
    height, width = (-(-size // multiple) * multiple for size in lr.shape[1:3])
    features = self.encoder.features(pad_to(lr, (height, width)), self.flow.downscales)
    return Context(
      stages=self.flow.condition(features),
      hr_size=(lr.shape[1] * self.scale, lr.shape[2] * self.scale),
      padded_size=(height * self.scale, width * self.scale),
    )

  def forward_and_log_det(self, hr: Array, context: Context) -> tuple[Latents, Array]:
    """Maps hr to latents, finest first, and the log-det `[B]`, nats, of that map.

    Raises:
      ValueError: hr's size is not `scale` times that of the LR image.
    """
    if hr.shape[1:3] != context.hr_size:
      raise ValueError(f"hr is {hr.shape[1:3]}, its LR image asks for {context.hr_size}")
    return self.flow.forward_and_log_det(pad_to(hr, context.padded_size), context.stages)

  def inverse_and_log_det(self, latents: Latents, context: Context) -> tuple[Array, Array]:
    """Maps latents to an image, and the log-det `[B]`, nats, of that map (before cropping)."""
    hr, log_det = self.flow.inverse_and_log_det(latents, context.stages)
    height, width = context.hr_size
    return hr[:, :height, :width], log_det

  def density_parts(self, hr: Array, context: Context) -> DensityParts:
    """What `log_prob_from_context` is the sum of."""
    hr = pad_to(hr, context.padded_size)
    latents, log_dets = self.flow.forward_by_stage(hr, context.stages)
    log_probs = tuple(standard_normal_log_prob((z,)) for z in latents)
    return DensityParts(log_dets, log_probs, latents)

  def log_prob_from_context(self, hr: Array, context: Context) -> Array:
    """`log p(hr | lr)`, `[B]`, nats: the latents' log-density plus the log-det."""
    latents, log_det = self.forward_and_log_det(hr, context)
    return standard_normal_log_prob(latents) + log_det

  def log_prob(self, hr: Array, lr: Array) -> Array:
    """`log p(hr | lr)`, `[B]`, nats."""
    return self.log_prob_from_context(hr, self.condition(lr))

  def nll(self, hr: Array, lr: Array) -> Array:
    """The published loss: `-log_prob` in bits per (padded) pixel, `[B]`."""
    context = self.condition(lr)
    return -self.log_prob_from_context(hr, context) / (math.log(2) * math.prod(context.padded_size))

  def loss(self, hr: Array, lr: Array) -> Array:
    """What training minimises, `[B]`: the nll."""
    return self.nll(hr, lr)

  def latents_at(
    self, key: Array, context: Context, temperature: float | Array, origin: Origin = (0, 0)
  ) -> Latents:
    """Draws one set of latents of standard deviation `temperature` for the context's batch.

    They are windows of fields over the whole plane: `origin` says where.
    """
    shapes = self.flow.latent_shapes(context.batch, *context.padded_size)
    keys = jax.random.split(key, len(shapes))

    def draw(k: Array, shape: tuple[int, ...]) -> Array:
      downscale = context.padded_size[0] // shape[1]
      corner = (side * self.scale // downscale for side in origin)
      return temperature * normal_field(k, shape, *corner)

    return tuple(draw(k, shape) for k, shape in zip(keys, shapes, strict=True))

  def sample_from_context(
    self,
    key: Array,
    context: Context,
    temperature: float | Array,
    num_samples: int,
    first: int | Array = 0,
    origin: Origin = (0, 0),
  ) -> Array:
    """Draws samples number `first` to `first + num_samples` of a key.

    Sample i depends on the key and on i alone, so any split of the samples into calls gives the
    same images.

    Args:
      key: Which samples.
      context: Of the LR image, or of a tile of it.
      temperature: Standard deviation of the latents.
      num_samples: How many samples.
      first: The number of the first.
      origin: Where the tile lies in the image: its top left LR pixel, both coordinates multiples
        of `lr_multiple`. The tile's noise is the whole image's there.

    Returns:
      Images `[num_samples, B, H, W, 3]`, not clipped.
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(num_samples))
    latents = jax.vmap(lambda k: self.latents_at(k, context, temperature, origin))(keys)
    # The context is not mapped over: it is neither recomputed nor copied.
    decode = nn.vmap(
      lambda model, z: model.inverse_and_log_det(z, context)[0],
      variable_axes={"params": None},
      split_rngs={"params": False},
    )
    return decode(self, latents)

  def sample(
    self, key: Array, lr: Array, temperature: float | Array, num_samples: int = 1
  ) -> Array:
    """Draws `[num_samples, B, H, W, 3]` images given lr; the context is computed once."""
    return self.sample_from_context(key, self.condition(lr), temperature, num_samples)

  def super_resolve(self, lr: Array) -> Array:
    """The encoder's own deterministic super-resolution, `[B, H, W, 3]`."""
    return self.encoder.super_resolve(lr)

  def every_layer(self, hr: Array, lr: Array) -> tuple[Array, Array]:
    """Runs every layer once: what `building.init_params` calls to create all parameters."""
    return self.log_prob(hr, lr), self.super_resolve(lr)


class SuperResolver(nn.Module):
  """The encoder alone, as the deterministic model that it is: `stages = ()` in a configuration.

  It answers to those of `SRFlow`'s methods that need no density.
  """

  scale: int
  encoder_spec: EncoderSpec
  compute: ComputeSpec = ComputeSpec()

  loss_name: ClassVar[str] = "l1"
  parts: ClassVar[tuple[str, ...]] = ("encoder",)
  lr_multiple: ClassVar[int] = 1

  def setup(self) -> None:
    self.encoder = Encoder(self.encoder_spec, self.scale, **dataclasses.asdict(self.compute))

  def super_resolve(self, lr: Array) -> Array:
    """Enlarges lr `[B, h, w, 3]` to `[B, h * scale, w * scale, 3]`, not clipped."""
    return self.encoder.super_resolve(lr)

  def sample(
    self, key: Array, lr: Array, temperature: float | Array, num_samples: int = 1
  ) -> Array:
    """`[num_samples, B, H, W, 3]`, all equal: neither key nor temperature changes anything."""
    sr = self.super_resolve(lr)
    return jnp.broadcast_to(sr, (num_samples, *sr.shape))

  def loss(self, hr: Array, lr: Array) -> Array:
    """What training minimises, `[B]`: the mean absolute error."""
    return jnp.mean(jnp.abs(self.super_resolve(lr) - hr), axis=(1, 2, 3))

  def every_layer(self, hr: Array, lr: Array) -> Array:
    """Runs every layer once: what `building.init_params` calls to create all parameters."""
    return self.super_resolve(lr)


Model = SRFlow | SuperResolver
