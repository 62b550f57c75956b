"""Convolutions: the short way around an enlargement equals the long one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srflow_jax.convolutions import conv, conv_upsampled, normal_init, upsample_nearest


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_convolving_an_enlarged_image_without_enlarging_it(factor):
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 3, 5, 4)), rng.standard_normal((3, 3, 4, 6))
    plain = conv(upsample_nearest(jnp.asarray(x), factor), kernel)
    np.testing.assert_allclose(conv_upsampled(jnp.asarray(x), kernel, factor), plain, atol=1e-12)


def test_nearest_neighbour():
  x = np.arange(12.0).reshape(1, 2, 3, 2)
  np.testing.assert_array_equal(upsample_nearest(x, 2), x.repeat(2, 1).repeat(2, 2))


def test_initial_kernels_have_their_spread():
  kernel = normal_init(0.05)(jax.random.key(0), (3, 3, 64, 64))
  np.testing.assert_allclose(np.std(kernel), 0.05, rtol=0.02)
  np.testing.assert_allclose(np.mean(kernel), 0, atol=0.001)
