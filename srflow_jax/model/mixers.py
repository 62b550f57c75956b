"""Mixers: invertible matrices that mix the channels of every pixel (Glow's 1x1 convolutions).

A mixer gives its matrix W `[C, C]`, the inverse and the logarithm of |det W|; the layer that holds
it (`layers.Mix`) applies them. The inverse is computed in float64, unless a kind knows a better
way.
"""

import abc
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float

from srflow_jax.model.kinds import Place, kind
from srflow_jax.ops.convolutions import AnyArray

Array = jax.Array
Matrix = Float[AnyArray, "C C"]


def random_rotation(
  key: Array, size: int, dtype: jax.typing.DTypeLike = jnp.float32
) -> Float[Array, "{size} {size}"]:
  """A random rotation or reflection, uniform over the orthogonal group."""
  q, r = jnp.linalg.qr(jax.random.normal(key, (size * size,), dtype).reshape(size, size))
  return q * jnp.sign(jnp.diag(r))


def accurate_inverse(w: Matrix) -> Matrix:
  """The inverse of w, computed in float64 and rounded to w's own type."""
  with jax.enable_x64(True):
    return jnp.linalg.inv(w.astype(jnp.float64)).astype(w.dtype)


@struct.dataclass
class Mixing:
  """What a mixer gives.

  Attributes:
    matrix: W.
    inverse: the inverse of W.
    log_det: log|det W|.
  """

  matrix: Float[Array, "*N C C"]
  inverse: Float[Array, "*N C C"]
  log_det: Float[Array, "*N"]


class Mixer(nn.Module, Place, kw_only=True):
  """An invertible matrix.

  Attributes:
    channels: C.
  """

  place: ClassVar[str] = "mixer"
  published: ClassVar[str] = "full"

  channels: int

  @abc.abstractmethod
  def matrix_and_log_det(self) -> tuple[Matrix, Float[Array, ""]]:
    """W and log|det W|."""
    raise NotImplementedError

  def inverse_matrix(self) -> Matrix:
    """The inverse of W."""
    return accurate_inverse(self.matrix_and_log_det()[0])

  def mixing(self) -> Mixing:
    """All of it."""
    matrix, log_det = self.matrix_and_log_det()
    return Mixing(jnp.asarray(matrix), jnp.asarray(self.inverse_matrix()), log_det)


@kind("full")
class Full(Mixer):
  """Any matrix, at first a random rotation (Glow, section 3.2)."""

  has_published_names: ClassVar[bool] = True

  def setup(self) -> None:
    self.kernel = self.param("kernel", random_rotation, self.channels)

  def matrix_and_log_det(self) -> tuple[Matrix, Float[Array, ""]]:
    """See the base class."""
    return self.kernel, jnp.linalg.slogdet(self.kernel)[1]


@kind("orthogonal")
class Orthogonal(Mixer):
  """A rotation, `W = R exp(A - A^T)`, with R a fixed random rotation and A, at first zero, free.

  Its log-det is 0 and its inverse is its transpose, to round-off.
  """

  def setup(self) -> None:
    shape = (self.channels, self.channels)
    self.skew = self.param("skew", nn.initializers.zeros, shape, jnp.float32)

  def matrix_and_log_det(self) -> tuple[Matrix, Float[Array, ""]]:
    """See the base class."""
    start = _fixed_rotation(self.channels).astype(self.skew.dtype)
    turn = jax.scipy.linalg.expm(self.skew - self.skew.T)
    return jnp.matmul(start, turn, precision="highest"), jnp.zeros((), self.skew.dtype)

  def inverse_matrix(self) -> Matrix:
    """See the base class."""
    return self.matrix_and_log_det()[0].T


@kind("permutation")
class Permutation(Mixer):
  """A fixed permutation of the channels, the same in every step (RealNVP, Dinh et al. 2017)."""

  def matrix_and_log_det(self) -> tuple[Matrix, Float[Array, ""]]:
    """See the base class."""
    rows = jnp.eye(self.channels, dtype=jnp.float32)
    return rows[fixed_permutation(self.channels)], jnp.zeros((), jnp.float32)

  def inverse_matrix(self) -> Matrix:
    """See the base class."""
    return self.matrix_and_log_det()[0].T


def fixed_permutation(channels: int) -> np.ndarray:
  """A permutation of so many channels, always the same: no parameter holds it."""
  return np.random.default_rng(channels).permutation(channels)


def _fixed_rotation(channels: int) -> Array:
  """A rotation of so many channels, always the same: no parameter holds it."""
  q = np.linalg.qr(np.random.default_rng(channels).standard_normal((channels, channels)))[0]
  return jnp.asarray(q)


@kind("plu")
class PLU(Mixer):
  """`W = P L U` with a fixed permutation P; log|det W| is the sum of log|U's diagonal| (Glow, 3.2).

  L is unit lower and U upper triangular. They begin as the factors of a random rotation, of which P
  replaces the permutation, so that W begins as a rotation too. One matrix holds both: L below its
  diagonal, U from there on.
  """

  def setup(self) -> None:
    self.factors = self.param("factors", _factors_of_rotation, self.channels)

  def matrix_and_log_det(self) -> tuple[Matrix, Float[Array, ""]]:
    """See the base class."""
    lower = jnp.tril(self.factors, -1) + jnp.eye(self.channels, dtype=self.factors.dtype)
    w = jnp.matmul(lower, jnp.triu(self.factors), precision="highest")
    log_det = jnp.sum(jnp.log(jnp.abs(jnp.diag(self.factors))))
    return w[fixed_permutation(self.channels)], log_det


def _factors_of_rotation(key: Array, size: int) -> Array:
  """L and U of a random rotation, in one matrix."""
  return jax.scipy.linalg.lu_factor(random_rotation(key, size))[0]
