"""A stand-in flow whose density is known, and photographs to evaluate it on."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from srflow_jax import images
from srflow_jax.listing import list_images
from srflow_jax.model.model import Context, DensityParts
from srflow_jax.ops.resize import bicubic_resize

SCALE = 4
SIGMA = 0.1


class Offset(nn.Module):
  """A colour, the fake model's only parameter."""

  @nn.compact
  def __call__(self):
    return self.param("offset", nn.initializers.zeros, (3,))


def fake_params(offset=0.0):
  return {"flow": {"offset": jnp.full(3, offset)}}


class FakeModel(nn.Module):
  """LR enlarged, plus Gaussian noise: a flow whose density is known."""

  scale: int = SCALE
  lr_multiple: int = 1
  num_latents: int = 1
  tile_overlap: int = 12
  stochastic: ClassVar[bool] = True

  def setup(self):
    self.flow = Offset()

  def condition(self, given):
    mean = given.lr.repeat(SCALE, 1).repeat(SCALE, 2) + self.flow()
    return Context((), mean, len(mean), hr_size=mean.shape[1:3], padded_size=mean.shape[1:3])

  def density_parts(self, hr, context):
    z = (hr - context.base) / SIGMA
    log_det = -hr[0].size * jnp.log(SIGMA)[None]
    return DensityParts((log_det,), (jnp.sum(jax.scipy.stats.norm.logpdf(z), (1, 2, 3)),), (z,))

  def inverse_and_log_det(self, latents, context):
    return context.base + SIGMA * latents[0], None

  def latents_at(self, key, context, temperature, origin=(0, 0)):
    return (temperature * jax.random.normal(key, context.base.shape),)

  def latents_of_samples(self, key, context, temperature, num_samples, first, origin):
    keys = [jax.random.fold_in(key, first + i) for i in range(num_samples)]
    return (jnp.stack([self.latents_at(key, context, temperature)[0] for key in keys]),)

  def decode_samples(self, latents, context, num_samples):
    return context.base + SIGMA * latents[0]


def write_hr(folder):
  """Three images, one of odd size."""
  rng = np.random.default_rng(0)
  for name, size in {"b/one": (50, 67), "two": (64, 40), "three": (64, 40)}.items():
    coarse = rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), dtype=np.uint8)
    images.write_png(folder / f"{name}.png", bicubic_resize(coarse, 8)[: size[0], : size[1]])


def write_lr(folder, hr_dir):
  """Their LR images, named as DIV2K's."""
  for path in list_images(hr_dir):
    relative = path.relative_to(hr_dir)
    lr = bicubic_resize(images.read_image(path), 1 / SCALE)
    images.write_png(folder / relative.with_name(f"{relative.stem}x4.png"), lr)


def pair(hr_dir, name="two"):
  hr = images.read_image(hr_dir / f"{name}.png")
  return bicubic_resize(hr, 1 / SCALE), hr
