"""Layers: the invertible parts that a step is made of.

Every layer has two methods that return the result and their own log-determinant:

    z, log_det = layer.forward_and_log_det(z, context)   # image → latents
    z, log_det = layer.inverse_and_log_det(z, context)   # latents → image, log_det of the *inverse*

so the two log-determinants of one point sum to zero. A layer's context is what it needs of
the LR image: `condition` computes it once, and it serves every sample.
"""

import abc
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from srflow_jax.model.bijectors import (
  Grid,
  LogDet,
  actnorm_params,
  by_channel,
  note_inverse_factor,
  per_pixel,
  sum_event,
)
from srflow_jax.model.features import Features, Given
from srflow_jax.model.kinds import Part, Place, kind, part
from srflow_jax.model.maps import Map, mapped
from srflow_jax.model.mixers import Mixer, Mixing
from srflow_jax.model.nets import Net, property_of, radius_of
from srflow_jax.ops.convolutions import AnyArray

Array = jax.Array


class Layer(nn.Module, Place, kw_only=True):
  """A bijector of a step.

  Attributes:
    channels: C of what it maps.
    feature_channels: channels of the features at its resolution.
    reach: LR pixels that it sees around a pixel, as `nets.Net.reach` counts them.
    multiple: what height and width must be multiples of, as `nets.Net.multiple`.
  """

  place: ClassVar[str] = "layer"
  published: ClassVar[str] = "actnorm"

  channels: int
  feature_channels: int

  @property
  def reach(self) -> int:
    """See the class."""
    return 0

  @property
  def radius(self) -> int | None:
    """How far the layer sees z, in pixels of its own resolution; None where no bound is known."""
    return None

  @property
  def multiple(self) -> int:
    """See the class."""
    return 1

  def feature_kernel(self) -> Array | None:
    """A kernel that the features are to be convolved with (`Net.feature_kernel`), or None."""
    return None

  def own_context(self) -> Any:
    """The context, if it depends on the parameters alone; None if `condition` gives it.

    Those of all equal steps are computed together, before any of them runs.
    """
    return None

  def condition(self, convolved: Array | None, features: Features, given: Given) -> Any:
    """Computes the context.

    Args:
      convolved: the features convolved with `feature_kernel()`; None if that is None.
      features: of the layer's resolution.
      given: what the model is told.
    """
    return None

  @abc.abstractmethod
  def forward_and_log_det(self, z: Grid, context: Any) -> tuple[Grid, LogDet]:
    """Maps z towards the latents."""
    raise NotImplementedError

  @abc.abstractmethod
  def inverse_and_log_det(self, z: Grid, context: Any) -> tuple[Grid, LogDet]:
    """Maps it back."""
    raise NotImplementedError


@kind("actnorm")
class ActNorm(Layer):
  """A shift and a scale for each channel, set by the first batch (Glow, section 3.1).

      forward:  y = (z + bias) * exp(logs)
      log-det:  H * W * sum(logs)
      inverse:  z = y * exp(-logs) - bias

  `init` must see real data.
  """

  has_published_names: ClassVar[bool] = True

  @property
  def radius(self) -> int:
    """See the base class."""
    return 0

  @nn.compact
  def _bias_and_logs(self, z: Grid) -> tuple[Float[AnyArray, " C"], Float[AnyArray, " C"]]:
    return actnorm_params(self, z)

  def forward_and_log_det(self, z: Grid, context: None = None) -> tuple[Grid, LogDet]:
    """See the base class."""
    bias, logs = self._bias_and_logs(z)
    note_inverse_factor(self, -logs)
    return (z + bias) * jnp.exp(logs), per_pixel(jnp.sum(logs), z)

  def inverse_and_log_det(self, z: Grid, context: None = None) -> tuple[Grid, LogDet]:
    """See the base class."""
    bias, logs = self._bias_and_logs(z)
    return z * jnp.exp(-logs) - bias, per_pixel(-jnp.sum(logs), z)


@kind("mixer")
class Mix(Layer):
  """One matrix that mixes the channels of every pixel (Glow, section 3.2).

      forward:  y = W z
      log-det:  H * W * log|det W|
      inverse:  z = W^-1 y

  Attributes:
    mixer: the kind of matrix.
  """

  has_published_names: ClassVar[bool] = True

  mixer: Part = part(Mixer)

  @property
  def radius(self) -> int:
    """See the base class."""
    return 0

  def setup(self) -> None:
    self.matrix = self.mixer(channels=self.channels)

  def own_context(self) -> Mixing:
    """The matrix, its inverse and its log-det."""
    return self.matrix.mixing()

  def forward_and_log_det(self, z: Grid, context: Mixing) -> tuple[Grid, LogDet]:
    """See the base class."""
    if self.is_mutable_collection("inverse_factor"):
      note_inverse_factor(self, jnp.log(jnp.linalg.norm(context.inverse, 2)))
    y = jnp.einsum("oi,bhwi->bhwo", context.matrix, z, precision="highest")
    return y, per_pixel(context.log_det, z)

  def inverse_and_log_det(self, z: Grid, context: Mixing) -> tuple[Grid, LogDet]:
    """See the base class."""
    z = jnp.einsum("oi,bhwi->bhwo", context.inverse, z, precision="highest")
    return z, per_pixel(-context.log_det, z)


