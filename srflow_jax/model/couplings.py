"""Couplings other than the published one: of noise, and of every other pixel."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from srflow_jax.blocks import limited
from srflow_jax.model.bijectors import Grid, LogDet, by_channel, note_inverse_factor, sum_event
from srflow_jax.model.features import Features, Given
from srflow_jax.model.kinds import kind
from srflow_jax.model.layers import MapLayer, SplitCoupling
from srflow_jax.model.maps import mapped
from srflow_jax.model.nets import property_of
from srflow_jax.ops.convolutions import conv

Array = jax.Array


@kind("noise_coupling")
class NoiseCoupling(SplitCoupling):
  """A split coupling whose net sees the noise that training has added to HR (NCSR, Kim & Son 2021).

  u is that noise, 3 channels, resized to the size of z by a bicubic without antialiasing: a noise
  that is averaged would fade. It is zero where the model is told of none, as in all that comes
  after training; the net sees no LR features.
  """

  @property
  def seen_channels(self) -> int:
    """The noise's."""
    return 3

  def condition(self, convolved: None, features: Features, given: Given) -> Array:
    """What the net takes as u: the noise of z's size, convolved if the net has a kernel for it."""
    own = features.own
    shape = (*own.shape[:3], 3)
    if given.noise is None:
      u = jnp.zeros(shape, own.dtype)
    else:
      u = jax.image.resize(given.noise, shape, "cubic", antialias=False).astype(own.dtype)
    kernel = self.conditioner.feature_kernel()
    return u if kernel is None else conv(u, kernel)


@kind("checkerboard_coupling")
class CheckerboardCoupling(MapLayer):
  """A map of every other pixel, given the pixels between them and the LR features u: RealNVP's.

      forward:  z' = map(z; h((1 - m) z, u)) where m is 1, z where m is 0
      log-det:  sum(m log map')
      inverse:  z = map^-1(z'; h((1 - m) z', u)) where m is 1, since (1 - m) z' is (1 - m) z

  The net sees all channels. m is 1 where row + column has the parity `maps` (Dinh et al. 2017,
  section 3.4). A step takes two, of both parities, or mixes by other couplings between: Jet
  (Kolesnikov et al. 2024) has one split of space to four of channels.

  Attributes:
    maps: the parity of the pixels that are mapped.
  """

  maps: int = limited(1, one_of=(0, 1))

  def setup(self) -> None:
    self.conditioner = self.net(
      own_channels=self.channels,
      feature_channels=self.feature_channels,
      out=self.map.numbers * self.channels,
    )

  @property
  def multiple(self) -> int:
    """Even, for the pattern to go on from tile to tile, and what the net asks for."""
    return math.lcm(2, property_of(self.net, "multiple"))

  def feature_kernel(self) -> Array | None:
    """See the base class."""
    return self.conditioner.feature_kernel()

  def condition(self, convolved: Array | None, features: Features, given: Given) -> Array:
    """What the net takes as u."""
    return features.whole() if convolved is None else convolved

  def _mask_and_parameters(self, z: Grid, u: Array) -> tuple[Array, Any]:
    """The mask m `[h, w, 1]`, true where it is 1, and the map's parameters."""
    height, width = z.shape[1:3]
    parity = (jnp.arange(height)[:, None] + jnp.arange(width)) % 2
    mask = (parity == self.maps)[:, :, None]
    h = self.conditioner(jnp.where(mask, 0, z), u)
    return mask, self.map.parameters(by_channel(h, self.map.numbers))

  def forward_and_log_det(self, z: Grid, context: Array) -> tuple[Grid, LogDet]:
    """See the base class."""
    mask, parameters = self._mask_and_parameters(z, context)
    y, log_derivative = mapped(self.map, z, parameters)
    log_derivative = jnp.where(mask, log_derivative, 0)
    note_inverse_factor(self, -log_derivative, of_map=True)
    return jnp.where(mask, y, z), sum_event(log_derivative)

  def inverse_and_log_det(self, z: Grid, context: Array) -> tuple[Grid, LogDet]:
    """See the base class."""
    mask, parameters = self._mask_and_parameters(z, context)
    y, log_derivative = mapped(self.map, z, parameters, inverse=True)
    return jnp.where(mask, y, z), sum_event(jnp.where(mask, log_derivative, 0))
