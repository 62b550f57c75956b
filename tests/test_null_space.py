"""The flow in the null space of MATLAB's downscaling: its basis, and A(sample) = LR exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import random_images, random_params
from srflow_jax.model.building import build_model
from srflow_jax.ops import null_space
from srflow_jax.ops.resize import bicubic_resize_on_device, resize_weights
from srflow_jax.sampling.budget import Plan, Request
from srflow_jax.sampling.sampler import Sampler
from srflow_jax.sampling.tiles import cut
from test_kinds import NULL_SPACE, flow_config


@pytest.mark.parametrize("scale", [2, 4, 8, 16])
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (5, 2)])
def test_the_basis_is_orthonormal_and_all_of_it_but_one_is_the_null_space(scale, size):
  rows, columns = (null_space._axis(side, scale)[0].reshape(side * scale, -1) for side in size)
  for basis in (rows, columns):
    np.testing.assert_allclose(basis.T @ basis, np.eye(len(basis)), atol=1e-12)
  for basis in (rows, columns):
    n = len(basis) // scale
    seen = resize_weights(len(basis), 1 / scale) @ basis
    np.testing.assert_allclose(seen.reshape(n, n, scale)[:, :, 1:], 0, atol=1e-12)


def test_coordinates_are_a_rotation_of_images():
  """The Jacobian in float64: orthogonal, and A sees the first coordinate alone."""
  with jax.enable_x64(True):
    shape, scale = (1, 8, 12, 1), 4
    jacobian = jax.jacobian(lambda x: null_space.coordinates(x, scale))(jnp.zeros(shape))
    matrix = np.asarray(jacobian).reshape(96, 96)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(96), atol=1e-12)
    images = jax.random.uniform(jax.random.key(0), (2, 8, 12, 3), jnp.float64)
    z = null_space.coordinates(images, scale)
    np.testing.assert_allclose(null_space.from_coordinates(z, scale), images, atol=1e-12)
    lr = bicubic_resize_on_device(images, 1 / scale)
    np.testing.assert_allclose(null_space.seen_coordinates(lr, scale), z[:, :, :, 0], atol=1e-12)
    others = null_space.from_coordinates(z.at[:, :, :, 0].set(0), scale)
    np.testing.assert_allclose(bicubic_resize_on_device(others, 1 / scale), 0, atol=1e-12)


def test_the_basis_is_local_and_the_same_everywhere():
  basis = null_space._axis(40, 4)[0].reshape(40, 4, 40, 4)
  there = np.abs(basis[:, :, 20]).max((1, 2))
  assert there[20 + 12] < 3e-6 and there[20 - 12] < 3e-6  # `NullSpace.reach`
  np.testing.assert_allclose(basis[10:31, :, 20], basis[11:32, :, 21], atol=1e-7)


@pytest.fixture(scope="module")
def flow():
  """A model, and parameters whose samples are as large as images."""
  model = build_model(flow_config(**NULL_SPACE))
  params = random_params(model, dtype=np.float32)
  return model, jax.tree.map(lambda leaf: 0.1 * leaf if leaf.ndim >= 4 else leaf, params)


@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
def test_the_lr_image_of_every_sample_is_lr(flow, size):
  model, params = flow
  _, given = random_images(model, size, dtype=np.float32)

  @jax.jit
  def draw(given, temperature):
    key = jax.random.key(1)
    return model.apply({"params": params}, key, given, temperature, 2, method="sample")

  def sample(temperature):
    return draw(given, temperature)

  for temperature in (0.0, 0.9, 1.5):
    for image in sample(temperature):
      lr = bicubic_resize_on_device(image, 1 / model.scale)
      np.testing.assert_allclose(lr, given.lr, atol=1e-5)
  assert np.any(sample(0.9)[0] != sample(0.9)[1])


@pytest.mark.slow
def test_tiles_are_the_whole_image_and_consistent_too(flow):
  model, params = flow
  assert model.lr_multiple == 1 and model.tile_overlap == 8 + 12  # the encoder's, and its own
  _, given = random_images(model, (8, 61), dtype=np.float32)
  images = []
  for counts in ((1, 1), (1, 2)):
    sampler = Sampler(model, params)
    plan = Plan(cut((8, 61), counts, model.tile_overlap, 1))
    sampler.budget.use((8, 61), Request(("draw",)), plan)
    image = np.empty((32, 244, 3), np.float32)
    prepared = sampler.prepare(given.lr[0], Request(("draw",)))
    for _, (rows, columns), part in sampler.draw(prepared, 0, range(1), 0.8):
      image[rows, columns] = part
    images.append(image)
  np.testing.assert_allclose(*images, atol=1e-4)
  lr = bicubic_resize_on_device(jnp.asarray(images[1])[None], 1 / 4)
  np.testing.assert_allclose(lr, given.lr, atol=1e-5)
