"""Elementwise maps: how injectors and couplings change a number, given what a net says of it.

A map has no parameters and knows no images. A net gives it `numbers` numbers for each channel of
each pixel. `parameters` computes from them what both directions need, whatever z is:

    p = map.parameters(h)                     # h [..., C, numbers]
    y, log_derivative = map.forward(z, p)     # z, y, log_derivative [..., C]
    z, log_derivative = map.inverse(y, p)     # log_derivative of the *inverse*

Where h is zero, as it is at initialisation, a map should be near the identity. Those of the package
are a line there, and where z is far from zero.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from srflow_jax.blocks import limited
from srflow_jax.errors import InputError
from srflow_jax.model.kinds import Place, kind
from srflow_jax.ops.convolutions import AnyArray

Array = jax.Array
Values = Float[AnyArray, "*pixels C"]
Numbers = Float[AnyArray, "*pixels C numbers"]  # of a net
Knots = Float[Array, "*pixels C knots"]  # the ends of bins

_LEAST = 1e-3  # of a spline's bins, as a share of the interval, and of its derivatives


@dataclasses.dataclass(frozen=True)
class Map(Place):
  """An invertible function of one number."""

  place: ClassVar[str] = "map"
  published: ClassVar[str] = "sigmoid"

  @property
  @abc.abstractmethod
  def numbers(self) -> int:
    """How many numbers it needs for each channel."""
    raise NotImplementedError

  @abc.abstractmethod
  def parameters(self, h: Numbers) -> Any:
    """What both directions take, from a net's numbers."""
    raise NotImplementedError

  @abc.abstractmethod
  def forward(self, z: Values, parameters: Any) -> tuple[Values, Values]:
    """Maps z; returns also the logarithm of the derivative."""
    raise NotImplementedError

  @abc.abstractmethod
  def inverse(self, y: Values, parameters: Any) -> tuple[Values, Values]:
    """Maps y back; returns also the logarithm of the inverse's derivative."""
    raise NotImplementedError


def mapped(elementwise: Map, z: Values, parameters: Any, inverse: bool = False) -> tuple[Any, Any]:
  """Maps z, or maps it back, and sees that each number has a result and a log-derivative.

  Raises:
    InputError: the map's class gives arrays of other shapes or of another type than z's.
  """
  results = (elementwise.inverse if inverse else elementwise.forward)(z, parameters)
  wanted = (jnp.shape(z), jnp.result_type(z))
  for what, array in zip(("result", "log-derivative"), results, strict=True):
    if (jnp.shape(array), jnp.result_type(array)) != wanted:
      cls = type(elementwise)
      raise InputError(
        f"{cls.__module__}.{cls.__qualname__}.{'inverse' if inverse else 'forward'}: the {what} is "
        f"{jnp.result_type(array)} {list(jnp.shape(array))}, z is {wanted[1]} {list(wanted[0])}"
      )
  return results


class Affine(Map):
  """`y = (z + shift) * scale`, with the scale a positive function of the second number s."""

  numbers: ClassVar[int] = 2

  @abc.abstractmethod
  def scale(self, s: Values) -> Values:
    """The scale, above 0."""
    raise NotImplementedError

  def parameters(self, h: Numbers) -> tuple[Values, Values]:
    """Shift and scale."""
    return h[..., 0], self.scale(h[..., 1])

  def forward(self, z: Values, parameters: tuple[Values, Values]) -> tuple[Values, Values]:
    """`(z + shift) * scale`."""
    shift, scale = parameters
    return (z + shift) * scale, jnp.log(scale)

  def inverse(self, y: Values, parameters: tuple[Values, Values]) -> tuple[Values, Values]:
    """`y / scale - shift`."""
    shift, scale = parameters
    return y / scale - shift, -jnp.log(scale)


@kind("sigmoid")
@dataclasses.dataclass(frozen=True)
class Sigmoid(Affine):
  """`scale = sigmoid(s + 2) + 1e-4`, in (1e-4, 1 + 1e-4): SRFlow's (ECCV 2020)."""

  has_published_names: ClassVar[bool] = True

  def scale(self, s: Values) -> Values:
    """See the class."""
    return jax.nn.sigmoid(s + 2.0) + 1e-4


@kind("double_sigmoid")
@dataclasses.dataclass(frozen=True)
class DoubleSigmoid(Affine):
  """`scale = 2 sigmoid(s)`, in (0, 2) and 1 at first: Jet's (Kolesnikov et al. 2024)."""

  def scale(self, s: Values) -> Values:
    """See the class."""
    return 2.0 * jax.nn.sigmoid(s)


@kind("atan")
@dataclasses.dataclass(frozen=True)
class Atan(Affine):
  """`scale = exp(0.318 atan(2 s))`, in (0.607, 1.648): HCFlow's (ICCV 2021), bounded both ways."""

  def scale(self, s: Values) -> Values:
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

  def scale(self, s: Values) -> Values:
    """See the class."""
    return jnp.exp(self.bound * jnp.tanh(s))


@kind("additive")
@dataclasses.dataclass(frozen=True)
class Additive(Map):
  """`y = z + shift`: volume-preserving (NICE, Dinh et al. 2015)."""

  numbers: ClassVar[int] = 1

  def parameters(self, h: Numbers) -> Values:
    """The shift."""
    return h[..., 0]

  def forward(self, z: Values, parameters: Values) -> tuple[Values, Values]:
    """`z + shift`."""
    return z + parameters, jnp.zeros_like(z)

  def inverse(self, y: Values, parameters: Values) -> tuple[Values, Values]:
    """`y - shift`."""
    return y - parameters, jnp.zeros_like(y)


