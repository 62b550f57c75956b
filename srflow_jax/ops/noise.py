"""Gaussian noise as a field over the plane: what lies at a pixel depends on a key and the pixel.

An image's latents can so be drawn whole or window by window, with the same result: the window's
size and place change nothing, and neither does the size of the image that it is cut from.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float32

Array = jax.Array

MAX_SIDE = 2**16  # pixels a side of a field: both coordinates make one number of 32 bits


def normal_field(
  key: Array, shape: tuple[int, ...], top: int | Array = 0, left: int | Array = 0
) -> Float32[Array, "B h w C"]:
  """Draws a window of a field of standard normal numbers.

  Args:
    key: Which field.
    shape: Of the window, `[B, h, w, C]`; each of the B images has a field of its own. Fields of
      other C are others.
    top: The window's first row in the field; may be traced.
    left: Its first column.

  Returns:
    The window.
  """
  batch, height, width, channels = shape
  rows = jnp.asarray(top, jnp.uint32) + jnp.arange(height, dtype=jnp.uint32)
  columns = jnp.asarray(left, jnp.uint32) + jnp.arange(width, dtype=jnp.uint32)
  pixels = (rows[:, None] * MAX_SIDE + columns).reshape(-1)

  def image(index: Array) -> Array:
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.fold_in(key, index)))(pixels)
    return jax.vmap(lambda k: jax.random.normal(k, (channels,), jnp.float32))(keys)

  return jax.vmap(image)(jnp.arange(batch)).reshape(shape)
