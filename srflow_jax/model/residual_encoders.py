"""Encoders of residual blocks at LR resolution, which are super-resolvers of their own."""

import itertools
import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from srflow_jax.blocks import limited
from srflow_jax.model.bijectors import unsqueeze
from srflow_jax.model.encoders import Encoder, Trunk, he_conv
from srflow_jax.model.features import Given
from srflow_jax.model.kinds import kind
from srflow_jax.ops.convolutions import conv, leaky_relu, relu, upsample_nearest
from srflow_jax.ops.repeated import repeated

Array = jax.Array
DenseWeights = tuple[list[Array], Array]  # kernels `[3, 3, channels, O]` of each map, biases `[O]`

# Where the skip around an RRDB's whole trunk starts. Weights of one are useless with the other.
GLOBAL_SKIPS = ("last_block", "first_conv")


def run_blocks(
  blocks: nn.Module, x: Array, num_blocks: int, taps: tuple[int, ...]
) -> tuple[Array, Array]:
  """Runs equal blocks in a row and keeps the outputs of those that are tapped, and no others.

  Args:
    blocks: a scan of blocks (`ops.repeated`). Its method `weights`, `(None) -> (None, weights)`,
      arranges the parameters of all blocks before any of them runs, which itself is a call
      `((x, kept), slot, weights) -> ((x, kept), None)`.
    x: what enters the first.
    num_blocks: how many there are.
    taps: 0-based numbers of the tapped ones.

  Returns:
    What leaves the last, and the tapped outputs, in order, along the last axis.
  """
  order = sorted(taps)
  # Each block writes its output to its slot; those that are not tapped share one that is not read.
  slots = [order.index(i) if i in order else len(order) for i in range(num_blocks)]
  kept = jnp.zeros((len(order) + 1, *x.shape), x.dtype)
  _, weights = blocks.weights(None)
  weights = jax.tree.map(lambda leaf: leaf.astype(x.dtype), weights)
  (x, kept), _ = blocks((x, kept), jnp.asarray(slots), weights)
  return x, jnp.concatenate([*kept[:-1]], -1) if order else x[..., :0]


class DenseBlock(nn.Module):
  """Five densely connected convolutions: `x + 0.2 * conv5([x, 4 maps])`.

  Each map is convolved once, for all the layers that see it: so a CPU gathers once what the kernels
  see, and nothing concatenates maps. docs/speed.md and docs/gpu.md have the figures.
  """

  width: int
  growth: int

  def setup(self) -> None:
    sizes = [self.growth] * 4 + [self.width]
    self.convs = [
      he_conv(size, gain=0.1, fan_in=self.width + i * self.growth) for i, size in enumerate(sizes)
    ]

  def weights(self) -> DenseWeights:
    """For x and each of the four maps, the kernels over it of all layers that see it; biases."""
    sizes = [self.width] + [self.growth] * 4
    starts = list(itertools.accumulate(sizes, initial=0))
    kernels, biases = zip(
      *(layer.weights(start) for layer, start in zip(self.convs, starts[1:], strict=True)),
      strict=True,
    )
    of_maps = [
      jnp.concatenate([k[:, :, start : start + size] for k in kernels[i:]], -1)
      for i, (start, size) in enumerate(zip(starts[:-1], sizes, strict=True))
    ]
    return of_maps, jnp.concatenate(biases)

  def __call__(self, x: Array, weights: DenseWeights) -> Array:
    """Maps `[B, h, w, width]` to the same shape, with what `weights` gives, of x's type."""
    kernels, biases = weights
    parts = [conv(x, kernels[0]) + biases]  # what each map adds to the layers that see it
    for layer, kernel in enumerate(kernels[1:]):
      starts = range(layer * self.growth, -1, -self.growth)  # in the parts so far
      own = [part[..., i : i + self.growth] for part, i in zip(parts, starts, strict=True)]
      parts.append(conv(leaky_relu(sum(own[1:], own[0])), kernel))
    last = [part[..., -self.width :] for part in parts]
    return x + 0.2 * sum(last[1:], last[0])


