"""The LR encoder: an RRDB network (ESRGAN, Wang et al. 2018), and a super-resolver of its own."""

import dataclasses
import math

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from srflow_jax.ops.convolutions import Conv, conv, conv_upsampled, normal_init, upsample_nearest
from srflow_jax.ops.repeated import repeated

Array = jax.Array

# Where the skip around the whole trunk starts. Weights of one are useless with the other.
GLOBAL_SKIPS = ("last_block", "first_conv")


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
  """The shape of the encoder.

  Attributes:
    width: channels between blocks.
    growth: channels that each dense convolution adds.
    num_blocks: RRDB blocks in the trunk.
    taps: 0-based blocks whose outputs the flow sees.
    global_skip: where the skip around the trunk starts: "last_block" (SRFlow) or "first_conv"
      (ESRGAN, Real-ESRGAN, BasicSR).
  """

  width: int
  growth: int
  num_blocks: int
  taps: tuple[int, ...]
  global_skip: str

  def __post_init__(self) -> None:
    object.__setattr__(self, "taps", tuple(self.taps))
    if self.num_blocks < 1:
      raise ValueError(f"encoder.num_blocks is {self.num_blocks}: it must be at least 1")
    if self.global_skip not in GLOBAL_SKIPS:
      raise ValueError(f"encoder.global_skip is {self.global_skip!r}: one of {GLOBAL_SKIPS}")
    if not all(0 <= tap < self.num_blocks for tap in self.taps):
      raise ValueError(f"encoder.taps {self.taps} must lie in [0, num_blocks = {self.num_blocks})")

  @property
  def feature_channels(self) -> int:
    """Channels of the features at one resolution: the encoder's own map and its taps."""
    return self.width * (1 + len(self.taps))


@flax.struct.dataclass
class Features:
  """What the flow sees at one resolution, `[B, h, w, feature_channels]`, in two parts.

  Attributes:
    own: the encoder's map of this resolution, `[B, h, w, width]`.
    taps: block outputs at LR resolution or below, `[B, h/repeat, w/repeat, taps * width]`: seen
      enlarged by nearest neighbour.
    repeat: the enlargement.
  """

  own: Array
  taps: Array
  repeat: int = flax.struct.field(pytree_node=False)

  def convolve(self, kernel: Array) -> Array:
    """Convolves the features with a 3x3 kernel `[3, 3, feature_channels, O]`."""
    width = self.own.shape[-1]
    if kernel.shape[2] == width:  # no taps
      return conv(self.own, kernel)
    if self.repeat == 1:
      return conv(jnp.concatenate([self.own, self.taps], -1), kernel)
    taps = conv_upsampled(self.taps, kernel[:, :, width:], self.repeat)
    return conv(self.own, kernel[:, :, :width]) + taps


def leaky_relu(x: Array) -> Array:
  """ESRGAN's activation, slope 0.2."""
  return nn.leaky_relu(x, 0.2)


def _conv(features: int, gain: float = 1.0, fan_in: int = 64) -> Conv:
  # He et al. 2015; ESRGAN scales its dense blocks' kernels by 0.1.
  stddev = gain * math.sqrt(2.0 / (9 * fan_in))
  return Conv(features, normal_init(stddev))


class DenseBlock(nn.Module):
  """Five densely connected convolutions: `x + 0.2 * conv5([x, 4 maps])`."""

  width: int
  growth: int

  def setup(self) -> None:
    sizes = [self.growth] * 4 + [self.width]
    self.convs = [
      _conv(size, gain=0.1, fan_in=self.width + i * self.growth) for i, size in enumerate(sizes)
    ]

  def __call__(self, x: Array) -> Array:
    """Maps `[B, h, w, width]` to the same shape."""
    maps = x
    for layer in self.convs[:-1]:
      maps = jnp.concatenate([maps, leaky_relu(layer(maps))], -1)
    return x + 0.2 * self.convs[-1](maps)


