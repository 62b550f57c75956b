"""Images made consistent with an LR image."""

import numpy as np
import pytest

from srflow_jax.evaluation import metrics
from srflow_jax.ops.consistency import TOLERANCE, make_consistent
from srflow_jax.ops.resize import bicubic_resize, resize_weights


def smooth(size, low, high):
  """An HR image of 8 bits."""
  coarse = np.random.default_rng(0).uniform(low, high, (-(-size[0] // 6), -(-size[1] // 6), 3))
  return metrics.to_uint8(bicubic_resize(coarse, 6)[: size[0], : size[1]])


SIZES = [(2, (9, 1)), (3, (7, 8)), (4, (17, 12)), (8, (5, 6))]


@pytest.mark.parametrize("scale, lr_size", SIZES)
def test_reductions_are_within_the_tolerance(scale, lr_size):
  hr = smooth([side * scale for side in lr_size], 0.3, 0.7)
  lr = bicubic_resize(hr / 255, 1 / scale)
  noisy = hr / 255 + np.random.default_rng(1).normal(0, 0.05, hr.shape)
  for tolerance in (TOLERANCE, 0.5 / 255):
    image = make_consistent(noisy, lr, scale, tolerance)
    assert image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1
    difference = np.abs(bicubic_resize(image.astype(np.float64), 1 / scale) - lr)
    assert difference.max() < tolerance + 1e-5


@pytest.mark.parametrize("scale, lr_size", SIZES)
def test_lr_psnr_is_at_the_limit_that_8_bits_set(scale, lr_size):
  """A quarter of the pixels is black or white, where MATLAB clips what it has reduced."""
  hr = smooth([side * scale for side in lr_size], -0.3, 1.3)
  lr = metrics.shrunk(hr, scale)
  noisy = hr / 255 + np.random.default_rng(1).normal(0, 0.1, hr.shape)
  images = [noisy, make_consistent(noisy, lr / 255, scale)]
  before, after = metrics.lr_psnr(list(map(metrics.to_uint8, images)), hr, scale)
  assert before < 45 and after > 55


def test_the_change_is_the_pseudo_inverse_s():
  rng = np.random.default_rng(0)
  image, lr = rng.uniform(0.4, 0.6, (24, 20, 1)), rng.uniform(0.48, 0.52, (6, 5, 1))
  matrix = np.kron(resize_weights(24, 1 / 4), resize_weights(20, 1 / 4))
  x, y = image.ravel(), lr.ravel()
  for tolerance in (0.0, 0.01):
    target = np.clip(matrix @ x, y - tolerance, y + tolerance)
    expected = x + np.linalg.pinv(matrix) @ (target - matrix @ x)
    actual = make_consistent(image, lr, 4, tolerance)
    np.testing.assert_allclose(actual.ravel(), expected, atol=1e-6)


def test_consistent_images_are_left_alone():
  hr = smooth((32, 28), 0.3, 0.7)
  image = make_consistent(hr / 255, bicubic_resize(hr / 255, 1 / 4), 4)
  np.testing.assert_allclose(image, hr / 255, atol=1e-6)


def test_sizes_must_fit():
  with pytest.raises(ValueError, match=r"\(8, 9, 3\) is not 4 times an LR of \(2, 2, 3\)"):
    make_consistent(np.zeros((8, 9, 3)), np.zeros((2, 2, 3)), 4)
