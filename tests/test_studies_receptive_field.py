"""Receptive fields: the published figures, the support of gradients, and what hiding LR does."""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import VARIANTS, random_images, random_params, small_model
from srflow_jax.checkpoints import Run
from srflow_jax.config import read_config
from srflow_jax.errors import InputError
from srflow_jax.model.bijectors import squeeze
from srflow_jax.model.features import Given
from srflow_jax.studies import receptive_field
from srflow_jax.studies.receptive_field import radius_reached, rises, sides, target_bits


@pytest.mark.parametrize(
  ("name", "first"), [("x4_da", 145), ("x4_srflow", 129), ("x4_da_d", 153), ("x4_da_s", 49)]
)
def test_sides_of_first_stages(name, first):
  """SRFlow-DA's paper has 145 for its own and 129 for SRFlow's: 1 + 2 x steps x radius x squeeze."""
  config = read_config(importlib.import_module(f"configs.{name}").get_config())
  found = sides(config)
  assert found["receptive_field_1"] == first
  stages = [found[f"receptive_field_{i}"] for i in range(1, len(config.model.stages) + 1)]
  assert found["receptive_field"] == 1 + sum(side - 1 for side in stages)


def test_an_encoder_alone_has_none():
  config = read_config(importlib.import_module("configs.rrdb_x4").get_config())
  assert sides(config) == {}


def support(model, params, size: int) -> list[int]:
  """How many HR pixels, along an axis, a place of what leaves each stage depends on."""
  _, given = random_images(model, (size // model.scale,) * 2, dtype=np.float32)
  hr = jnp.asarray(np.random.default_rng(5).uniform(size=(1, size, size, 3)), jnp.float32)
  found = []
  flow_model = model.bind({"params": params})
  contexts = flow_model.condition(given).stages
  for last in range(1, len(model.stage_specs) + 1):

    def middle(image, last=last):
      z, flow = image, model.bind({"params": params}).flow
      for stage, context in zip(flow.stages[:last], contexts, strict=False):
        z = z[..., : stage.channels]  # what a split before has kept
        z = squeeze(z, stage.spec.squeeze)
        for steps, steps_context in stage._steps(context):
          z, _ = steps.forward_and_log_det(z, steps_context)
      return jnp.sum(jnp.sin(3 * z[:, z.shape[1] // 2, z.shape[2] // 2]))

    gradient = np.abs(jax.jit(jax.grad(middle))(hr)).sum((0, 3))
    found.append(int(np.count_nonzero(gradient.sum(0))))
  return found


@pytest.mark.parametrize("name", VARIANTS)
def test_sides_are_those_of_the_gradients_support(name):
  """Of one place of a stage, which covers as many pixels as the stage is coarser."""
  model = small_model(name)
  params = random_params(model, dtype=np.float32)
  found = receptive_field.sides_of(model)
  downscale, radius = 1, 0
  for number, spec in enumerate(model.stage_specs, start=1):
    downscale *= spec.squeeze
    radius += (found[f"receptive_field_{number}"] - 1) // 2
    if 2 * radius + downscale > 160:
      break
    assert support(model, params, 192)[number - 1] == 2 * radius + downscale


@pytest.fixture(scope="module")
def trained():
  """A flow off its initial values, and images of one photograph's kind: smooth."""
  model = small_model("da_s")
  return Run(None, model, random_params(model, dtype=np.float32), 1)


def test_a_square_of_all_is_the_nll_but_for_a_constant(trained):
  model, params = trained.model, trained.params
  hr, given = random_images(model, (6, 6), batch=2, dtype=np.float32)
  other, _ = random_images(model, (6, 6), batch=2, dtype=np.float32)
  lr = given.lr
  of_all = [target_bits(model, params, lr, image, 0, 6) for image in (hr, 1 - other)]
  nll = [
    model.apply({"params": params}, image, Given(lr), method="nll") for image in (hr, 1 - other)
  ]
  np.testing.assert_allclose(of_all[0] - of_all[1], nll[0] - nll[1], rtol=1e-4)


def test_squares_are_parts_of_the_sum(trained):
  """The four quarters of an image add up to the whole."""
  model, params = trained.model, trained.params
  hr, given = random_images(model, (8, 8), dtype=np.float32)
  whole = target_bits(model, params, given.lr, hr, 0, 8)
  inner = target_bits(model, params, given.lr, hr, 2, 4)
  assert not np.allclose(whole, inner)
  # Far from the square nothing matters: what is hidden there changes nothing.
  assert target_bits(model, params, given.lr, hr, 2, 4) == inner


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
