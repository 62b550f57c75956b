"""An orthonormal basis of HR images in which MATLAB's bicubic downscaling sees few coordinates.

Along one axis of n LR pixels, downscaling by s is a matrix A `[n, n s]` (`ops.resize`). The rows of
A span what it sees; the orthogonal complement, its null space, is what an LR image leaves open.
Here each LR pixel gets s basis vectors along the axis: one in the row space and s - 1 in the null
space. They are the columns of

    R = A^T (A A^T)^(-1/2)                     n of the row space
    N = P E (E^T P E)^(-1/2),  P = I - R R^T   n (s - 1) of the null space

where E holds, for each LR pixel, the s - 1 cosines (DCT-II) of its s HR pixels that have no mean.
Both are the orthonormal bases nearest to A^T's columns and to PE's (Lowdin 1950). A basis from a QR
would span the same; this one is local, and away from the borders the same for each pixel, as a flow
of convolutions and tiles ask for. A vector falls to a third with each LR pixel away from its own.

Images are separable: the s² coordinates of an LR pixel are products of those along both axes, and A
sees the first of them, R's along both, alone: `A_y X A_x^T = S_y C_0 S_x` with `S = (A A^T)^(1/2)`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from srflow_jax.ops.resize import resize_weights

Array = jax.Array


def coordinates(images: Array, scale: int) -> Array:
  """The coordinates of HR images.

  Args:
    images: `[B, n * scale, m * scale, C]`.
    scale: s.

  Returns:
    `[B, n, m, s * s, C]`; the first of the s * s is what A sees. They have the image's norm.
  """
  rows, columns = _bases(images.shape[1:3], scale, images.dtype)
  z = jnp.einsum("ynk,byxc->bnkxc", rows, images, precision="highest")
  z = jnp.einsum("xml,bnkxc->bnmklc", columns, z, precision="highest")
  return z.reshape(*z.shape[:3], scale**2, z.shape[-1])


def from_coordinates(z: Array, scale: int) -> Array:
  """The images of coordinates: the inverse of `coordinates`."""
  b, n, m, _, c = z.shape
  rows, columns = _bases((n * scale, m * scale), scale, z.dtype)
  z = z.reshape(b, n, m, scale, scale, c)
  z = jnp.einsum("xml,bnmklc->bnkxc", columns, z, precision="highest")
  return jnp.einsum("ynk,bnkxc->byxc", rows, z, precision="highest")


def seen_coordinates(lr: Array, scale: int) -> Array:
  """The first coordinates of every HR image whose LR image is `lr`, `[B, n, m, C]` like it."""
  rows, columns = (jnp.asarray(_axis(side, scale)[1], lr.dtype) for side in lr.shape[1:3])
  z = jnp.einsum("ij,bjmc->bimc", rows, lr, precision="highest")
  return jnp.einsum("ij,bnjc->bnic", columns, z, precision="highest")


def _bases(size: tuple[int, ...], scale: int, dtype: jnp.dtype) -> list[Array]:
  return [jnp.asarray(_axis(side // scale, scale)[0], dtype) for side in size]


@functools.lru_cache(maxsize=32)
def _axis(n: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
  """Of one axis the basis `[n * scale, n, scale]` and `S^-1` `[n, n]`, float64."""
  a = resize_weights(n * scale, 1 / scale)
  seen = _orthonormalised(a.T)
  cosines = np.asarray(scipy.fft.dct(np.eye(scale), norm="ortho", axis=0))[1:].T
  details = np.kron(np.eye(n), cosines)
  unseen = _orthonormalised(details - seen @ (seen.T @ details))
  basis = np.concatenate([seen[:, :, None], unseen.reshape(n * scale, n, scale - 1)], axis=-1)
  return basis, np.linalg.inv(a @ seen)


def _orthonormalised(x: np.ndarray) -> np.ndarray:
  """`X (X^T X)^(-1/2)` of a well-conditioned X, by the iteration of Newton and Schulz."""
  x = x / np.sqrt(np.linalg.norm(x, 1) * np.linalg.norm(x, np.inf))  # singular values up to 1
  identity = np.eye(x.shape[1])
  while np.abs((gram := x.T @ x) - identity).max() > 1e-13:
    x = x @ (1.5 * identity - 0.5 * gram)
  return x
