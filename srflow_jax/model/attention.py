"""A windowed transformer as the net of a coupling or an injector."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from srflow_jax.blocks import limited
from srflow_jax.model.kinds import kind
from srflow_jax.model.nets import Net, ZeroConv
from srflow_jax.ops.convolutions import Conv, conv, normal_init

Array = jax.Array

_dense = functools.partial(Conv, kernel_init=normal_init(0.05), size=1)  # at every pixel


def to_windows(x: Array, window: int) -> Array:
  """Cuts `[B, h, w, C]` into windows, `[B, h/window, w/window, window * window, C]`."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // window, window, w // window, window, c).swapaxes(2, 3)
  return x.reshape(b, h // window, w // window, window**2, c)


def from_windows(x: Array, window: int) -> Array:
  """The inverse of `to_windows`."""
  b, rows, columns, _, c = x.shape
  x = x.reshape(b, rows, columns, window, window, c).swapaxes(2, 3)
  return x.reshape(b, rows * window, columns * window, c)


class WindowAttention(nn.Module):
  """Each pixel's attention to the pixels of its window.

      softmax(q k^T / sqrt(d) + bias[position of the key less that of the query]) v

  With a shift, windows begin half of one before the image, and what of them lies outside of it is
  not attended to (Swin, Liu et al. 2021, section 3.2).

  Attributes:
    heads: into which the channels are divided.
    window: its side.
    shift: whether windows are shifted.
  """

  heads: int
  window: int
  shift: bool

  @nn.compact
  def __call__(self, x: Array, seen: Array) -> Array:
    """What pixels of x take from pixels of `seen`, both `[B, h, w, C]`."""
    width, half = x.shape[-1], self.window // 2 * self.shift
    pads = ((0, 0), (half, half), (half, half), (0, 0))
    inside = jnp.pad(jnp.ones((1, *x.shape[1:3], 1), bool), pads)
    # A bias of the keys would add one number to all logits of a query, which changes nothing.
    queries, keys, values = (
      self._heads(jnp.pad(_dense(width, use_bias=name != "key", name=name)(source), pads))
      for name, source in (("query", x), ("key", seen), ("value", seen))
    )
    logits = jnp.einsum("brcqnd,brcknd->brcnqk", queries, keys) * (width // self.heads) ** -0.5
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) + self._bias()
    masked = ~to_windows(inside, self.window)[:, :, :, None, None, :, 0]
    weights = jax.nn.softmax(jnp.where(masked, -jnp.inf, logits), -1).astype(x.dtype)
    y = jnp.einsum("brcnqk,brcknd->brcqnd", weights, values)
    y = from_windows(y.reshape(*y.shape[:-2], width), self.window)
    return _dense(width, name="out")(y[:, half : half + x.shape[1], half : half + x.shape[2]])

  def _heads(self, x: Array) -> Array:
    x = to_windows(x, self.window)
    return x.reshape(*x.shape[:-1], self.heads, -1)

  def _bias(self) -> Array:
    """A number a head for each relative position, `[heads, window^2, window^2]`."""
    side = 2 * self.window - 1
    table = self.param("bias", nn.initializers.zeros, (side * side, self.heads), jnp.float32)
    position = np.stack(np.divmod(np.arange(self.window**2), self.window), -1)
    relative = position[None, :] - position[:, None] + self.window - 1
    return jnp.moveaxis(table[relative[..., 0] * side + relative[..., 1]], -1, 0)


class Block(nn.Module):
  """Attention to the window's pixels, to its features, and two dense layers; all residual."""

  heads: int
  window: int
  shift: bool

  @nn.compact
  def __call__(self, x: Array, u: Array | None) -> Array:
    """Maps x `[B, h, w, C]`, given features u of the same shape."""
    settings = self.heads, self.window, self.shift
    normed = _norm(x)
    x = x + WindowAttention(*settings, name="own")(normed, normed)
    if u is not None:
      x = x + WindowAttention(*settings, name="features")(_norm(x), u)
    hidden = jax.nn.gelu(_dense(2 * x.shape[-1], name="hidden")(_norm(x)))
    return x + _dense(x.shape[-1], name="last")(hidden)


def _norm(x: Array) -> Array:
  """A pixel's channels, of mean 0 and variance 1; the layer after it can scale and shift."""
  x32 = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  mean, variance = jnp.mean(x32, -1, keepdims=True), jnp.var(x32, -1, keepdims=True)
  return ((x32 - mean) * jax.lax.rsqrt(variance + 1e-5)).astype(x.dtype)


@kind("transformer")
class Transformer(Net):
  """A transformer whose attention is within windows: `[a, u]` → h (Jet's idea, Swin's windows).

  Jet (Kolesnikov et al. 2024) has a ViT over a whole small image as the net of each coupling. Here
  windows of a fixed size, every second block's shifted by half, let images be of any size, and
  tiles as exact as for convolutions. Features enter twice: a first 3x3 convolution sees `[a, u]`,
  as `Convolutions` does, and each block attends to another one of u alone.

  Attributes:
    width: channels.
    depth: blocks.
    heads: of the attention; they divide the width.
    window: the side of a window in pixels of the layer's resolution, even. Images are padded to
      multiples of it.
  """

  width: int = limited(64, at_least=1, at_most=4096)
  depth: int = limited(2, at_least=1, at_most=256)
  heads: int = limited(4, at_least=1, at_most=256)
  window: int = limited(8, at_least=2, at_most=64)

  @staticmethod
  def check_settings(settings: dict[str, int]) -> None:
    """Raises `ValueError` if the heads do not divide the width, or the window has no half."""
    width, heads = settings["width"], settings["heads"]
    if width % heads:
      raise ValueError(f"heads is {heads}: it must divide width, {width}")
    if settings["window"] % 2:
      raise ValueError(f"window is {settings['window']}: it must be even")

  @property
  def reach(self) -> int:
    """A window more with each block that is shifted, and the convolutions around."""
    return self.window * (1 + self.depth // 2) + 2

  @property
  def multiple(self) -> int:
    """The window."""
    return self.window

  def setup(self) -> None:
    shape = (3, 3, self.own_channels + self.feature_channels, self.width)
    self.first_kernel = self.param("first_kernel", normal_init(0.05), shape)
    self.first_bias = self.param("first_bias", nn.initializers.zeros, (self.width,), jnp.float32)
    if self.feature_channels:
      shape = (3, 3, self.feature_channels, self.width)
      self.seen_kernel = self.param("seen_kernel", normal_init(0.05), shape)
    self.blocks = [Block(self.heads, self.window, i % 2 == 1) for i in range(self.depth)]
    self.last = ZeroConv(self.out)

  def feature_kernel(self) -> Array | None:
    """Of both convolutions that see u."""
    if not self.feature_channels:
      return None
    return jnp.concatenate([self.first_kernel[:, :, self.own_channels :], self.seen_kernel], -1)

  def __call__(self, a: Array | None, u: Array | None) -> Array:
    """See the base class."""
    x = seen = None
    if u is not None:
      x, seen = u[..., : self.width], _norm(u[..., self.width :])
    if a is not None:
      a = a if u is None else a.astype(u.dtype)
      own = conv(a, self.first_kernel[:, :, : self.own_channels])
      x = own if x is None else own + x
    assert x is not None  # a net has a or u
    x = x + self.first_bias.astype(x.dtype)
    for block in self.blocks:
      x = block(x, seen)
    return self.last(x)
