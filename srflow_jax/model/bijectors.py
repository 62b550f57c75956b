"""Pieces of invertible layers: squeeze, actnorm, sums of log-determinants.

Log-determinants are in nats.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from srflow_jax.ops.convolutions import AnyArray

Array = jax.Array
Grid = Float[AnyArray, "B h w C"]  # numbers at each pixel: images, latents and all between them
LogDet = Float[Array, " B"]  # nats


def squeeze(
  z: Float[AnyArray, "B H W C"], factor: int
) -> Float[Array, "B H//{factor} W//{factor} C*{factor}**2"]:
  """Folds space into channels.

  With f the factor, output channel `c*f*f + fy*f + fx` is pixel `(fy, fx)` of input channel c. Its
  log-det is zero.
  """
  b, h, w, c = z.shape
  z = jnp.reshape(z, (b, h // factor, factor, w // factor, factor, c))
  return z.transpose(0, 1, 3, 5, 2, 4).reshape(b, h // factor, w // factor, c * factor**2)


def unsqueeze(
  z: Float[AnyArray, "B h w C"], factor: int
) -> Float[Array, "B h*{factor} w*{factor} C//{factor}**2"]:
  """The inverse of `squeeze`."""
  b, h, w, c = z.shape
  z = jnp.reshape(z, (b, h, w, c // factor**2, factor, factor))
  return z.transpose(0, 1, 4, 2, 5, 3).reshape(b, h * factor, w * factor, c // factor**2)


def sum_event(x: Grid) -> LogDet:
  """Sums over all axes but the batch."""
  return jnp.sum(x, axis=(1, 2, 3))


def per_pixel(log_det: Float[Array, ""], z: Grid) -> LogDet:
  """The log-det of one linear map of channels, applied at every pixel of z."""
  return jnp.full((z.shape[0],), z.shape[1] * z.shape[2] * log_det)


def by_channel(
  h: Float[Array, "*pixels C_numbers"], numbers: int
) -> Float[Array, "*pixels C_numbers//{numbers} {numbers}"]:
  """Reads a net's output, in which the numbers of a channel lie one after the other."""
  return h.reshape(*h.shape[:-1], -1, numbers)


MAP_FACTOR = "map_factor"  # the name under which `note_inverse_factor` keeps those of maps


def note_inverse_factor(layer: nn.Module, log_factor: AnyArray, of_map: bool = False) -> None:
  """Keeps the largest factor by which a layer's inverse enlarges an error, if it is asked for.

  Where the collection "log_factor" is asked for, it keeps all of them instead of the largest: of an
  elementwise map, `[B, h, w, C]`, they say what each place adds to the log-determinant.

  Args:
    layer: the layer.
    log_factor: logarithms of such factors, of any shape.
    of_map: whether the layer is an elementwise map of the flow's variable.
  """
  if layer.is_mutable_collection("log_factor"):
    layer.sow("log_factor", "all", log_factor, lambda _, new: new, lambda: log_factor)
  if layer.is_mutable_collection("inverse_factor"):
    factor = jnp.exp(jnp.max(log_factor))
    name = MAP_FACTOR if of_map else "factor"
    layer.sow("inverse_factor", name, factor, jnp.maximum, lambda: jnp.zeros(()))


def actnorm_params(
  layer: nn.Module, x: Grid
) -> tuple[Float[AnyArray, " C"], Float[AnyArray, " C"]]:
  """A layer's `bias` and `logs` of an actnorm: `(x + bias) * exp(logs)`.

  They are set by the first batch, so that it leaves with mean 0 and variance 1 a channel (Glow,
  section 3.1). `init` must see real data.
  """
  first = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  bias = layer.param("bias", lambda _: -jnp.mean(first, (0, 1, 2)))
  logs = layer.param("logs", lambda _: -jnp.log(jnp.std(first, (0, 1, 2)) + 1e-6))
  return bias, logs
