"""Every bijector: round trip, log-det against the autodiff Jacobian, sign, gradients; float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srflow_jax.model import bijectors
from srflow_jax.model.bijectors import ActNorm, Coupling, Injector, InvertibleConv1x1, Split
from srflow_jax.model.nets import ConditionerSpec

SPEC = ConditionerSpec(width=5, num_hidden=2, hidden_kernel=3, residual_every=2, normalize=False)
SHAPES = [(1, 4, 4, 4), (2, 3, 5, 5)]  # the second: odd sizes, an odd number of channels


def normal(seed: int, shape: tuple[int, ...]) -> jax.Array:
  return jax.random.normal(jax.random.key(seed), shape, jnp.float64)


def hidden(z: jax.Array) -> jax.Array:
  """Features after a net's first convolution, `[B, h, w, width]`."""
  return normal(7, (*z.shape[:3], SPEC.width))


def injected(module: Injector, z: jax.Array, method: str):
  return getattr(module, method)(z, module.condition(hidden(z)))


def coupled(module: Coupling, z: jax.Array, method: str):
  return getattr(module, method)(z, hidden(z))


def plain(module, z: jax.Array, method: str):
  return getattr(module, method)(z)


def split(module: Split, z: jax.Array, method: str):
  """A split seen as a map of C channels to C channels: [kept, eps]."""
  keep = z.shape[-1] - z.shape[-1] // 2
  if method == "inverse_and_log_det":
    return module.inverse_and_log_det(z[..., :keep], z[..., keep:])
  kept, eps, log_det = module.forward_and_log_det(z)
  return jnp.concatenate([kept, eps], -1), log_det


BIJECTORS = {
  "actnorm": (lambda c: ActNorm(), plain),
  "conv1x1": (lambda c: InvertibleConv1x1(), plain),
  "injector": (lambda c: Injector(c, SPEC, feature_channels=3), injected),
  "coupling": (lambda c: Coupling(c, SPEC, feature_channels=3), coupled),
  "split": (lambda c: Split(), split),
}


@pytest.fixture(autouse=True, scope="module")
def float64():
  with jax.enable_x64(True):
    yield


@pytest.fixture(params=SHAPES, ids=str, scope="module")
def shape(request):
  return request.param


@pytest.fixture(params=BIJECTORS, scope="module")
def bijector(request, shape):
  """(params, forward, inverse, z): functions of (params, z)."""
  make, call = BIJECTORS[request.param]
  module = make(shape[-1])
  z = normal(0, shape)

  def method(name):
    return jax.jit(lambda params, z: module.apply({"params": params}, z, name, method=call))

  params = module.init(jax.random.key(1), z.astype(jnp.float32), "forward_and_log_det", method=call)
  leaves, treedef = jax.tree.flatten(params["params"])
  moved = [leaf + 0.3 * normal(i, leaf.shape) for i, leaf in enumerate(leaves)]
  return treedef.unflatten(moved), method("forward_and_log_det"), method("inverse_and_log_det"), z


def test_round_trips(bijector):
  params, forward, inverse, z = bijector
  y, log_det = forward(params, z)
  back, inverse_log_det = inverse(params, y)
  np.testing.assert_allclose(back, z, atol=1e-9)
  np.testing.assert_allclose(log_det + inverse_log_det, 0, atol=1e-9)
  again, _ = forward(params, inverse(params, z)[0])
  np.testing.assert_allclose(again, z, atol=1e-9)


def test_log_det_is_the_jacobians(bijector):
  params, forward, _, z = bijector
  _, log_det = forward(params, z)
  # Images of a batch do not mix: the Jacobian of the sum over the batch holds each one's own.
  jacobian = jax.jit(jax.jacobian(lambda z: forward(params, z)[0].sum(0)))(z)
  size = z[0].size
  for i in range(z.shape[0]):
    of_image = jacobian[:, :, :, i].reshape(size, size)
    np.testing.assert_allclose(log_det[i], np.linalg.slogdet(of_image)[1], atol=1e-6)


def test_every_parameter_gets_a_gradient(bijector):
  params, forward, _, z = bijector

  def loss(params):
    y, log_det = forward(params, z)
    return jnp.sum(jnp.sin(y)) + jnp.sum(log_det)

  for path, gradient in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(params)):
    if path[-1].key == "first_kernel":
      continue  # its part over features belongs to whoever convolves them: tests of the model
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0), path


def test_squeeze_orders_channels_as_published():
  z = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
  y = bijectors.squeeze(z, 2)
  assert y.shape == (2, 2, 3, 12)
  for c, fy, fx in [(0, 0, 0), (0, 0, 1), (1, 1, 0), (2, 1, 1)]:
    np.testing.assert_array_equal(y[..., c * 4 + fy * 2 + fx], z[:, fy::2, fx::2, c])
  np.testing.assert_array_equal(bijectors.unsqueeze(y, 2), z)
  np.testing.assert_array_equal(bijectors.squeeze(z, 1), z)


def test_actnorm_normalises_its_first_batch():
  z = 3 + 5 * normal(0, (4, 8, 8, 3))
  (y, _), _ = ActNorm().init_with_output(jax.random.key(0), z, method="forward_and_log_det")
  np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-6)
  np.testing.assert_allclose(y.std((0, 1, 2)), 1, atol=1e-5)


def test_rotation_is_orthogonal():
  w = bijectors.random_rotation(jax.random.key(0), 12, jnp.float64)
  np.testing.assert_allclose(w @ w.T, np.eye(12), atol=1e-12)


def test_inverse_is_a_float64_one():
  """A float32 inverse would lose as many digits as the condition number has."""
  q = np.linalg.qr(np.random.default_rng(0).standard_normal((2, 48, 48)))[0]
  w = ((q[0] * np.geomspace(1, 1e-3, 48)) @ q[1]).astype(np.float32)
  with jax.enable_x64(False):
    ours = jax.jit(bijectors.accurate_inverse)(jnp.asarray(w))
  assert ours.dtype == jnp.float32
  exact = np.linalg.inv(w.astype(np.float64))
  assert np.linalg.norm(ours - exact, 2) < 3e-8 * np.linalg.norm(exact, 2)


def test_scale_is_at_its_published_value_at_zero():
  shift, scale = bijectors.shift_and_scale(jnp.zeros((1, 2, 2, 8)))
  assert shift.shape == scale.shape == (1, 2, 2, 4)
  np.testing.assert_allclose(shift, 0)
  np.testing.assert_allclose(scale, 1 / (1 + np.exp(-2)) + 1e-4)
  shift, _ = bijectors.shift_and_scale(jnp.arange(8.0))
  np.testing.assert_array_equal(shift, [0, 2, 4, 6])  # interleaved, not halves
