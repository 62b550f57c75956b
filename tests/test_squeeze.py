"""Squeezing orders channels as published."""

import jax.numpy as jnp
import numpy as np

from srflow_jax.model import bijectors


def test_squeeze_orders_channels_as_published():
  z = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
  y = bijectors.squeeze(z, 2)
  assert y.shape == (2, 2, 3, 12)
  for c, fy, fx in [(0, 0, 0), (0, 0, 1), (1, 1, 0), (2, 1, 1)]:
    np.testing.assert_array_equal(y[..., c * 4 + fy * 2 + fx], z[:, fy::2, fx::2, c])
  np.testing.assert_array_equal(bijectors.unsqueeze(y, 2), z)
  np.testing.assert_array_equal(bijectors.squeeze(z, 1), z)


def test_numbers_of_a_channel_are_interleaved():
  np.testing.assert_array_equal(bijectors.by_channel(jnp.arange(8.0), 2)[..., 0], [0, 2, 4, 6])
