"""Priors that are more than one convolution: U-Nets of the features, flows, the LR image itself."""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from srflow_jax.blocks import limited
from srflow_jax.model.bijectors import Grid, LogDet, by_channel, note_inverse_factor, sum_event
from srflow_jax.model.encoders import he_conv
from srflow_jax.model.features import Features, Given
from srflow_jax.model.flow import condition_steps, steps_in_a_row
from srflow_jax.model.kinds import Part, kind, parts
from srflow_jax.model.layers import Layer
from srflow_jax.model.nets import ZeroConv
from srflow_jax.model.priors import Kept, Prior
from srflow_jax.model.residual_encoders import blocks_in_a_row, check_taps, run_blocks
from srflow_jax.ops.convolutions import Conv, normal_init, relu, upsample_nearest

Array = jax.Array


class UNet(nn.Module):
  """Convolutions at a resolution and at halves of it, with skips across (Ronneberger et al. 2015).

  Attributes:
    width: channels at the first resolution; each half has as many more.
    depth: how many times the size is halved, by 2x2 means.
    out: channels of the output, zero at first.
  """

  width: int
  depth: int
  out: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps `[B, h, w, C]`, h and w multiples of `2**depth`, to `[B, h, w, out]`."""
    init = normal_init(0.05)
    skips = []
    for level in range(self.depth):
      x = relu(Conv(self.width * (level + 1), init)(x))
      skips.append(x)
      b, h, w, c = x.shape
      x = x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
    x = relu(Conv(self.width * (self.depth + 1), init)(x))
    for level in reversed(range(self.depth)):
      x = jnp.concatenate([upsample_nearest(x, 2), skips[level]], -1)
      x = relu(Conv(self.width * (level + 1), init)(x))
    return ZeroConv(self.out)(x)


@kind("unet")
class UNetPrior(Prior):
  """A Gaussian whose mean and logs are a U-Net of the LR features: a learned, stochastic prior.

      forward:  eps = (rest - mean(u)) * exp(-logs(u))
      log-det:  -sum(logs)
      inverse:  rest = mean + exp(logs) * eps

  BFSR (CVPR 2024) predicts latents from LR by such nets, without a scale, so that an image has one
  prediction. Here temperature is a factor on the scale that the LR image asks for. The nets see the
  features of their own resolution, and run once for all samples.

  Attributes:
    width: channels of the U-Net at the resolution of the latent.
    depth: how many times it halves the size.
  """

  width: int = limited(32, at_least=1, at_most=4096)
  depth: int = limited(2, at_least=0, at_most=6)

  @property
  def multiple(self) -> int:
    """What the halving asks for."""
    return 2**self.depth

  @property
  def reach(self) -> int:
    """Two convolutions at each resolution, and one more."""
    return sum(2 * 2**level for level in range(self.depth + 1)) + 1

  def setup(self) -> None:
    self.net = UNet(self.width, self.depth, 2 * self.channels)

  def condition(self, features: Features, given: Given) -> tuple[Array, Array]:
    """Mean and logs, `[B, h, w, channels]` each."""
    h = by_channel(self.net(features.whole()), 2)
    return h[..., 0], h[..., 1]

  def forward_and_log_det(
    self, rest: Grid, kept: Kept | None, context: tuple[Array, Array]
  ) -> tuple[Grid, LogDet]:
    """See the base class."""
    mean, logs = context
    note_inverse_factor(self, logs)
    return (rest - mean) * jnp.exp(-logs), -sum_event(logs)

  def inverse_and_log_det(
    self, eps: Grid, kept: Kept | None, context: tuple[Array, Array]
  ) -> tuple[Grid, LogDet]:
    """See the base class."""
    mean, logs = context
    return mean + jnp.exp(logs) * eps, sum_event(logs)


@kind("flow")
class FlowPrior(Prior):
  """Steps, then a Gaussian, all given u: what HCFlow does with what its splits factor out.

  Liang et al. (ICCV 2021), section 3.2. With `num_blocks` RRDB blocks, u is the tapped outputs of
  these blocks over `[kept, features]`, and so another one for each sample. Without, u is the
  features.

      forward:  y = steps(rest; u),  eps = (y - mean(u)) * exp(-logs(u))
      log-det:  that of the steps, less sum(logs)
      inverse:  rest = steps^-1(mean + exp(logs) * eps; u)

  Attributes:
    step: the layers of a step.
    steps: how many steps.
    num_blocks: RRDB blocks over the kept channels and the features; 0 for none.
    width: channels between these blocks.
    growth: channels that each of their dense convolutions adds.
    taps: 0-based blocks whose outputs make u.
  """

  step: tuple[Part, ...] = parts(Layer)
  steps: int = limited(at_least=1, at_most=1024)
  num_blocks: int = limited(0, at_least=0, at_most=1024)
  width: int = limited(64, at_least=1, at_most=4096)
  growth: int = limited(32, at_least=1, at_most=4096)
  taps: tuple[int, ...] = limited((), at_least=0)

  @staticmethod
  def check_settings(settings: dict[str, Any]) -> None:
    """Raises `ValueError` if the taps are not those of the blocks."""
    check_taps(settings)
    if settings["num_blocks"] and not settings["taps"]:
      raise ValueError("a flow prior with blocks needs taps: what its steps see")

  @staticmethod
  def needs_kept(settings: dict[str, Any]) -> bool:
    """See the base class."""
    return settings["num_blocks"] > 0

  @property
  def multiple(self) -> int:
    """What its layers ask for."""
    made = (part.unbound(channels=2, feature_channels=1) for part in self.step)
    return math.lcm(*(layer.multiple for layer in made))

  @property
  def reach(self) -> int:
    """Its layers', and as an encoder of so many blocks (`residual_encoders.RRDB`)."""
    reaches = [part.unbound(channels=2, feature_channels=1).reach for part in self.step]
    return 4 * self.num_blocks + max(reaches)

  def setup(self) -> None:
    seen = self.feature_channels
    if self.num_blocks:
      seen = self.width * len(self.taps)
      self.conv_first = he_conv(self.width, fan_in=self.kept_channels + self.feature_channels)
      self.blocks = blocks_in_a_row(self.num_blocks)(self.width, self.growth)
    self.row = steps_in_a_row(self.step, self.steps, self.channels, seen)
    self.last = ZeroConv(2 * self.channels)

  def condition(self, features: Features, given: Given) -> Any:
    """What steps and Gaussian take, or what that will be computed from once kept is known."""
    return (features, given) if self.num_blocks else self._given(features, given)

  def _given(self, features: Features, given: Given) -> tuple[list[Any], Array, Array]:
    """Contexts of the steps, mean and logs."""
    h = by_channel(self.last(features.whole()), 2)
    return condition_steps(self.row, features, given), h[..., 0], h[..., 1]

  def _of(self, kept: Array | None, context: Any) -> tuple[list[Any], Array, Array]:
    if not self.num_blocks:
      return context
    assert kept is not None  # `needs_kept` sees to that
    features, given = context
    whole = features.whole()
    x = self.conv_first(jnp.concatenate([kept.astype(whole.dtype), whole], -1))
    _, u = run_blocks(self.blocks, x, self.num_blocks, self.taps)
    return self._given(Features(u, u[..., :0], 1), given)

  def forward_and_log_det(self, rest: Grid, kept: Kept | None, context: Any) -> tuple[Grid, LogDet]:
    """See the base class."""
    steps_context, mean, logs = self._of(kept, context)
    y, log_dets = self.row.forward_and_log_det(rest, steps_context)
    note_inverse_factor(self, logs)
    return (y - mean) * jnp.exp(-logs), jnp.sum(log_dets, 0) - sum_event(logs)

  def inverse_and_log_det(self, eps: Grid, kept: Kept | None, context: Any) -> tuple[Grid, LogDet]:
    """See the base class."""
    steps_context, mean, logs = self._of(kept, context)
    rest, log_dets = self.row.inverse_and_log_det(mean + jnp.exp(logs) * eps, steps_context)
    return rest, jnp.sum(log_dets, 0) + sum_event(logs)


