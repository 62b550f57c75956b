import jax
import numpy as np
import pytest
import scipy.stats

from srflow_jax.ops.noise import normal_field


def draw(shape, top=0, left=0, seed=0):
  return np.asarray(jax.jit(normal_field, static_argnums=1)(jax.random.key(seed), shape, top, left))


def test_a_window_is_cut_from_the_field_whatever_its_size_and_place():
  whole = draw((2, 19, 23, 5))
  for top, left, height, width in [(0, 0, 7, 9), (7, 8, 5, 6), (12, 14, 7, 9)]:
    window = draw((2, height, width, 5), top, left)
    np.testing.assert_array_equal(window, whole[:, top : top + height, left : left + width])


def test_numbers_are_normal_and_independent():
  field = draw((2, 64, 64, 6))
  assert scipy.stats.kstest(field.ravel(), "norm").pvalue > 0.01
  axes = [field[:, 1:] * field[:, :-1], field[:, :, 1:] * field[:, :, :-1]]
  axes += [field[..., 1:] * field[..., :-1], field[1:] * field[:-1]]
  for product in axes:
    assert abs(product.mean()) < 4 / np.sqrt(product.size)


@pytest.mark.parametrize("other", [{"seed": 1}, {"left": 2**15}, {"top": 1}])
def test_other_seeds_and_places_have_other_numbers(other):
  correlation = (draw((1, 32, 32, 4)) * draw((1, 32, 32, 4), **other)).mean()
  assert abs(correlation) < 4 / np.sqrt(32 * 32 * 4)
