"""The nets that turn features into shifts and scales. They know nothing of flows.

A net's input is `[a, u]`: channels a of the flow, which every sample changes, and features u of the
LR image, which no sample changes. The first convolution is linear, so it is the sum of one over a
and one over u; its kernel is a single parameter, `[k, k, a + u, width]`, and the half over u is
computed once for an LR image, by whoever holds the features (`srflow_jax.model.flow`).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from srflow_jax.ops.convolutions import Conv, conv, normal_init, relu

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ConditionerSpec:
  """The shape of a conditioner net: a first 3x3 convolution, hidden ones, a zero convolution.

  Attributes:
    width: channels of every hidden layer.
    num_hidden: hidden convolutions after the first.
    hidden_kernel: their kernel size, 1 or 3.
    residual_every: add a skip connection around every so many hidden convolutions; 0 for none.
    normalize: give each convolution an actnorm in place of its bias.
  """

  width: int
  num_hidden: int
  hidden_kernel: int
  residual_every: int
  normalize: bool

  def __post_init__(self) -> None:
    if self.width < 1 or self.num_hidden < 0 or self.hidden_kernel not in (1, 3):
      raise ValueError(
        f"conditioner needs width >= 1, num_hidden >= 0, hidden_kernel 1 or 3: {self}"
      )
    if self.residual_every < 0 or (self.residual_every and self.num_hidden % self.residual_every):
      raise ValueError(f"conditioner's residual_every must divide num_hidden: {self}")


class ZeroConv(nn.Module):
  """A 3x3 convolution with bias, times `exp(3 * logs)` a channel; all zero at first.

  Whatever type it computes in, what comes out is of the parameters' type.
  """

  out: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps `[B, H, W, C]` to `[B, H, W, out]`."""
    h = Conv(self.out, nn.initializers.zeros, name="conv")(x)
    return h * jnp.exp(3.0 * self.param("logs", nn.initializers.zeros, (self.out,), jnp.float32))


def actnorm_params(layer: nn.Module, x: Array) -> tuple[Array, Array]:
  """A layer's `bias` and `logs` `[C]` of an actnorm: `(x + bias) * exp(logs)`.

  They are set by the first batch, so that it leaves with mean 0 and variance 1 a channel (Glow,
  section 3.1). `init` must see real data.
  """
  first = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  bias = layer.param("bias", lambda _: -jnp.mean(first, (0, 1, 2)))
  logs = layer.param("logs", lambda _: -jnp.log(jnp.std(first, (0, 1, 2)) + 1e-6))
  return bias, logs


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


class Conditioner(nn.Module):
  """A net `[a, u]` → h, of `own_channels` + `feature_channels` → `out` channels.

  It computes in the features' type.
  """

  spec: ConditionerSpec
  own_channels: int
  feature_channels: int
  out: int

  def setup(self) -> None:
    spec = self.spec
    init = normal_init(0.05)
    shape = (3, 3, self.own_channels + self.feature_channels, spec.width)
    self.first_kernel = self.param("first_kernel", init, shape)
    self.first_norm = _Normalize(spec.normalize)
    self.hidden = [
      Conv(spec.width, init, spec.hidden_kernel, use_bias=False) for _ in range(spec.num_hidden)
    ]
    self.hidden_norm = [_Normalize(spec.normalize) for _ in range(spec.num_hidden)]
    self.last = ZeroConv(self.out)

  def feature_kernel(self) -> Array:
    """The part of the first kernel that sees the features, `[3, 3, feature_channels, width]`."""
    return self.first_kernel[:, :, self.own_channels :]

  def __call__(self, a: Array | None, features_convolved: Array) -> Array:
    """Returns h `[B, H, W, out]`.

    Args:
      a: the flow's own channels `[B, H, W, own_channels]`; None where the net has none.
      features_convolved: the features convolved with `feature_kernel()`, `[B, H, W, width]`.
    """
    x = features_convolved
    if self.own_channels:
      x = conv(a.astype(x.dtype), self.first_kernel[:, :, : self.own_channels]) + x
    x = skip = relu(self.first_norm(x))
    for i, (layer, norm) in enumerate(zip(self.hidden, self.hidden_norm, strict=True), start=1):
      x = relu(norm(layer(x)))
      if self.spec.residual_every and i % self.spec.residual_every == 0:
        x = skip = x + skip
    return self.last(x)
