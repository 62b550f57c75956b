"""Targets: what a flow models of an HR image.

The flow's image is `hr - base`, where the base is computed from the LR image alone; what it samples
gets the base added. A shift has no log-det, so likelihoods of all targets are those of HR images.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax

from srflow_jax.model.kinds import Place, kind
from srflow_jax.ops.resize import bicubic_resize_on_device

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Target(Place):
  """What is subtracted from HR."""

  place: ClassVar[str] = "target"
  published: ClassVar[str] = "hr"
  needs_super_resolution: ClassVar[bool] = False  # of an encoder that gives one

  def base(self, lr: Array, scale: int, super_resolve: Callable[[], Array]) -> Array | None:
    """The base `[B, h * scale, w * scale, 3]`; None for zero.

    Args:
      lr: `[B, h, w, 3]`.
      scale: HR size over LR size.
      super_resolve: computes the encoder's own super-resolution of lr.
    """
    raise NotImplementedError


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
