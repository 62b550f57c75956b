"""Invertible layers, in the order in which they run image → latents.

Every bijector has two methods that return the result and their own log-determinant, `[B]` in nats:

    z, log_det = layer.forward_and_log_det(z, ...)   # image → latents
    z, log_det = layer.inverse_and_log_det(z, ...)   # latents → image, log_det of the *inverse*

so the two log-determinants of one point sum to zero. Arrays are `[B, H, W, C]`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from srflow_jax.model.nets import Conditioner, ConditionerSpec, ZeroConv, actnorm_params

Array = jax.Array


def squeeze(z: Array, factor: int) -> Array:
  """Folds space into channels: `[B, H, W, C]` → `[B, H/f, W/f, C*f*f]`.

  Output channel `c*f*f + fy*f + fx` is pixel `(fy, fx)` of input channel c. Its log-det is zero.
  """
  b, h, w, c = z.shape
  z = z.reshape(b, h // factor, factor, w // factor, factor, c)
  return z.transpose(0, 1, 3, 5, 2, 4).reshape(b, h // factor, w // factor, c * factor**2)


def unsqueeze(z: Array, factor: int) -> Array:
  """The inverse of `squeeze`: `[B, h, w, C*f*f]` → `[B, h*f, w*f, C]`."""
  b, h, w, c = z.shape
  z = z.reshape(b, h, w, c // factor**2, factor, factor)
  return z.transpose(0, 1, 4, 2, 5, 3).reshape(b, h * factor, w * factor, c // factor**2)


def sum_event(x: Array) -> Array:
  """Sums `[B, H, W, C]` over all axes but the batch: `[B]`."""
  return jnp.sum(x, axis=(1, 2, 3))


def per_pixel(log_det: Array, z: Array) -> Array:
  """The log-det of one linear map of channels, applied at every pixel of z: `[B]`."""
  return jnp.full((z.shape[0],), z.shape[1] * z.shape[2] * log_det)


class ActNorm(nn.Module):
  """A shift and a scale for each channel, set by the first batch (Glow, section 3.1).

      forward:  y = (z + bias) * exp(logs)
      log-det:  H * W * sum(logs)
      inverse:  z = y * exp(-logs) - bias

  `init` must see real data.
  """

  @nn.compact
  def _bias_and_logs(self, z: Array) -> tuple[Array, Array]:
    return actnorm_params(self, z)

  def forward_and_log_det(self, z: Array) -> tuple[Array, Array]:
    """Normalises z `[B, H, W, C]`."""
    bias, logs = self._bias_and_logs(z)
    return (z + bias) * jnp.exp(logs), per_pixel(jnp.sum(logs), z)

  def inverse_and_log_det(self, z: Array) -> tuple[Array, Array]:
    """Undoes the normalisation."""
    bias, logs = self._bias_and_logs(z)
    return z * jnp.exp(-logs) - bias, per_pixel(-jnp.sum(logs), z)


def random_rotation(key: Array, size: int, dtype: jnp.dtype = jnp.float32) -> Array:
  """A random rotation or reflection, `[size, size]`, uniform over the orthogonal group."""
  q, r = jnp.linalg.qr(jax.random.normal(key, (size * size,), dtype).reshape(size, size))
  return q * jnp.sign(jnp.diag(r))


def accurate_inverse(w: Array) -> Array:
  """The inverse of w `[C, C]`, computed in float64 and rounded to w's own type."""
  with jax.enable_x64(True):
    return jnp.linalg.inv(w.astype(jnp.float64)).astype(w.dtype)


class InvertibleConv1x1(nn.Module):
  """One matrix that mixes the channels of every pixel (Glow, section 3.2).

  forward:  y = W z
  log-det:  H * W * log|det W|
  inverse:  z = W^-1 y
  """

  # One matrix at a time: batching those of equal size saves no time worth having, and the gradient
  # of a batched slogdet was seen to deadlock on a CPU of two cores (jaxlib 0.10.2).

  @nn.compact
  def _kernel(self, z: Array) -> Array:
    return self.param("kernel", random_rotation, z.shape[-1])

  def forward_and_log_det(self, z: Array) -> tuple[Array, Array]:
    """Mixes the channels of z `[B, H, W, C]`."""
    w = self._kernel(z)
    y = jnp.einsum("oi,bhwi->bhwo", w, z, precision="highest")
    return y, per_pixel(jnp.linalg.slogdet(w)[1], z)

  def inverse_and_log_det(self, z: Array) -> tuple[Array, Array]:
    """Unmixes them."""
    w = self._kernel(z)
    x = jnp.einsum("oi,bhwi->bhwo", accurate_inverse(w), z, precision="highest")
    return x, per_pixel(-jnp.linalg.slogdet(w)[1], z)


