"""What several benchmarks measure alike."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from srflow_jax.model.building import abstract_params
from srflow_jax.model.model import Model
from srflow_jax.ops.costs import program_bytes
from srflow_jax.sampling.budget import Plan, samples_of_program
from srflow_jax.training.devices import data_mesh, put_batch, put_replicated

GB = 10**9


def peak_gflops() -> float:
  """10^9 operations a second in a large matrix product on all devices; the best of five."""
  on_cpu = jax.default_backend() == "cpu"
  size, dtype = (2048, jnp.float32) if on_cpu else (8192, jnp.bfloat16)
  mesh = data_mesh()
  left = put_batch(mesh, {"x": np.ones((size * mesh.size, size), np.float32)})["x"].astype(dtype)
  right = put_replicated(mesh, jnp.ones((size, size), dtype))
  product, seconds = jax.jit(jnp.dot).lower(left, right).compile(), []
  for _ in range(5):
    begin = time.perf_counter()
    jax.block_until_ready(product(left, right))
    seconds.append(time.perf_counter() - begin)
  return 2 * size**3 * mesh.size / min(seconds) / 1e9


def plausible_params(model: Model) -> dict[str, Any]:
  """Parameters drawn on the host, with which activations neither vanish nor overflow.

  Nothing is compiled for them, unlike `building.init_params`, so they suit timings on a device
  whose minutes count.
  """
  rng = np.random.default_rng(0)

  def draw(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    if path[-2:] == ("matrix", "kernel"):  # a rotation
      return np.linalg.qr(rng.standard_normal(shape))[0].astype(np.float32)
    if path[-1] in ("bias", "logs"):
      return np.zeros(shape, np.float32)
    deviation = 0.3 / math.sqrt(math.prod(shape[-4:-1]))
    return rng.standard_normal(shape, np.float32) * np.float32(deviation)

  shapes = flatten_dict(abstract_params(model))
  return unflatten_dict({path: draw(path, leaf.shape) for path, leaf in shapes.items()})


def random_batch(batch: int, patch: int, scale: int) -> dict[str, np.ndarray]:
  """A training batch of uint8 noise: "hr" `[batch, patch, patch, 3]` and its "lr"."""
  rng = np.random.default_rng(0)
  shapes = {"hr": (batch, patch, patch, 3), "lr": (batch, *[patch // scale] * 2, 3)}
  return {name: rng.integers(0, 256, shape, np.uint8) for name, shape in shapes.items()}


def gflop_of_samples(plan: Plan, number: int, condition: float, decode: float) -> float:
  """10^9 operations of so many samples of an image.

  Args:
    plan: how the image is computed.
    number: of samples.
    condition: of a tile's context.
    decode: of the program that decodes as many of a tile's samples as it draws together.
  """
  rounds = -(-number // samples_of_program(plan.batch))
  return len(plan.tiling.tiles) * (condition + decode * rounds)


def program_gb(program: jax.stages.Compiled) -> float:
  """What a compiled program needs at most, arguments included, in 10^9 bytes."""
  return program_bytes(program) / GB


def median_seconds(run: Callable[[], Any], seconds: float = 2.0, most: int = 20) -> float:
  """The median time of `run()`, after one call to warm up: of 3 runs, more if they are short."""
  run()
  taken, end = [], time.perf_counter() + seconds
  while len(taken) < 3 or (time.perf_counter() < end and len(taken) < most):
    begin = time.perf_counter()
    run()
    taken.append(time.perf_counter() - begin)
  return float(np.median(taken))