class RRDBBlock(nn.Module):
  """Three dense blocks in a residual: `x + 0.2 * out`."""

  width: int
  growth: int

  def setup(self) -> None:
    self.dense_blocks = [DenseBlock(self.width, self.growth) for _ in range(3)]

  def weights(self, carry: None) -> tuple[None, list[DenseWeights]]:
    """As `run_blocks` asks for."""
    return carry, [block.weights() for block in self.dense_blocks]

  def transform(self, x: Array, weights: list[DenseWeights]) -> Array:
    """Maps `[B, h, w, width]` to the same shape."""
    out = x
    for block, of_block in zip(self.dense_blocks, weights, strict=True):
      out = block(out, of_block)
    return x + 0.2 * out

  def __call__(
    self, carry: tuple[Array, Array], slot: Array, weights: list[DenseWeights]
  ) -> tuple[tuple[Array, Array], None]:
    """As `run_blocks` asks for."""
    x, kept = carry
    x = self.transform(x, weights)
    return (x, kept.at[slot].set(x)), None


class ResidualBlock(nn.Module):
  """EDSR's block: `x + conv(relu(conv(x)))`, without normalisation."""

  width: int

  def setup(self) -> None:
    self.conv_0, self.conv_1 = (he_conv(self.width, fan_in=self.width) for _ in range(2))

  def weights(self, carry: None) -> tuple[None, None]:
    """As `run_blocks` asks for: they are used as they are."""
    return carry, None

  def transform(self, x: Array) -> Array:
    """Maps `[B, h, w, width]` to the same shape."""
    return x + self.conv_1(relu(self.conv_0(x)))

  def __call__(
    self, carry: tuple[Array, Array], slot: Array, weights: None
  ) -> tuple[tuple[Array, Array], None]:
    """As `run_blocks` asks for."""
    x, kept = carry
    x = self.transform(x)
    return (x, kept.at[slot].set(x)), None


def _blocks(
  block: type[nn.Module], num_blocks: int, remat: bool = False, unroll: bool = False
) -> type[nn.Module]:
  # The backward pass keeps the input of each block, and the buffer of tapped outputs only once.
  block = nn.remat(block, prevent_cse=False, methods=("transform",)) if remat else block
  return repeated(block, num_blocks, {"__call__": False}, batched=("weights",), unroll=unroll)


def blocks_in_a_row(num_blocks: int) -> type[nn.Module]:
  """RRDB blocks for `run_blocks`, made of a width and a growth."""
  return _blocks(RRDBBlock, num_blocks)


def check_taps(settings: dict) -> None:
  """Raises `ValueError` if the `taps` of settings are not different blocks of its `num_blocks`."""
  taps, num_blocks = settings["taps"], settings["num_blocks"]
  if not all(0 <= tap < num_blocks for tap in taps) or len(set(taps)) < len(taps):
    raise ValueError(f"taps {taps} must be different and lie in [0, num_blocks = {num_blocks})")


class TappedEncoder(Encoder):
  """An encoder whose features are its own map and taps of as many channels."""

  width: ClassVar[int]
  taps: ClassVar[tuple[int, ...]]

  @property
  def feature_channels(self) -> int:
    """The channels of the own map and of the taps."""
    return self.width * (1 + len(self.taps))