@kind("lr")
class LowResolution(Prior):
  """A narrow Gaussian around the LR image: what the flow keeps to the end is to be LR (HCFlow).

      forward:  eps = (rest - lr) * exp(-log_std)
      log-det:  -log_std * size
      inverse:  rest = lr + exp(log_std) * eps

  Liang et al. (ICCV 2021), section 3.2, with log_std -6: 0.63 grey levels. Where images are sampled
  eps is 0, at every temperature: LR itself takes the place of what is kept.

  Attributes:
    log_std: logarithm of the standard deviation, of values in [0, 1].
  """

  is_drawn: ClassVar[bool] = False

  log_std: float = limited(-6.0, at_least=-20.0, at_most=0.0)

  @staticmethod
  def check_place(channels: int, enlargement: float) -> None:
    """See the base class."""
    if (channels, enlargement) != (3, 1):
      raise ValueError(
        f"an lr prior is of 3 channels at LR's size, not of {channels} at {enlargement:g} times it"
      )

  def condition(self, features: Features, given: Given) -> Array:
    """The LR image."""
    return given.lr

  def forward_and_log_det(
    self, rest: Grid, kept: Kept | None, context: Array
  ) -> tuple[Grid, LogDet]:
    """See the base class."""
    factors = jnp.full_like(rest, self.log_std)
    note_inverse_factor(self, factors)
    return (rest - context) * jnp.exp(-factors), -sum_event(factors)

  def inverse_and_log_det(
    self, eps: Grid, kept: Kept | None, context: Array
  ) -> tuple[Grid, LogDet]:
    """See the base class."""
    factors = jnp.full_like(eps, self.log_std)
    return context + jnp.exp(factors) * eps, sum_event(factors)
