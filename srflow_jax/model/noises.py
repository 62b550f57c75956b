"""Noise in training: what is added to HR and LR images, and what the model is told of it.

`config.data.noise` names the kind. Validation, likelihoods and sampling add none.
"""

import abc
import dataclasses
from typing import ClassVar

import jax

from srflow_jax.blocks import limited
from srflow_jax.model.features import Given
from srflow_jax.model.kinds import Place, kind
from srflow_jax.ops.resize import bicubic_resize_on_device

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Noise(Place):
  """What is added in training."""

  place: ClassVar[str] = "noise"
  published: ClassVar[str] = "gaussian"

  @property
  def variance(self) -> float | None:
    """Variance of what is added to a value of HR in [0, 1]; None if it is not always the same."""
    return None

  @abc.abstractmethod
  def add(self, key: Array, hr: Array, lr: Array) -> tuple[Array, Given]:
    """Adds noise.

    Args:
      key: of the noise.
      hr: `[B, H, W, 3]`, values in [0, 1].
      lr: its LR images, `[B, h, w, 3]`.

    Returns:
      HR with noise, and what the model is told.
    """
    raise NotImplementedError


@kind("gaussian")
@dataclasses.dataclass(frozen=True)
class GaussianNoise(Noise):
  """Gaussian noise of one size in HR, of which the model is not told (SRFlow-DA).

  Attributes:
    std: its standard deviation, in grey levels of 255.
  """

  std: float = limited(at_least=0.0, at_most=255.0)

  @property
  def variance(self) -> float:
    """See the base class."""
    return (self.std / 255) ** 2

  def add(self, key: Array, hr: Array, lr: Array) -> tuple[Array, Given]:
    """See the base class."""
    if self.std:
      # Drawn flat, which compiles faster; the values are the same.
      hr += self.std / 255 * jax.random.normal(key, (hr.size,)).reshape(hr.shape)
    return hr, Given(lr)


@kind("uniform")
@dataclasses.dataclass(frozen=True)
class UniformNoise(Noise):
  """Uniform noise in HR: dequantisation, for a width of one grey level (Theis et al. 2016).

  Attributes:
    width: of the interval around 0, in grey levels of 255.
  """

  width: float = limited(1.0, above=0.0, at_most=255.0)

  @property
  def variance(self) -> float:
    """See the base class."""
    return (self.width / 255) ** 2 / 12

  def add(self, key: Array, hr: Array, lr: Array) -> tuple[Array, Given]:
    """See the base class."""
    noise = jax.random.uniform(key, (hr.size,), hr.dtype, -0.5, 0.5).reshape(hr.shape)
    return hr + self.width / 255 * noise, Given(lr)


@kind("levels")
@dataclasses.dataclass(frozen=True)
class NoiseOfLevels(Noise):
  """Gaussian noise whose size is drawn for each image, in HR and LR, and the model is told of it.

  NCSR (Kim & Son, NTIRE 2021): standard deviations are uniform in [0, max_std]; LR gets MATLAB's
  bicubic downscaling of the very noise that HR gets, so that it is still HR's LR image. Layers of
  kind "noise_coupling" see the noise; to them all that comes after training is of level 0.

  Attributes:
    max_std: the largest standard deviation, in grey levels of 255.
  """

  max_std: float = limited(above=0.0, at_most=255.0)

  def add(self, key: Array, hr: Array, lr: Array) -> tuple[Array, Given]:
    """See the base class."""
    of_levels, of_noise = jax.random.split(key)
    std = jax.random.uniform(of_levels, (len(hr), 1, 1, 1), hr.dtype, 0, self.max_std / 255)
    noise = std * jax.random.normal(of_noise, (hr.size,), hr.dtype).reshape(hr.shape)
    of_lr = bicubic_resize_on_device(noise, lr.shape[1] / hr.shape[1])
    return hr + noise, Given(lr + of_lr, noise)
