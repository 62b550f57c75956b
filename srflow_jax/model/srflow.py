"""The two models: encoder and flow as one, and the encoder alone."""

import dataclasses
import math
from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp

from srflow_jax.model.features import Given, pad_to
from srflow_jax.model.flow import ConditionalFlow, Latents, StageSpec
from srflow_jax.model.model import (
  LAST_LAYERS_REACH,
  Context,
  DensityParts,
  Model,
  Origin,
  standard_normal_log_prob,
)
from srflow_jax.model.targets import Target
from srflow_jax.ops.noise import normal_field

Array = jax.Array


class SRFlow(Model, kw_only=True):
  """A conditional normalizing flow from HR images to latents, given LR images.

  Where the flow's squeezes do not divide an image, HR and LR are padded by reflection, likelihoods
  are those of the padded image, and what is decoded is cropped back.

  Attributes:
    stage_specs: the flow's stages.
    target: what the flow models of HR.
  """

  stage_specs: tuple[StageSpec, ...] = ()
  target: Target

  loss_name: ClassVar[str] = "nll"
  parts: ClassVar[tuple[str, ...]] = ("encoder", "flow")
  stochastic: ClassVar[bool] = True

  def setup(self) -> None:
    self.encoder = self.encoder_part(scale=self.scale, **dataclasses.asdict(self.compute))
    self.flow = ConditionalFlow(
      self.stage_specs,
      self.encoder.feature_channels,
      self.compute.remat,
      self.compute.unroll,
      *self.target.channels_and_downscale(self.scale),
    )

  @property
  def lr_multiple(self) -> int:
    """See the base class."""
    multiples = []
    for downscale, (multiple, _) in self._stages():
      pixels = downscale * multiple  # of HR
      multiples.append(pixels // math.gcd(pixels, self.scale))
    return math.lcm(*multiples)

  @property
  def num_latents(self) -> int:
    """See the base class: one of each split, and what leaves the last stage."""
    return 1 + sum(spec.split for spec in self.stage_specs)

  @property
  def tile_overlap(self) -> int:
    """See the base class."""
    reaches = [reach for _, (_, reach) in self._stages()]
    own = max(LAST_LAYERS_REACH, self.target.reach, *reaches)
    return self.encoder_part.unbound(scale=self.scale).reach + own

  def _stages(self) -> Iterator[tuple[int, tuple[int, int]]]:
    """Of each stage HR size over its size, and its `StageSpec.multiple_and_reach`."""
    _, downscale = self.target.channels_and_downscale(self.scale)
    for spec in self.stage_specs:
      downscale *= spec.squeeze
      has_prior = spec.split or spec is self.stage_specs[-1]
      yield downscale, spec.multiple_and_reach(has_prior)

  def condition(self, given: Given) -> Context:
    """See the base class."""
    multiple = self.lr_multiple
    batch, *lr_size = given.lr.shape[:3]
    height, width = (-(-side // multiple) * multiple for side in lr_size)
    padded = given.padded((height, width), self.scale)
    trunk = self.encoder.trunk(padded)
    features = self.encoder.features(trunk, self.flow.downscales)
    return Context(
      stages=self.flow.condition(features, padded),
      base=self.target.base(padded.lr, self.scale, lambda: self.encoder.super_resolve(trunk)),
      batch=batch,
      hr_size=(lr_size[0] * self.scale, lr_size[1] * self.scale),
      padded_size=(height * self.scale, width * self.scale),
    )

  def density_parts(self, hr: Array, context: Context) -> DensityParts:
    """See the base class."""
    if hr.shape[1:3] != context.hr_size:
      raise ValueError(f"hr is {hr.shape[1:3]}, its LR image asks for {context.hr_size}")
    image = self.target.to_flow(pad_to(hr, context.padded_size), context.base, self.scale)
    latents, log_dets = self.flow.forward_by_stage(image, context.stages)
    return DensityParts(log_dets, tuple(map(standard_normal_log_prob, latents)), latents)

  def inverse_and_log_det(self, latents: Latents, context: Context) -> tuple[Array, Array]:
    """See the base class."""
    image, log_det = self.flow.inverse_and_log_det(latents, context.stages)
    image = self.target.from_flow(image, context.base, self.scale)
    height, width = context.hr_size
    return image[:, :height, :width], log_det

  def log_prob(self, hr: Array, given: Given) -> Array:
    """`log p(hr | lr)`, `[B]`, nats."""
    return self.density_parts(hr, self.condition(given)).log_prob

  def nll(self, hr: Array, given: Given) -> Array:
    """The published loss: the negative log-density in bits per (padded) pixel, `[B]`."""
    context = self.condition(given)
    pixels = math.prod(context.padded_size)
    return -self.density_parts(hr, context).log_prob / (math.log(2) * pixels)

  def loss(self, hr: Array, given: Given) -> Array:
    """The nll."""
    return self.nll(hr, given)

  def latents_at(
    self, key: Array, context: Context, temperature: float | Array, origin: Origin = (0, 0)
  ) -> Latents:
    """See the base class."""
    shapes = self.flow.latent_shapes(context.batch, *context.padded_size)
    keys = jax.random.split(key, len(shapes))

    each = (
      [temperature] * len(shapes) if jnp.ndim(temperature) == 0 else list(jnp.asarray(temperature))
    )

    def draw(k: Array, shape: tuple[int, ...], of_level: float | Array, is_drawn: bool) -> Array:
      if not is_drawn:
        return jnp.zeros(shape, jnp.float32)
      downscale = context.padded_size[0] // shape[1]
      corner = (side * self.scale // downscale for side in origin)
      return of_level * normal_field(k, shape, *corner)

    return tuple(map(draw, keys, shapes, each, self.flow.latents_drawn))


class SuperResolver(Model, kw_only=True):
  """The encoder alone, as the deterministic model that it is: `stages = ()` in a configuration.

  It has no latents and no density: `latents_at` returns an empty tuple, and so are the parts of a
  density.
  """

  loss_name: ClassVar[str] = "l1"
  parts: ClassVar[tuple[str, ...]] = ("encoder",)
  stochastic: ClassVar[bool] = False

  def setup(self) -> None:
    self.encoder = self.encoder_part(scale=self.scale, **dataclasses.asdict(self.compute))

  def condition(self, given: Given) -> Context:
    """A context whose base is the image."""
    size = (given.lr.shape[1] * self.scale, given.lr.shape[2] * self.scale)
    return Context((), self.super_resolve(given), given.lr.shape[0], size, size)

  def density_parts(self, hr: Array, context: Context) -> DensityParts:
    """Nothing, for there is no density."""
    return DensityParts((), (), ())

  def latents_at(
    self, key: Array, context: Context, temperature: float | Array, origin: Origin = (0, 0)
  ) -> Latents:
    """None."""
    return ()

  def inverse_and_log_det(self, latents: Latents, context: Context) -> tuple[Array, Array]:
    """The image."""
    assert context.base is not None  # `condition` gives one
    return context.base, jnp.zeros(context.batch)

  def loss(self, hr: Array, given: Given) -> Array:
    """The mean absolute error."""
    return jnp.mean(jnp.abs(self.super_resolve(given) - hr), axis=(1, 2, 3))
