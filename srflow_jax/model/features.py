"""What a model is told of an image, and what its encoder makes of that at each resolution."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct

from srflow_jax.ops.convolutions import conv, conv_upsampled, upsample_nearest

Array = jax.Array


@struct.dataclass
class Given:
  """All that a model is told of an HR image, beside its latents: what it is conditioned on.

  Attributes:
    lr: the LR image, `[B, h, w, 3]`, values in [0, 1].
    noise: the noise that training has added to the HR image, `[B, H, W, 3]`, for models that are
      told of it; None means none, as in all that comes after training.
  """

  lr: Array
  noise: Array | None = None

  def padded(self, lr_size: tuple[int, int], scale: int) -> "Given":
    """All of it padded by reflection, as `pad_to` does, to an LR image of `lr_size`."""
    if self.lr.shape[1:3] == tuple(lr_size):
      return self
    noise = self.noise
    if noise is not None:
      noise = pad_to(noise, (lr_size[0] * scale, lr_size[1] * scale))
    return Given(pad_to(self.lr, lr_size), noise)


def pad_to(image: Array, size: tuple[int, int]) -> Array:
  """Pads `[B, h, w, C]` by reflection at the bottom and right to `size` (height, width)."""
  pads = [new - old for new, old in zip(size, image.shape[1:3], strict=True)]
  # One pixel has nothing to reflect: it is repeated.
  for axis, pad in enumerate(pads, start=1):
    widths = [(0, pad if i == axis else 0) for i in range(4)]
    image = jnp.pad(image, widths, "reflect" if image.shape[axis] > 1 else "edge")
  return image


@struct.dataclass
class Features:
  """What the flow sees at one resolution, `[B, h, w, channels]`, in two parts.

  Attributes:
    own: the encoder's map of this resolution, `[B, h, w, width]`.
    taps: maps of LR resolution or below, `[B, h/repeat, w/repeat, channels - width]`, which are
      seen enlarged by nearest neighbour; there may be none of them.
    repeat: the enlargement.
  """

  own: Array
  taps: Array
  repeat: int = struct.field(pytree_node=False)

  @property
  def channels(self) -> int:
    """Channels of both parts."""
    return self.own.shape[-1] + self.taps.shape[-1]

  def whole(self) -> Array:
    """Both parts as one map, `[B, h, w, channels]`."""
    return jnp.concatenate([self.own, upsample_nearest(self.taps, self.repeat)], -1)

  def convolve(self, kernel: Array) -> Array:
    """Convolves the features with a 3x3 kernel `[3, 3, channels, O]`; enlarges no tap for that."""
    width = self.own.shape[-1]
    if kernel.shape[2] == width:  # there are no taps
      return conv(self.own, kernel)
    if self.repeat == 1:
      return conv(self.whole(), kernel)
    taps = conv_upsampled(self.taps, kernel[:, :, width:], self.repeat)
    return conv(self.own, kernel[:, :, :width]) + taps


def convolve_all(features: Features, kernels: Sequence[Array | None]) -> list[Array | None]:
  """Convolves features with the kernels of many nets in one convolution, which reads them once.

  Args:
    features: of one resolution.
    kernels: each `[N, 3, 3, channels, O]`, the kernels of N equal nets; None for nets without.

  Returns:
    For each kernel `[N, B, h, w, O]`; None for None.
  """
  given = [kernel for kernel in kernels if kernel is not None]
  if not given:
    return list(kernels)
  # Net by net, all kernels of the first, then all of the second, and so on.
  of_nets = [kernel[i] for i in range(len(given[0])) for kernel in given]
  widths = [kernel.shape[-1] for kernel in of_nets]
  ends = [sum(widths[: i + 1]) for i in range(len(widths) - 1)]
  maps = jnp.split(features.convolve(jnp.concatenate(of_nets, -1)), ends, -1)
  stacked = iter([jnp.stack(maps[i :: len(given)]) for i in range(len(given))])
  return [None if kernel is None else next(stacked) for kernel in kernels]
