"""Targets: what a flow models of an HR image.

Most are `hr - base`, where the base is computed from the LR image alone; what the flow samples gets
the base added. A shift has no log-det, so likelihoods of all of them are those of HR images.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from srflow_jax.model.kinds import Place, kind
from srflow_jax.ops import null_space
from srflow_jax.ops.resize import bicubic_resize_on_device

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Target(Place):
  """The flow's image as a function of HR and LR that keeps volumes.

  Attributes:
    needs_super_resolution: whether the encoder must give one.
    takes_padding: whether HR and LR images may be padded.
    reach: LR pixels that it sees around a pixel, as `nets.Net.reach` counts them.
  """

  place: ClassVar[str] = "target"
  published: ClassVar[str] = "hr"
  needs_super_resolution: ClassVar[bool] = False
  takes_padding: ClassVar[bool] = True
  reach: ClassVar[int] = 0

  def channels_and_downscale(self, scale: int) -> tuple[int, int]:
    """Channels of the flow's image, and HR size over its size."""
    return 3, 1

  @abc.abstractmethod
  def base(self, lr: Array, scale: int, super_resolve: Callable[[], Array]) -> Array | None:
    """What the two methods below need of LR: what is subtracted from HR; None for zero.

    Args:
      lr: `[B, h, w, 3]`.
      scale: HR size over LR size.
      super_resolve: computes the encoder's own super-resolution of lr.
    """
    raise NotImplementedError

  def to_flow(self, hr: Array, base: Array | None, scale: int) -> Array:
    """The flow's image of hr `[B, h * scale, w * scale, 3]`."""
    return hr if base is None else hr - base

  def from_flow(self, image: Array, base: Array | None, scale: int) -> Array:
    """The HR image of what the flow gives."""
    return image if base is None else image + base


@kind("hr")
@dataclasses.dataclass(frozen=True)
class WholeImage(Target):
  """HR itself, as published."""

  has_published_names: ClassVar[bool] = True

  def base(self, lr: Array, scale: int, super_resolve: Callable[[], Array]) -> None:
    """None."""


@kind("less_bicubic")
@dataclasses.dataclass(frozen=True)
class LessBicubic(Target):
  """HR less MATLAB's bicubic enlargement of LR (as FS-NCSR and LINF, each with its own cubic)."""

  def base(self, lr: Array, scale: int, super_resolve: Callable[[], Array]) -> Array:
    """MATLAB's bicubic enlargement, not rounded."""
    return bicubic_resize_on_device(lr, scale)


@kind("less_encoder")
@dataclasses.dataclass(frozen=True)
class LessEncoder(Target):
  """HR less the encoder's own super-resolution, which training may change with the encoder."""

  needs_super_resolution: ClassVar[bool] = True

  def base(self, lr: Array, scale: int, super_resolve: Callable[[], Array]) -> Array:
    """The encoder's image."""
    return super_resolve()


@kind("null_space")
@dataclasses.dataclass(frozen=True)
class NullSpace(Target):
  """What MATLAB's downscaling A of HR does not see: `A(sample) = lr` for every sample.

  The flow's image is HR's coordinates in the null space of A, `scale^2 - 1` for each channel of
  each LR pixel, in an orthonormal basis that is local (`ops.null_space`). The other coordinate
  follows from LR; together they are `hr = A^+ lr + null part`. An orthonormal basis keeps volumes,
  so the flow's density is that of HR images on the plane `{hr: A hr = lr}`: of what LR leaves open.
  An HR image whose LR image was rounded lies beside that plane; the density is of its null part.

  A mirrors images at their borders, so they cannot be padded, and the flow takes no squeeze. Of a
  sample only its clipping and rounding to 8 bits moves its LR image. No publication is known.
  """

  takes_padding: ClassVar[bool] = False
  reach: ClassVar[int] = 12  # at which the basis has fallen to 2e-6

  def channels_and_downscale(self, scale: int) -> tuple[int, int]:
    """See the base class."""
    return 3 * (scale**2 - 1), scale

  def base(self, lr: Array, scale: int, super_resolve: Callable[[], Array]) -> Array:
    """The coordinate that LR decides, `[B, h, w, 1, 3]`."""
    return null_space.seen_coordinates(lr, scale)[:, :, :, None]

  def to_flow(self, hr: Array, base: Array | None, scale: int) -> Array:
    """Coordinates `[B, h, w, (scale^2 - 1) * 3]`."""
    z = null_space.coordinates(hr, scale)[:, :, :, 1:]
    return z.reshape(*z.shape[:3], -1)

  def from_flow(self, image: Array, base: Array | None, scale: int) -> Array:
    """See the base class."""
    assert base is not None  # `base` gives one
    z = image.reshape(*image.shape[:3], -1, 3)
    return null_space.from_coordinates(jnp.concatenate([base, z], 3), scale)