class MapLayer(Layer):
  """An elementwise map whose numbers a net h gives.

  Attributes:
    map: the elementwise map.
    net: the net h.
  """

  map: Map = part(Map)
  net: Part = part(Net)

  @property
  def reach(self) -> int:
    """See the base class."""
    return property_of(self.net, "reach")

  @property
  def radius(self) -> int | None:
    """That of its net."""
    return radius_of(self.net)

  @property
  def multiple(self) -> int:
    """See the base class."""
    return property_of(self.net, "multiple")


@kind("injector")
class Injector(MapLayer):
  """A map of every channel, given the LR features u alone (SRFlow, section 3.3).

  forward:  y = map(z; h(u))
  log-det:  sum(log map')
  """

  has_published_names: ClassVar[bool] = True

  @property
  def radius(self) -> int:
    """See the base class."""
    return 0

  def setup(self) -> None:
    self.conditioner = self.net(
      own_channels=0,
      feature_channels=self.feature_channels,
      out=self.map.numbers * self.channels,
    )

  def feature_kernel(self) -> Array | None:
    """See the base class."""
    return self.conditioner.feature_kernel()

  def condition(self, convolved: Array | None, features: Features, given: Given) -> Any:
    """The map's parameters, which no sample changes."""
    u = features.whole() if convolved is None else convolved
    h = self.conditioner(None, u)
    return self.map.parameters(by_channel(h, self.map.numbers))

  def forward_and_log_det(self, z: Grid, context: Any) -> tuple[Grid, LogDet]:
    """See the base class."""
    z, log_derivative = mapped(self.map, z, context)
    note_inverse_factor(self, -log_derivative, of_map=True)
    return z, sum_event(log_derivative)

  def inverse_and_log_det(self, z: Grid, context: Any) -> tuple[Grid, LogDet]:
    """See the base class."""
    z, log_derivative = mapped(self.map, z, context, inverse=True)
    return z, sum_event(log_derivative)


class SplitCoupling(MapLayer):
  """A map of the second half b of the channels, given the first half a and something else, u.

      forward:  b' = map(b; h(a, u))
      log-det:  sum(log map')
      inverse:  b = map^-1(b'; h(a, u)), since a is what it was

  The first half has `C // 2` channels. The context is what the net takes as u.
  """

  @property
  @abc.abstractmethod
  def seen_channels(self) -> int:
    """Channels of u; 0 for none."""
    raise NotImplementedError

  def setup(self) -> None:
    self.keep = self.channels // 2
    self.conditioner = self.net(
      own_channels=self.keep,
      feature_channels=self.seen_channels,
      out=self.map.numbers * (self.channels - self.keep),
    )

  def _parameters(self, a: Grid, u: Array | None) -> Any:
    return self.map.parameters(by_channel(self.conditioner(a, u), self.map.numbers))

  def forward_and_log_det(self, z: Grid, context: Array | None) -> tuple[Grid, LogDet]:
    """See the base class."""
    a, b = z[..., : self.keep], z[..., self.keep :]
    b, log_derivative = mapped(self.map, b, self._parameters(a, context))
    note_inverse_factor(self, -log_derivative, of_map=True)
    return jnp.concatenate([a, b], -1), sum_event(log_derivative)

  def inverse_and_log_det(self, z: Grid, context: Array | None) -> tuple[Grid, LogDet]:
    """See the base class."""
    a, b = z[..., : self.keep], z[..., self.keep :]
    b, log_derivative = mapped(self.map, b, self._parameters(a, context), inverse=True)
    return jnp.concatenate([a, b], -1), sum_event(log_derivative)


@kind("coupling")
class Coupling(SplitCoupling):
  """A split coupling whose net sees the LR features u, or nothing but a (SRFlow, section 3.3).

  Attributes:
    sees_features: whether the net is given u.
  """

  has_published_names: ClassVar[bool] = True

  sees_features: bool = True

  @property
  def seen_channels(self) -> int:
    """See the base class."""
    return self.feature_channels if self.sees_features else 0

  def feature_kernel(self) -> Array | None:
    """See the base class."""
    return self.conditioner.feature_kernel() if self.sees_features else None

  def condition(self, convolved: Array | None, features: Features, given: Given) -> Array | None:
    """What the net takes as u."""
    if not self.sees_features:
      return None
    return features.whole() if convolved is None else convolved
