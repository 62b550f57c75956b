"""A researcher's own module: five kinds of parts, one class each, and a configuration of them.

`--config=tests/plugin_kinds.py` trains it. Nothing in the package knows of this file.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

import runs
from srflow_jax.blocks import limited
from srflow_jax.model.encoders import Encoder
from srflow_jax.model.kinds import kind
from srflow_jax.model.maps import Affine
from srflow_jax.model.mixers import Mixer
from srflow_jax.model.nets import Net, ZeroConv
from srflow_jax.model.priors import Prior
from srflow_jax.ops.convolutions import upsample_nearest


@kind("soft")
@dataclasses.dataclass(frozen=True)
class Softplus(Affine):
  """`scale = softplus(s + offset) + floor`, near 1 at first."""

  floor: float = limited(0.1, above=0.0)

  def scale(self, s):
    return jax.nn.softplus(s + 0.3777) + self.floor


@kind("triangular")
class Triangular(Mixer):
  """A unit lower triangular matrix: its determinant is 1."""

  def setup(self):
    shape = (self.channels, self.channels)
    self.lower = self.param("lower", nn.initializers.normal(0.01), shape, jnp.float32)

  def matrix_and_log_det(self):
    return jnp.eye(self.channels) + jnp.tril(self.lower, -1), jnp.zeros((), jnp.float32)


@kind("gated")
class Gated(Net):
  """Two convolutions of [a, u], the product of tanh and sigmoid between; sees u as it is."""

  reach: ClassVar[int] = 2

  width: int = limited(8, at_least=1)

  @nn.compact
  def __call__(self, a, u):
    x = jnp.concatenate([part for part in (a, u) if part is not None], -1)
    x = nn.Conv(2 * self.width, (3, 3))(x)
    x = jnp.tanh(x[..., : self.width]) * jax.nn.sigmoid(x[..., self.width :])
    return ZeroConv(self.out)(x)


@kind("shifted")
class Shifted(Prior):
  """A Gaussian of unit variance whose mean is a convolution of what is kept."""

  @staticmethod
  def needs_kept(settings):
    return True

  def setup(self):
    self.mean = ZeroConv(self.channels)

  def forward_and_log_det(self, rest, kept, context):
    return rest - self.mean(kept), jnp.zeros(rest.shape[0], rest.dtype)

  def inverse_and_log_det(self, eps, kept, context):
    return eps + self.mean(kept), jnp.zeros(eps.shape[0], eps.dtype)


@kind("two_layers")
class TwoLayers(Encoder):
  """Two convolutions of LR, and a super-resolution that repeats its pixels."""

  super_resolves: ClassVar[bool] = True

  width: int = limited(4, at_least=1)

  def setup(self):
    self.layers = nn.Conv(self.width, (3, 3)), nn.Conv(self.width, (3, 3))

  @property
  def feature_channels(self):
    return self.width

  @property
  def reach(self):
    return 2

  def trunk(self, given):
    x = self.layers[1](nn.relu(self.layers[0](given.lr)))
    return x, given.lr[..., :0]

  def upsample(self, own, times):
    return [upsample_nearest(own, 2 ** (i + 1)) for i in range(times)]

  def super_resolve(self, trunk):
    return upsample_nearest(trunk[0][..., :3], self.scale)


def get_config():
  config = runs.get_config()
  config.plugins = ("plugin_kinds",)
  with config.unlocked():
    config.model.encoder = {"kind": "two_layers", "width": 5}
    config.model.conditioner = {"kind": "gated", "width": 6}
    config.model.map = {"kind": "soft", "floor": 0.2}
    config.model.mixer = {"kind": "triangular"}
    config.model.prior = {"kind": "shifted"}
  config.model.target.kind = "less_encoder"
  config.model.stages = (
    {"squeeze": 4, "transition_steps": 1, "steps": 1, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 1, "split": False},
  )
  config.update(num_train_steps=4, log_every_steps=2, eval_every_steps=4, checkpoint_every_steps=2)
  return config
