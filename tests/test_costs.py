import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srflow_jax.ops.convolutions import conv
from srflow_jax.ops.costs import count_flops


def flops(function, *args) -> int:
  return count_flops(jax.jit(function).trace(*args).jaxpr)


def test_a_convolution_and_its_gradients():
  x, kernel = np.ones((2, 8, 6, 5), np.float32), np.ones((3, 3, 5, 7), np.float32)
  once = 2 * (2 * 8 * 6) * (3 * 3 * 5 * 7)
  assert flops(conv, x, kernel) == once
  gradients = jax.grad(lambda x, kernel: jnp.sum(conv(x, kernel)), (0, 1))
  assert flops(gradients, x, kernel) == 3 * once


def test_products_within_scans_and_vmaps():
  left, right = np.ones((4, 5), np.float32), np.ones((3, 5, 5), np.float32)

  def powers(x):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, right)[0]

  assert flops(powers, left) == 3 * 2 * 4 * 5 * 5
  assert flops(jax.vmap(powers), np.stack([left] * 6)) == 6 * 3 * 2 * 4 * 5 * 5
  assert flops(lambda x: jnp.sum(jnp.exp(x)), left) == 0


def test_a_loop_of_unknown_length_is_refused():
  with pytest.raises(ValueError, match="its length is not known"):
    flops(lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ x, x), np.eye(3))