@kind("rrdb")
class RRDB(TappedEncoder):
  """The RRDB network (ESRGAN, Wang et al. 2018), and a super-resolver of its own.

  Attributes:
    width: channels between blocks.
    growth: channels that each dense convolution adds.
    num_blocks: RRDB blocks in the trunk.
    taps: 0-based blocks whose outputs the flow sees.
    global_skip: where the skip around the trunk starts: "last_block" (SRFlow) or "first_conv"
      (ESRGAN, Real-ESRGAN, BasicSR).
  """

  has_published_names: ClassVar[bool] = True

  super_resolves: ClassVar[bool] = True

  width: int = limited(at_least=1, at_most=4096)
  growth: int = limited(at_least=1, at_most=4096)
  num_blocks: int = limited(at_least=1, at_most=1024)
  taps: tuple[int, ...] = limited(at_least=0)
  global_skip: str = limited(one_of=GLOBAL_SKIPS)

  check_settings = staticmethod(check_taps)

  def setup(self) -> None:
    self.conv_first = he_conv(self.width, fan_in=3)
    blocks = _blocks(RRDBBlock, self.num_blocks, self.remat, self.unroll)
    self.blocks = blocks(self.width, self.growth)
    self.trunk_conv = he_conv(self.width, gain=0.1, fan_in=self.width)
    ups = int(math.log2(self.scale))
    self.upconvs = [he_conv(self.width, fan_in=self.width) for _ in range(ups)]
    self.hr_conv = he_conv(self.width, fan_in=self.width)
    self.conv_last = he_conv(3, gain=0.1, fan_in=self.width)

  @property
  def reach(self) -> int:
    """What lies beyond fades with each block that passes it on (`benchmarks/tiles.py`)."""
    return 4 * self.num_blocks

  def trunk(self, given: Given) -> Trunk:
    """See the base class."""
    first = self.conv_first(self._input(given))
    x, taps = run_blocks(self.blocks, first, self.num_blocks, self.taps)
    skip = first if self.global_skip == "first_conv" else x
    return skip + self.trunk_conv(x), taps

  def upsample(self, own: Array, times: int) -> list[Array]:
    """Nearest neighbour, convolution, LeakyReLU; each map is taken after that."""
    maps = []
    for layer in self.upconvs[:times]:
      own = leaky_relu(layer(upsample_nearest(own, 2)))
      maps.append(own)
    return maps

  def super_resolve(self, trunk: Trunk) -> Array:
    """See the base class."""
    x = self.upsample(trunk[0], len(self.upconvs))[-1]
    return self.conv_last(leaky_relu(self.hr_conv(x))).astype(jnp.promote_types(x.dtype, "float32"))


@kind("edsr")
class EDSR(TappedEncoder):
  """EDSR's baseline (Lim et al., CVPR-W 2017), and a super-resolver of its own.

  Upsampling is a convolution to four times the channels, whose channels are then unfolded.

  Attributes:
    width: channels between blocks.
    num_blocks: residual blocks.
    taps: 0-based blocks whose outputs the flow sees.
  """

  super_resolves: ClassVar[bool] = True

  width: int = limited(64, at_least=1, at_most=4096)
  num_blocks: int = limited(16, at_least=1, at_most=1024)
  taps: tuple[int, ...] = limited((), at_least=0)

  check_settings = staticmethod(check_taps)

  def setup(self) -> None:
    self.conv_first = he_conv(self.width, fan_in=3)
    blocks = _blocks(ResidualBlock, self.num_blocks, self.remat, self.unroll)
    self.blocks = blocks(self.width)
    self.trunk_conv = he_conv(self.width, gain=0.1, fan_in=self.width)
    ups = int(math.log2(self.scale))
    self.upconvs = [he_conv(4 * self.width, fan_in=self.width) for _ in range(ups)]
    self.conv_last = he_conv(3, gain=0.1, fan_in=self.width)

  @property
  def reach(self) -> int:
    """It sees one pixel further with each convolution."""
    return 2 * self.num_blocks + 3

  def trunk(self, given: Given) -> Trunk:
    """See the base class."""
    first = self.conv_first(self._input(given))
    x, taps = run_blocks(self.blocks, first, self.num_blocks, self.taps)
    return first + self.trunk_conv(x), taps

  def upsample(self, own: Array, times: int) -> list[Array]:
    """Convolution to four times the channels, which become four pixels."""
    maps = []
    for layer in self.upconvs[:times]:
      own = unsqueeze(layer(own), 2)
      maps.append(own)
    return maps

  def super_resolve(self, trunk: Trunk) -> Array:
    """See the base class."""
    x = self.conv_last(self.upsample(trunk[0], len(self.upconvs))[-1])
    return x.astype(jnp.promote_types(x.dtype, "float32"))
