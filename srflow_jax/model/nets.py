"""The nets that tell maps what to do. They know nothing of flows.

A net's input is `[a, u]`: channels a of the flow, which every sample changes, and features u of the
LR image, which no sample changes. Either may be absent. A first convolution is linear, so it is the
sum of one over a and one over u; a net that has one may give its kernel over u (`feature_kernel`),
and the convolution is then computed once for an LR image, together with those of all other nets.
"""

import abc
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from srflow_jax.blocks import limited
from srflow_jax.model.bijectors import actnorm_params
from srflow_jax.model.kinds import Part, Place, kind
from srflow_jax.ops.convolutions import Conv, conv, normal_init, relu

Array = jax.Array


class Net(nn.Module, Place, kw_only=True):
  """A net `[a, u]` → h; h must be zero at initialisation.

  Attributes:
    own_channels: channels of a; 0 for a net without a.
    feature_channels: channels of u; 0 for a net without u.
    out: channels of h.
    reach: LR pixels beyond which what a net sees changes a sample by less than a quarter of a grey
      level (measured for the published nets). Tiles overlap by this and the encoder's. A net is not
      told its resolution: where one counts its own pixels, that is too many at stages finer than
      LR, and too few at coarser ones (`benchmarks/tiles.py` measures what tiles then cost).
    multiple: what height and width of a and u must be multiples of; images are padded to that, and
      tiles begin at such pixels.
  """

  place: ClassVar[str] = "conditioner"
  published: ClassVar[str] = "convolutions"
  reach: ClassVar[int] = 8
  multiple: ClassVar[int] = 1

  own_channels: int
  feature_channels: int
  out: int

  @property
  def radius(self) -> int | None:
    """How far h sees a, in pixels of its own resolution; None where no bound is known."""
    return None

  def feature_kernel(self) -> Array | None:
    """A first convolution's kernel over u, `[3, 3, feature_channels, O]`; None: there is none."""
    return None

  @abc.abstractmethod
  def __call__(self, a: Array | None, u: Array | None) -> Array:
    """Returns h `[B, H, W, out]`, of the parameters' type, whatever type the net computes in.

    Args:
      a: the flow's own channels `[B, H, W, own_channels]`; None where the net has none.
      u: the features convolved with `feature_kernel()`, or the features `[B, H, W,
        feature_channels]` if that is None; None where the net has none.
    """
    raise NotImplementedError


def property_of(net: Part, name: str) -> int:
  """A net's `reach` or `multiple`, which may depend on its settings."""
  return getattr(net.unbound(own_channels=1, feature_channels=1, out=1), name)


def radius_of(net: Part) -> int | None:
  """A net's `radius`."""
  return net.unbound(own_channels=1, feature_channels=1, out=1).radius


class ZeroConv(nn.Module):
  """A 3x3 convolution with bias, times `exp(3 * logs)` a channel; all zero at first (Glow).

  Whatever type it computes in, what comes out is of the parameters' type.
  """

  out: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps `[B, H, W, C]` to `[B, H, W, out]`."""
    h = Conv(self.out, nn.initializers.zeros, name="conv")(x)
    return h * jnp.exp(3.0 * self.param("logs", nn.initializers.zeros, (self.out,), jnp.float32))


class _Normalize(nn.Module):
  """What follows a convolution: a bias, or an actnorm that the first batch sets."""

  actnorm: bool

  @nn.compact
  def __call__(self, x: Array) -> Array:
    if not self.actnorm:
      bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
      return x + bias.astype(x.dtype)
    bias, logs = actnorm_params(self, x)
    return ((x + bias) * jnp.exp(logs)).astype(x.dtype)


@kind("convolutions")
class Convolutions(Net):
  """A first 3x3 convolution, hidden ones, a zero convolution; ReLUs between (SRFlow, SRFlow-DA).

  It computes in the features' type.

  Attributes:
    width: channels of every hidden layer.
    num_hidden: hidden convolutions after the first.
    hidden_kernel: their kernel size, 1 or 3.
    residual_every: a skip connection leads around every so many hidden convolutions; 0 for none.
    normalize: each convolution has an actnorm in place of its bias.
  """

  has_published_names: ClassVar[bool] = True

  width: int = limited(at_least=1, at_most=4096)
  num_hidden: int = limited(at_least=0, at_most=1024)
  hidden_kernel: int = limited(one_of=(1, 3))
  residual_every: int = limited(at_least=0)
  normalize: bool = limited()

  @staticmethod
  def check_settings(settings: dict[str, int]) -> None:
    """Raises `ValueError` if the skip connections do not fit the hidden convolutions."""
    every, num_hidden = settings["residual_every"], settings["num_hidden"]
    if every and num_hidden % every:
      raise ValueError(f"residual_every is {every}: it must divide num_hidden, {num_hidden}")

  @property
  def radius(self) -> int:
    """See the base class."""
    return 1 + self.num_hidden * (self.hidden_kernel // 2) + 1

  def setup(self) -> None:
    init = normal_init(0.05)
    shape = (3, 3, self.own_channels + self.feature_channels, self.width)
    self.first_kernel = self.param("first_kernel", init, shape)
    self.first_norm = _Normalize(self.normalize)
    self.hidden = [
      Conv(self.width, init, self.hidden_kernel, use_bias=False) for _ in range(self.num_hidden)
    ]
    self.hidden_norm = [_Normalize(self.normalize) for _ in range(self.num_hidden)]
    self.last = ZeroConv(self.out)

  def feature_kernel(self) -> Array | None:
    """See the base class."""
    return self.first_kernel[:, :, self.own_channels :] if self.feature_channels else None

  def __call__(self, a: Array | None, u: Array | None) -> Array:
    """See the base class."""
    x = u
    if a is not None:
      own = self.first_kernel[:, :, : self.own_channels]
      x = conv(a, own) if u is None else conv(a.astype(u.dtype), own) + u
    assert x is not None  # a net has a or u
    x = skip = relu(self.first_norm(x))
    for i, (layer, norm) in enumerate(zip(self.hidden, self.hidden_norm, strict=True), start=1):
      x = relu(norm(layer(x)))
      if self.residual_every and i % self.residual_every == 0:
        x = skip = x + skip
    return self.last(x)
