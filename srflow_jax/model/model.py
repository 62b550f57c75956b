"""What is asked of a model of `p(hr | lr)`: likelihoods, latents and samples. See `srflow.py`.

A `Context` holds all that depends on the LR image and the parameters alone. Compute it once, with
`condition`, then ask of it as much as you like: `model.apply({"params": params}, ...,
method="NAME")`.
"""

import dataclasses
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from srflow_jax.model.features import Given
from srflow_jax.model.flow import Latents, StageContext
from srflow_jax.model.kinds import Part

Array = jax.Array
Origin = tuple[int | Array, int | Array]  # row and column of an LR pixel

LAST_LAYERS_REACH = 8  # LR pixels that tiles overlap by at least, for what follows the encoder


@struct.dataclass
class Context:
  """All that depends on the LR image and the parameters alone.

  Attributes:
    stages: the contexts of the flow's stages; () for a model without a flow.
    base: what the target needs of LR (`targets.Target.base`): for most an image of `padded_size`
      that is added to what the flow gives; None for none.
    batch: images in the batch.
    hr_size: height and width of the image that the flow models.
    padded_size: the same, enlarged at the bottom and right to what the flow's squeezes divide.
  """

  stages: tuple[StageContext, ...]
  base: Array | None
  batch: int = struct.field(pytree_node=False)
  hr_size: tuple[int, int] = struct.field(pytree_node=False)
  padded_size: tuple[int, int] = struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class ComputeSpec:
  """How a model computes, which changes no parameter.

  Attributes:
    bfloat16: encoder and conditioners compute in bfloat16; the flow's variables, log-dets and the
      loss stay in float32.
    remat: the backward pass computes encoder blocks and flow steps again instead of keeping what
      they had computed.
    unroll: equal blocks and steps are laid out one after the other, not scanned.
  """

  bfloat16: bool = False
  remat: bool = False
  unroll: bool = False


@struct.dataclass
class DensityParts:
  """What the log-density of images is the sum of.

  Attributes:
    log_dets: of each stage, finest first, `[B]` each, nats.
    latent_log_probs: of each latent under N(0, 1), finest first, `[B]` each, nats.
    latents: the latents, `[B, h, w, C]` each.
  """

  log_dets: tuple[Array, ...]
  latent_log_probs: tuple[Array, ...]
  latents: Latents

  @property
  def log_prob(self) -> Array:
    """The sum of all."""
    return sum(self.log_dets) + sum(self.latent_log_probs)  # pyright: ignore[reportReturnType]


def standard_normal_log_prob(z: Array) -> Array:
  """The log-density of `[B, h, w, C]` under N(0, 1): `[B]`, nats."""
  return -0.5 * jnp.sum(z**2 + math.log(2 * math.pi), axis=(1, 2, 3))


class Model(nn.Module, kw_only=True):
  """What sampling, evaluation and training ask of a model.

  LR images are `[B, h, w, 3]`, HR images `[B, h * scale, w * scale, 3]`, values in [0, 1]. Any size
  will do.

  Attributes:
    scale: HR size over LR size.
    encoder_part: the encoder.
    compute: how it computes.
    loss_name: what the loss is called in logs.
    parts: the parts of the tree of parameters.
    stochastic: whether there are latents and a density; else all samples of an image are equal.
  """

  scale: int
  encoder_part: Part
  compute: ComputeSpec = ComputeSpec()

  loss_name: ClassVar[str]
  parts: ClassVar[tuple[str, ...]]
  stochastic: ClassVar[bool]

  @property
  def lr_multiple(self) -> int:
    """What LR height and width are padded to multiples of."""
    return 1

  @property
  def num_latents(self) -> int:
    """How many latents there are, each of which may be drawn at a temperature of its own."""
    return 0

  @property
  def tile_overlap(self) -> int:
    """LR pixels of overlap that leave less than a quarter of a grey level between tiles and image.

    What lies beyond a network's border fades with each layer that passes it on, so each part says
    itself how far it sees (`reach`); `benchmarks/tiles.py` measures the difference for any run.
    """
    return self.encoder_part.unbound(scale=self.scale).reach + LAST_LAYERS_REACH

  def condition(self, given: Given) -> Context:
    """Computes the context of LR images, and of what else the model is told."""
    raise NotImplementedError

  def density_parts(self, hr: Array, context: Context) -> DensityParts:
    """What the log-density of hr `[B, H, W, 3]` is the sum of.

    Raises:
      ValueError: hr's size is not `scale` times that of the LR image.
    """
    raise NotImplementedError

  def latents_at(
    self, key: Array, context: Context, temperature: float | Array, origin: Origin = (0, 0)
  ) -> Latents:
    """Draws one set of latents of standard deviation `temperature` for the context's batch.

    The temperature is a number, or an array with one for each latent, finest first.
    They are windows of fields over the whole plane: `origin` says where.
    """
    raise NotImplementedError

  def inverse_and_log_det(self, latents: Latents, context: Context) -> tuple[Array, Array]:
    """Maps latents to an image, and the log-det `[B]`, nats, of that map (before cropping)."""
    raise NotImplementedError

  def loss(self, hr: Array, given: Given) -> Array:
    """What training minimises, `[B]`."""
    raise NotImplementedError

  def latents_of_samples(
    self,
    key: Array,
    context: Context,
    temperature: float | Array,
    num_samples: int,
    first: int | Array = 0,
    origin: Origin = (0, 0),
  ) -> Latents:
    """Draws the latents of samples number `first` to `first + num_samples` of a key.

    Sample i depends on the key and on i alone, so any split of the samples into calls gives the
    same images.

    Args:
      key: Which samples.
      context: Of the LR image, or of a tile of it.
      temperature: Standard deviation of the latents, or `[num_latents]`, one for each.
      num_samples: How many samples.
      first: The number of the first.
      origin: Where the tile lies in the image: its top left LR pixel, both coordinates multiples
        of `lr_multiple`. The tile's noise is the whole image's there.

    Returns:
      `[num_samples, B, h, w, C]` each, finest first.
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(num_samples))
    return jax.vmap(lambda k: self.latents_at(k, context, temperature, origin))(keys)

  def decode_samples(self, latents: Latents, context: Context, num_samples: int) -> Array:
    """Maps latents of several samples to images `[num_samples, B, H, W, 3]`, not clipped."""
    # The context is not mapped over: it is neither recomputed nor copied.
    decode = nn.vmap(
      lambda model, z: model.inverse_and_log_det(z, context)[0],
      variable_axes={"params": None},
      split_rngs={"params": False},
      axis_size=num_samples,
    )
    return decode(self, latents)

  def sample(
    self, key: Array, given: Given, temperature: float | Array, num_samples: int = 1
  ) -> Array:
    """Draws `[num_samples, B, H, W, 3]` images; the context is computed once."""
    context = self.condition(given)
    latents = self.latents_of_samples(key, context, temperature, num_samples)
    return self.decode_samples(latents, context, num_samples)

  def super_resolve(self, given: Given) -> Array:
    """The encoder's own deterministic super-resolution, `[B, H, W, 3]`, not clipped."""
    return self.encoder.super_resolve(self.encoder.trunk(given))

  def every_layer(self, hr: Array, given: Given) -> Any:
    """Runs every layer once: what `building.init_params` calls to create all parameters."""
    loss = self.loss(hr, given)
    return (loss, self.super_resolve(given)) if self.encoder.super_resolves else (loss, ())
