"""Priors: the last map of each latent, from what leaves the flow to standard normal.

What a split factors out, and what leaves the last stage, each pass a prior: a bijector to standard
normal that may be given the channels that the split keeps, the features, both or neither.

    eps, log_det = prior.forward_and_log_det(rest, kept, context)   # image → latents
    rest, log_det = prior.inverse_and_log_det(eps, kept, context)   # latents → image
"""

import abc
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from srflow_jax.blocks import limited
from srflow_jax.model.bijectors import Grid, LogDet, by_channel, note_inverse_factor, sum_event
from srflow_jax.model.features import Features, Given
from srflow_jax.model.kinds import Place, kind
from srflow_jax.ops.convolutions import conv

Array = jax.Array
Kept = Float[Array, "B h w K"]


class Prior(nn.Module, Place, kw_only=True):
  """A bijector to standard normal.

  Attributes:
    channels: channels of what it maps.
    kept_channels: channels that the split keeps; 0 at the end of the flow.
    feature_channels: channels of the features at its resolution.
    is_drawn: whether sampling draws its eps; else it is 0 there.
    multiple: what height and width must be multiples of.
    reach: LR pixels that it sees around a pixel, as `nets.Net.reach` counts them.
  """

  place: ClassVar[str] = "prior"
  published: ClassVar[str] = "gaussian"
  is_drawn: ClassVar[bool] = True

  channels: int
  kept_channels: int
  feature_channels: int

  @staticmethod
  def needs_kept(settings: dict[str, Any]) -> bool:
    """Whether it can only stand at a split, where some channels are kept."""
    return False

  @staticmethod
  def check_place(channels: int, enlargement: float) -> None:
    """Raises `ValueError` if it cannot map so many channels at so many times the size of LR."""

  @property
  def multiple(self) -> int:
    """See the class."""
    return 1

  @property
  def reach(self) -> int:
    """See the class."""
    return 0

  def condition(self, features: Features, given: Given) -> Any:
    """Computes what the prior needs of the LR image, once for all samples."""
    return None

  @abc.abstractmethod
  def forward_and_log_det(self, rest: Grid, kept: Kept | None, context: Any) -> tuple[Grid, LogDet]:
    """Maps rest to eps; kept is None at the end of the flow."""
    raise NotImplementedError

  @abc.abstractmethod
  def inverse_and_log_det(self, eps: Grid, kept: Kept | None, context: Any) -> tuple[Grid, LogDet]:
    """Maps it back."""
    raise NotImplementedError


@kind("standard")
class Standard(Prior):
  """The identity: what arrives should be standard normal already."""

  has_published_names: ClassVar[bool] = True

  def forward_and_log_det(
    self, rest: Grid, kept: Kept | None, context: None
  ) -> tuple[Grid, LogDet]:
    """See the base class."""
    return rest, jnp.zeros(rest.shape[0], rest.dtype)

  def inverse_and_log_det(self, eps: Grid, kept: Kept | None, context: None) -> tuple[Grid, LogDet]:
    """See the base class."""
    return eps, jnp.zeros(eps.shape[0], eps.dtype)


@kind("gaussian")
class Gaussian(Prior):
  """A Gaussian whose mean and logs are a zero convolution of what it is given (Glow, section 3.4).

      forward:  eps = (rest - mean) * exp(-logs)
      log-det:  -sum(logs)
      inverse:  rest = mean + exp(logs) * eps

  Attributes:
    given: of what: "kept", the channels that a split keeps (as published), "features", or both.
  """

  has_published_names: ClassVar[bool] = True

  given: tuple[str, ...] = limited(("kept",), one_of=("kept", "features"))

  @staticmethod
  def check_settings(settings: dict[str, Any]) -> None:
    """Raises `ValueError` if the Gaussian would be given nothing."""
    if not settings["given"]:
      raise ValueError("a gaussian prior is given 'kept', 'features' or both; else use 'standard'")

  @staticmethod
  def needs_kept(settings: dict[str, Any]) -> bool:
    """See the base class."""
    return "kept" in settings["given"]

  def setup(self) -> None:
    sizes = {"kept": self.kept_channels, "features": self.feature_channels}
    self.inputs = sum(sizes[name] for name in self.given)
    zeros = nn.initializers.zeros
    self.kernel = self.param("kernel", zeros, (3, 3, self.inputs, 2 * self.channels), jnp.float32)
    self.bias = self.param("bias", zeros, (2 * self.channels,), jnp.float32)
    self.logs = self.param("logs", zeros, (2 * self.channels,), jnp.float32)

  def condition(self, features: Features, given: Given) -> Array | None:
    """The convolution of the features, `[B, h, w, 2 * channels]`, if they are given."""
    if "features" not in self.given:
      return None
    return features.convolve(self.kernel[:, :, self.inputs - self.feature_channels :])

  def _mean_and_logs(self, kept: Array | None, context: Array | None) -> tuple[Array, Array]:
    h = self.bias
    if "kept" in self.given:
      assert kept is not None  # `needs_kept` sees to that
      h = conv(kept, self.kernel[:, :, : self.kept_channels]) + h
    if context is not None:
      h = context.astype(h.dtype) + h
    h = by_channel(h * jnp.exp(3.0 * self.logs), 2)
    return h[..., 0], h[..., 1]

  def forward_and_log_det(
    self, rest: Grid, kept: Kept | None, context: Array | None
  ) -> tuple[Grid, LogDet]:
    """See the base class."""
    mean, logs = self._mean_and_logs(kept, context)
    note_inverse_factor(self, logs)
    return (rest - mean) * jnp.exp(-logs), -sum_event(logs)

  def inverse_and_log_det(
    self, eps: Grid, kept: Kept | None, context: Array | None
  ) -> tuple[Grid, LogDet]:
    """See the base class."""
    mean, logs = self._mean_and_logs(kept, context)
    return mean + jnp.exp(logs) * eps, sum_event(logs)
