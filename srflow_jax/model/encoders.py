"""Encoders: features of the LR image at the resolutions that the flow uses.

An encoder computes a *trunk* at LR resolution once: its own map, and taps of earlier maps. From it
come the features at each resolution and, of encoders that have one, a super-resolution of its own.
"""

import abc
import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from srflow_jax.blocks import limited
from srflow_jax.model.features import Features, Given
from srflow_jax.model.kinds import Place, kind
from srflow_jax.ops.convolutions import Conv, leaky_relu, normal_init, upsample_nearest

Array = jax.Array
Trunk = tuple[Array, Array]  # the own map `[B, h, w, width]`, and the taps `[B, h, w, ...]`


class Encoder(nn.Module, Place, kw_only=True):
  """A network on LR images.

  Attributes:
    scale: HR size over LR size, a power of two.
    bfloat16: computes in bfloat16; features are of that type then.
    remat: keeps only what passes between blocks for the backward pass, and computes the rest again.
    unroll: lays equal blocks out one after the other.
    super_resolves: whether it has a super-resolution of its own.
  """

  place: ClassVar[str] = "encoder"
  published: ClassVar[str] = "rrdb"
  super_resolves: ClassVar[bool] = False

  scale: int
  bfloat16: bool = False
  remat: bool = False
  unroll: bool = False

  @property
  @abc.abstractmethod
  def feature_channels(self) -> int:
    """Channels of the features at any resolution."""
    raise NotImplementedError

  @property
  @abc.abstractmethod
  def reach(self) -> int:
    """LR pixels beyond which what it sees changes a sample by less than a quarter of a grey level.

    Tiles overlap by this and what the nets reach.
    """
    raise NotImplementedError

  @abc.abstractmethod
  def trunk(self, given: Given) -> Trunk:
    """The encoder's own map at LR resolution, and its taps."""
    raise NotImplementedError

  def upsample(self, own: Array, times: int) -> list[Array]:
    """Doubles the own map so many times; returns the map after each."""
    raise NotImplementedError

  def super_resolve(self, trunk: Trunk) -> Array:
    """The encoder's own super-resolution `[B, h * scale, w * scale, 3]`, not clipped."""
    raise NotImplementedError

  def features(self, trunk: Trunk, downscales: tuple[int, ...]) -> dict[int, Features]:
    """Features at HR size divided by each of `downscales`, powers of two.

    Above LR resolution the own map comes from the upsampling layers; below it, it is the mean of
    the pixels that it covers, and the taps keep the top-left of them (nearest neighbour).
    """
    own, taps = trunk
    times = max(0, int(math.log2(self.scale / min(downscales))))
    maps = {self.scale // 2**i: x for i, x in enumerate([own, *self.upsample(own, times)])}
    return {
      downscale: Features(maps[downscale], taps, self.scale // downscale)
      if downscale <= self.scale
      else _below(own, taps, downscale // self.scale)
      for downscale in downscales
    }

  def _input(self, given: Given) -> Array:
    return jnp.asarray(given.lr, jnp.bfloat16 if self.bfloat16 else None)


def _below(own: Array, taps: Array, factor: int) -> Features:
  """Features at LR size divided by `factor`."""
  b, h, w, c = own.shape
  mean = own.reshape(b, h // factor, factor, w // factor, factor, c).mean((2, 4))
  return Features(mean, taps[:, ::factor, ::factor], 1)


def he_conv(features: int, gain: float = 1.0, fan_in: int = 64) -> Conv:
  """A 3x3 convolution with kernels at first as He et al. (2015) draw them, times a gain."""
  stddev = gain * math.sqrt(2.0 / (9 * fan_in))
  return Conv(features, normal_init(stddev))


@kind("none")
class NoEncoder(Encoder):
  """One convolution of the LR image, enlarged by nearest neighbour where the flow is finer.

  Attributes:
    width: channels of its map.
  """

  width: int = limited(64, at_least=1, at_most=4096)

  def setup(self) -> None:
    self.conv_first = he_conv(self.width, fan_in=3)

  @property
  def feature_channels(self) -> int:
    """The channels of the map."""
    return self.width

  @property
  def reach(self) -> int:
    """One pixel."""
    return 1

  def trunk(self, given: Given) -> Trunk:
    """See the base class."""
    x = leaky_relu(self.conv_first(self._input(given)))
    return x, x[..., :0]

  def upsample(self, own: Array, times: int) -> list[Array]:
    """Nearest neighbour."""
    return [upsample_nearest(own, 2 ** (i + 1)) for i in range(times)]