def shift_and_scale(h: Array) -> tuple[Array, Array]:
  """Reads a conditioner's output `[..., 2C]`: shift and scale `[..., C]` are interleaved in it.

  The scale lies in (1e-4, 1 + 1e-4), at zero initialisation it is sigmoid(2) = 0.88.
  """
  h = h.reshape(*h.shape[:-1], -1, 2)
  return h[..., 0], jax.nn.sigmoid(h[..., 1] + 2.0) + 1e-4


def note_scale(layer: nn.Module, scale: Array) -> None:
  """Keeps a layer's smallest scale for who asks for the collection `smallest_scale`.

  What the inverse divides by the smallest of all says how much it enlarges errors.
  """
  layer.sow("smallest_scale", "scale", jnp.min(scale), jnp.minimum, lambda: jnp.inf)


class Injector(nn.Module):
  """An affine map of all channels, given the LR features u alone (SRFlow, section 3.3).

      forward:  y = (z + shift(u)) * scale(u)
      log-det:  sum(log(scale(u)))
      inverse:  z = y / scale(u) - shift(u)

  Both methods take `affine = condition(features' first convolution)`, which no sample changes.
  """

  channels: int
  conditioner: ConditionerSpec
  feature_channels: int

  def setup(self) -> None:
    self.net = Conditioner(
      self.conditioner,
      own_channels=0,
      feature_channels=self.feature_channels,
      out=2 * self.channels,
    )

  def condition(self, hidden: Array) -> tuple[Array, Array]:
    """Shift and scale, `[B, h, w, C]` each, from the net's first convolution of the features."""
    return shift_and_scale(self.net(None, hidden))

  def forward_and_log_det(self, z: Array, affine: tuple[Array, Array]) -> tuple[Array, Array]:
    """Maps z `[B, h, w, C]`."""
    shift, scale = affine
    note_scale(self, scale)
    return (z + shift) * scale, sum_event(jnp.log(scale))

  def inverse_and_log_det(self, z: Array, affine: tuple[Array, Array]) -> tuple[Array, Array]:
    """Maps it back."""
    shift, scale = affine
    return z / scale - shift, -sum_event(jnp.log(scale))


class Coupling(nn.Module):
  """An affine map of the second half b of the channels, given the first half a and u.

      forward:  b' = (b + shift(a, u)) * scale(a, u)
      log-det:  sum(log(scale(a, u)))
      inverse:  b = b' / scale(a, u) - shift(a, u)

  The first half has `C // 2` channels. Both methods take the part of the net's first convolution
  that sees u alone, `[B, h, w, width]`.
  """

  channels: int
  conditioner: ConditionerSpec
  feature_channels: int

  def setup(self) -> None:
    self.keep = self.channels // 2
    self.net = Conditioner(
      self.conditioner,
      own_channels=self.keep,
      feature_channels=self.feature_channels,
      out=2 * (self.channels - self.keep),
    )

  def forward_and_log_det(self, z: Array, hidden: Array) -> tuple[Array, Array]:
    """Maps z `[B, h, w, C]`."""
    a, b = z[..., : self.keep], z[..., self.keep :]
    shift, scale = shift_and_scale(self.net(a, hidden))
    note_scale(self, scale)
    return jnp.concatenate([a, (b + shift) * scale], -1), sum_event(jnp.log(scale))

  def inverse_and_log_det(self, z: Array, hidden: Array) -> tuple[Array, Array]:
    """Maps it back: a is what it was, so the net gives the same shift and scale."""
    a, b = z[..., : self.keep], z[..., self.keep :]
    shift, scale = shift_and_scale(self.net(a, hidden))
    return jnp.concatenate([a, b / scale - shift], -1), -sum_event(jnp.log(scale))


class Split(nn.Module):
  """Factors out half of the channels as a Gaussian given the half that is kept.

      forward:  eps = (rest - mean(kept)) * exp(-logs(kept))
      log-det:  -sum(logs(kept))
      inverse:  rest = mean(kept) + exp(logs(kept)) * eps

  Of C channels the first `C - C // 2` are kept; eps is standard normal under the model.
  """

  @nn.compact
  def _mean_and_logs(self, kept: Array, rest: Array) -> tuple[Array, Array]:
    h = ZeroConv(2 * rest.shape[-1], name="prior")(kept)
    h = h.reshape(*h.shape[:-1], -1, 2)
    return h[..., 0], h[..., 1]

  def forward_and_log_det(self, z: Array) -> tuple[Array, Array, Array]:
    """Splits z `[B, h, w, C]` into what is kept, `eps` and the log-det."""
    keep = z.shape[-1] - z.shape[-1] // 2
    kept, rest = z[..., :keep], z[..., keep:]
    mean, logs = self._mean_and_logs(kept, rest)
    return kept, (rest - mean) * jnp.exp(-logs), -sum_event(logs)

  def inverse_and_log_det(self, kept: Array, eps: Array) -> tuple[Array, Array]:
    """Joins what was kept with eps."""
    mean, logs = self._mean_and_logs(kept, eps)
    return jnp.concatenate([kept, mean + jnp.exp(logs) * eps], -1), sum_event(logs)