class RRDB(nn.Module):
  """Three dense blocks in a residual: `x + 0.2 * out`."""

  width: int
  growth: int

  def setup(self) -> None:
    self.dense_blocks = [DenseBlock(self.width, self.growth) for _ in range(3)]

  def __call__(self, x: Array) -> tuple[Array, Array]:
    """Maps `[B, h, w, width]` to the same shape; twice: for the next block, and to be tapped."""
    out = x
    for block in self.dense_blocks:
      out = block(out)
    out = x + 0.2 * out
    return out, out


class Encoder(nn.Module):
  """The RRDB network for one scale, a power of two.

  Attributes:
    spec: its shape.
    scale: HR size over LR size.
    bfloat16: computes in bfloat16; features are of that type then.
    remat: keeps only what passes between blocks for the backward pass, and computes the rest again.
  """

  spec: EncoderSpec
  scale: int
  bfloat16: bool = False
  remat: bool = False

  def setup(self) -> None:
    spec = self.spec
    self.conv_first = _conv(spec.width, fan_in=3)
    block = nn.remat(RRDB, prevent_cse=False) if self.remat else RRDB
    blocks = repeated(block, spec.num_blocks, {"__call__": False})
    self.blocks = blocks(spec.width, spec.growth)
    self.trunk_conv = _conv(spec.width, gain=0.1, fan_in=spec.width)
    ups = int(math.log2(self.scale))
    self.upconvs = [_conv(spec.width, fan_in=spec.width) for _ in range(ups)]
    self.hr_conv = _conv(spec.width, fan_in=spec.width)
    self.conv_last = _conv(3, gain=0.1, fan_in=spec.width)

  def trunk(self, lr: Array) -> tuple[Array, Array]:
    """The encoder's own map at LR resolution `[B, h, w, width]`, and its taps."""
    x = first = self.conv_first(lr.astype(jnp.bfloat16) if self.bfloat16 else lr)
    x, outputs = self.blocks(x)
    taps = [outputs[i] for i in sorted(self.spec.taps)]
    skip = first if self.spec.global_skip == "first_conv" else x
    taps = jnp.concatenate(taps, -1) if taps else x[..., :0]
    return skip + self.trunk_conv(x), taps

  def upsample(self, x: Array, times: int) -> list[Array]:
    """Doubles the own map so many times; each map is taken after its LeakyReLU."""
    maps = []
    for layer in self.upconvs[:times]:
      x = leaky_relu(layer(upsample_nearest(x, 2)))
      maps.append(x)
    return maps

  def features(self, lr: Array, downscales: tuple[int, ...]) -> dict[int, Features]:
    """Features of lr `[B, h, w, 3]` at HR size divided by each of `downscales`, powers of two.

    Above LR resolution the own map comes from the upsampling layers; below it, it is the mean of
    the pixels it covers, and the taps keep the top-left of them (nearest neighbour).
    """
    own, taps = self.trunk(lr)
    finest = min(downscales)
    maps = {self.scale: own}
    for i, x in enumerate(self.upsample(own, max(0, int(math.log2(self.scale / finest)))), 1):
      maps[self.scale // 2**i] = x
    result = {}
    for downscale in downscales:
      if downscale <= self.scale:
        result[downscale] = Features(maps[downscale], taps, self.scale // downscale)
      else:
        f = downscale // self.scale
        b, h, w, c = own.shape
        mean = own.reshape(b, h // f, f, w // f, f, c).mean((2, 4))
        result[downscale] = Features(mean, taps[:, ::f, ::f], 1)
    return result

  def super_resolve(self, lr: Array) -> Array:
    """The network's own super-resolution `[B, h*scale, w*scale, 3]`, used to pretrain it."""
    x = self.trunk(lr)[0]
    x = self.upsample(x, len(self.upconvs))[-1]
    return self.conv_last(leaky_relu(self.hr_conv(x))).astype(lr.dtype)
