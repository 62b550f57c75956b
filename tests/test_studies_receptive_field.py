"""Receptive fields: the published figures, the support of gradients, and what hiding LR does."""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from models import VARIANTS, random_images, random_params, small_model
from srflow_jax.checkpoints import Run
from srflow_jax.config import read_config
from srflow_jax.errors import InputError
from srflow_jax.model.building import build_model
from srflow_jax.model.features import Given
from srflow_jax.model.layers import Coupling
from srflow_jax.model.maps import Atan
from srflow_jax.studies import receptive_field
from srflow_jax.studies.receptive_field import radius_reached, rises, sides, target_bits


@pytest.mark.parametrize(
  ("name", "first"),
  [("x4_da", 145), ("x4_srflow", 129), ("x4_da_d", 153), ("x4_da_s", 49), ("x4_null_space", 49)],
)
def test_sides_of_first_stages(name, first):
  """SRFlow-DA's paper has 145 for its own and 129 for SRFlow's.

  Of a null-space flow the image is of LR's size: what sees six of its pixels sees 24 of HR.
  """
  config = read_config(importlib.import_module(f"configs.{name}").get_config())
  found = sides(config)
  assert found["receptive_field_1"] == first
  stages = [found[f"receptive_field_{i}"] for i in range(1, len(config.model.stages) + 1)]
  assert found["receptive_field"] == 1 + sum(side - 1 for side in stages)


def test_an_encoder_alone_has_none():
  config = read_config(importlib.import_module("configs.rrdb_x4").get_config())
  assert sides(config) == {}


@pytest.mark.parametrize("name", VARIANTS)
def test_radii_are_those_of_the_gradients_support(name):
  """Of two couplings in a row with a variant's net, and channels mixed in between."""
  part = small_model(f"x4_{name}").stage_specs[0].step[3].get("net")
  with jax.enable_x64(True):
    coupling = Coupling(channels=4, feature_channels=0, map=Atan(), net=part, sees_features=False)
    radius = 2 * coupling.radius
    size, rng = 2 * radius + 5, np.random.default_rng(0)
    z = jnp.asarray(rng.standard_normal((1, size, size, 4)))
    mixed = jnp.asarray(np.linalg.qr(rng.standard_normal((4, 4)))[0])

    def forward(params, z):
      return coupling.apply({"params": params}, z, None, method="forward_and_log_det")[0]

    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: coupling.init(key, z, None, method="forward_and_log_det"))

    def draw(leaf):
      return jnp.asarray(rng.standard_normal(leaf.shape)) / math.sqrt(4 * leaf.shape[-1])

    params = [jax.tree.map(draw, shapes["params"]) for _ in range(2)]

    def middle(z):
      y = forward(params[1], forward(params[0], z) @ mixed)
      return jnp.sum(y[:, size // 2, size // 2])

    seen = np.abs(jax.jit(jax.grad(middle))(z)).sum((0, 3)) > 0
  assert seen.any(0).sum() == seen.any(1).sum() == 2 * radius + 1


def test_sides_of_all_stages_are_the_gradients_support_but_for_couplings_before_splits():
  """Of a place of the last latent, which is 4 pixels a side: so much is added to the side's 1.

  What a split passes on is the half that the coupling before it has left as it was.
  """
  config = tiny.get_config().model.to_dict()
  config["encoder"] |= {"width": 4, "growth": 2, "num_blocks": 1, "taps": (0,)}
  config["conditioner"] |= {"width": 6, "num_hidden": 1}
  config["stages"] = [
    {"squeeze": 2, "transition_steps": 1, "steps": 2, "split": True},
    {"squeeze": 2, "transition_steps": 0, "steps": 1, "split": False},
  ]
  model = build_model(config)
  side = receptive_field.sides_of(model)["receptive_field"]
  with jax.enable_x64(True):
    variables = {"params": random_params(model)}
    hr, given = random_images(model, (side // 4 + 4,) * 2)
    context = model.apply(variables, given, method="condition")

    def middle(hr):
      last = model.apply(variables, hr, context, method="density_parts").latents[-1]
      return jnp.sum(last[:, last.shape[1] // 2, last.shape[2] // 2])

    seen = np.abs(jax.jit(jax.grad(middle))(jnp.asarray(hr))).sum((0, 3)) > 0
  radius = model.stage_specs[0].step[-1].unbound(channels=2, feature_channels=1).radius
  assert radius == 3 and seen.any(0).sum() == seen.any(1).sum() == side - 1 + 4 - 2 * radius * 2


@pytest.fixture(scope="module")
def trained():
  """A flow off its initial values, and images of one photograph's kind: smooth."""
  model = small_model("x4_da_s")
  return Run(None, model, random_params(model, dtype=np.float32), 1)


def test_a_square_of_all_is_the_nll_but_for_a_constant(trained):
  model, params = trained.model, trained.params
  hr, given = random_images(model, (6, 6), batch=2, dtype=np.float32)
  hr, lr = jnp.asarray(hr), jnp.asarray(given.lr)

  @jax.jit
  def both(image):
    whole = model.apply({"params": params}, image, Given(lr), method="nll")
    return whole - target_bits(model, params, lr, image, 0, 6)

  np.testing.assert_allclose(both(hr), both(1 - hr), rtol=1e-4)


def test_rises_vanish_where_all_that_the_flow_sees_is_shown(trained):
  model = trained.model
  hr, given = random_images(model, (80, 80), dtype=np.float32)
  found = rises(trained, given.lr[0], hr[0])
  assert set(found) == {
    f"rise_{h}/{r}" for h in ("lr", "lr_and_kept") for r in (0, 1, 2, 4, 8, 16, 32)
  }
  for hidden in receptive_field.HIDDEN:
    assert abs(found[f"rise_{hidden}/0"]) > 1e-3
    assert abs(found[f"rise_{hidden}/32"]) < 1e-4


def test_images_that_are_too_small_are_refused(trained):
  hr, given = random_images(trained.model, (5, 9), dtype=np.float32)
  with pytest.raises(InputError, match="9x5 LR pixels is too small"):
    rises(trained, given.lr[0], hr[0])


@pytest.mark.parametrize(
  ("rise", "radius"),
  [
    ({0: 1.0, 1: 0.5, 2: 0.05, 4: 0.0}, 2),
    ({0: 1.0, 1: 0.5}, math.inf),
    ({0: -1.0, 1: 0.0}, math.nan),
    ({}, math.nan),
  ],
)
def test_the_radius_of_95_per_cent(rise, radius):
  np.testing.assert_equal(radius_reached(rise), radius)
