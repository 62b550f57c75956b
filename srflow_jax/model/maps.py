"""Elementwise maps: how injectors and couplings change a number, given what a net says of it.

A map has no parameters and knows no images. A net gives it `numbers` numbers for each channel of
each pixel. `parameters` computes from them what both directions need, whatever z is:

    p = map.parameters(h)                     # h [..., C, numbers]
    y, log_derivative = map.forward(z, p)     # z, y, log_derivative [..., C]
    z, log_derivative = map.inverse(y, p)     # log_derivative of the *inverse*

Where h is zero, as it is at initialisation, a map should be near the identity.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from srflow_jax.blocks import limited
from srflow_jax.model.kinds import Place, kind

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Map(Place):
  """An invertible function of one number."""

  place: ClassVar[str] = "map"
  published: ClassVar[str] = "sigmoid"

  @property
  def numbers(self) -> int:
    """How many numbers it needs for each channel."""
    raise NotImplementedError

  def parameters(self, h: Array) -> Any:
    """What both directions take, from a net's numbers `[..., C, numbers]`."""
    raise NotImplementedError

  def forward(self, z: Array, parameters: Any) -> tuple[Array, Array]:
    """Maps z `[..., C]`; returns also the logarithm of the derivative, `[..., C]`."""
    raise NotImplementedError

  def inverse(self, y: Array, parameters: Any) -> tuple[Array, Array]:
    """Maps y back; returns also the logarithm of the inverse's derivative."""
    raise NotImplementedError


class Affine(Map):
  """`y = (z + shift) * scale`, with the scale a positive function of the second number s."""

  numbers: ClassVar[int] = 2

  def scale(self, s: Array) -> Array:
    """The scale, above 0."""
    raise NotImplementedError

  def parameters(self, h: Array) -> tuple[Array, Array]:
    """Shift and scale, `[..., C]` each."""
    return h[..., 0], self.scale(h[..., 1])

  def forward(self, z: Array, parameters: tuple[Array, Array]) -> tuple[Array, Array]:
    """`(z + shift) * scale`."""
    shift, scale = parameters
    return (z + shift) * scale, jnp.log(scale)

  def inverse(self, y: Array, parameters: tuple[Array, Array]) -> tuple[Array, Array]:
    """`y / scale - shift`."""
    shift, scale = parameters
    return y / scale - shift, -jnp.log(scale)


@kind("sigmoid")
@dataclasses.dataclass(frozen=True)
class Sigmoid(Affine):
  """`scale = sigmoid(s + 2) + 1e-4`, in (1e-4, 1 + 1e-4): SRFlow's (ECCV 2020)."""

  has_published_names: ClassVar[bool] = True

  def scale(self, s: Array) -> Array:
    """See the class."""
    return jax.nn.sigmoid(s + 2.0) + 1e-4


@kind("double_sigmoid")
@dataclasses.dataclass(frozen=True)
class DoubleSigmoid(Affine):
  """`scale = 2 sigmoid(s)`, in (0, 2) and 1 at first: Jet's (Kolesnikov et al. 2024)."""

  def scale(self, s: Array) -> Array:
    """See the class."""
    return 2.0 * jax.nn.sigmoid(s)


@kind("atan")
@dataclasses.dataclass(frozen=True)
class Atan(Affine):
  """`scale = exp(0.318 atan(2 s))`, in (0.607, 1.648): HCFlow's (ICCV 2021), bounded both ways."""

  def scale(self, s: Array) -> Array:
    """See the class."""
    return jnp.exp(0.318 * jnp.arctan(2.0 * s))


@kind("tanh")
@dataclasses.dataclass(frozen=True)
class Tanh(Affine):
  """`scale = exp(a tanh(s))`, in (exp(-a), exp(a)): RealNVP's (Dinh et al. 2017), a fixed.

  Attributes:
    bound: a.
  """

  bound: float = limited(2.0, above=0.0, at_most=20.0)

  def scale(self, s: Array) -> Array:
    """See the class."""
    return jnp.exp(self.bound * jnp.tanh(s))


@kind("additive")
@dataclasses.dataclass(frozen=True)
class Additive(Map):
  """`y = z + shift`: volume-preserving (NICE, Dinh et al. 2015)."""

  numbers: ClassVar[int] = 1

  def parameters(self, h: Array) -> Array:
    """The shift, `[..., C]`."""
    return h[..., 0]

  def forward(self, z: Array, parameters: Array) -> tuple[Array, Array]:
    """`z + shift`."""
    return z + parameters, jnp.zeros_like(z)

  def inverse(self, y: Array, parameters: Array) -> tuple[Array, Array]:
    """`y - shift`."""
    return y - parameters, jnp.zeros_like(y)