@kind("spline")
@dataclasses.dataclass(frozen=True)
class Spline(Map):
  """A monotonic rational-quadratic spline on [-bound, bound], the identity outside, then a shift.

  Durkan et al. (Neural Spline Flows, 2019), section 3.1, with derivatives 1 at both ends. With two
  bins on [-0.5, 0.5] it has one interior knot, as robustNF's (ICCV 2023). Far from 0 it is a shift,
  so its inverse does not explode on what training has not seen. For a number z in the bin from
  (x0, y0) to (x1, y1), with w = x1 - x0, h = y1 - y0, s = h / w, t = (z - x0) / w and derivatives
  d0, d1 at its ends:

      y = y0 + h (s t^2 + d0 t (1 - t)) / (s + (d0 + d1 - 2 s) t (1 - t)) + shift

  Widths and heights of n bins are `softmax(n - 1 numbers and a zero) * (1 - n e) + e` of the
  interval, e = 1e-3; interior derivatives are `exp(number) (1 - e) + e`.

  Attributes:
    bins: n.
    bound: half of the interval's length.
  """

  bins: int = limited(2, at_least=2, at_most=64)
  bound: float = limited(0.5, above=0.0)

  @property
  def numbers(self) -> int:
    """Of widths, heights and derivatives n - 1 each, and the shift."""
    return 3 * (self.bins - 1) + 1

  def parameters(self, h: Numbers) -> tuple[Knots, Knots, Knots, Values]:
    """The knots' x, y and derivatives, and the shift."""
    inner = self.bins - 1
    slopes = jnp.exp(h[..., 2 * inner : 3 * inner]) * (1 - _LEAST) + _LEAST
    ends = jnp.ones_like(slopes[..., :1])
    x, y = self._knots(h[..., :inner]), self._knots(h[..., inner : 2 * inner])
    return x, y, jnp.concatenate([ends, slopes, ends], -1), h[..., -1]

  def _knots(
    self, numbers: Float[AnyArray, "*pixels C inner"]
  ) -> Float[Array, "*pixels C inner+2"]:
    """The ends of the bins whose sizes the numbers say."""
    numbers = jnp.concatenate([numbers, jnp.zeros_like(numbers[..., :1])], -1)
    sizes = jax.nn.softmax(numbers, -1) * (1 - self.bins * _LEAST) + _LEAST
    inner = self.bound * (2 * jnp.cumsum(sizes[..., :-1], -1) - 1)
    end = jnp.full_like(inner[..., :1], self.bound)
    return jnp.concatenate([-end, inner, end], -1)

  def _bin(
    self, z: Values, knots: Knots, parameters: tuple[Array, ...]
  ) -> tuple[Values, Values, Values, Values, Values, Values]:
    """Of the bin of `knots` that each z is in: x0, w, y0, h, d0, d1."""
    x, y, slopes, _ = parameters
    number = jnp.sum(z[..., None] >= knots[..., 1:-1], -1)  # of the knots that z is beyond
    chosen = jax.nn.one_hot(number, self.bins, dtype=x.dtype)

    def at(values: Array) -> Array:
      return jnp.sum(chosen * values, -1)

    x0, y0 = at(x[..., :-1]), at(y[..., :-1])
    return (
      x0,
      at(x[..., 1:]) - x0,
      y0,
      at(y[..., 1:]) - y0,
      at(slopes[..., :-1]),
      at(slopes[..., 1:]),
    )

  @staticmethod
  def _log_derivative(t: Values, s: Values, d0: Values, d1: Values) -> Values:
    """The logarithm of the spline's derivative within a bin."""
    mixed = t * (1 - t)
    above = s**2 * (d1 * t**2 + 2 * s * mixed + d0 * (1 - t) ** 2)
    return jnp.log(above) - 2 * jnp.log(s + (d0 + d1 - 2 * s) * mixed)

  def forward(self, z: Values, parameters: tuple[Array, ...]) -> tuple[Values, Values]:
    """See the class."""
    inside = jnp.abs(z) < self.bound
    x0, w, y0, h, d0, d1 = self._bin(z, parameters[0], parameters)
    s = h / w
    # Outside, t stays within the bin: what is not taken must be finite for the gradient's sake.
    t = jnp.clip((z - x0) / w, 0, 1)
    mixed = t * (1 - t)
    y = y0 + h * (s * t**2 + d0 * mixed) / (s + (d0 + d1 - 2 * s) * mixed)
    log_derivative = jnp.where(inside, self._log_derivative(t, s, d0, d1), 0.0)
    return jnp.where(inside, y, z) + parameters[-1], log_derivative

  def inverse(self, y: Values, parameters: tuple[Array, ...]) -> tuple[Values, Values]:
    """Solves the bin's quadratic equation for t, by the root that has no cancellation."""
    y = y - parameters[-1]
    inside = jnp.abs(y) < self.bound
    x0, w, y0, h, d0, d1 = self._bin(y, parameters[1], parameters)
    s, bend = h / w, d0 + d1 - 2 * h / w
    rise = jnp.clip(y - y0, 0, h)
    a, b, c = h * (s - d0) + rise * bend, h * d0 - rise * bend, -s * rise
    root = jnp.sqrt(jnp.maximum(b**2 - 4 * a * c, 0.0))
    t = jnp.clip(2 * c / (-b - root), 0, 1)
    log_derivative = jnp.where(inside, -self._log_derivative(t, s, d0, d1), 0.0)
    return jnp.where(inside, x0 + w * t, y), log_derivative
