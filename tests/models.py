"""Small models of every variant's topology, with parameters on which a test can fail."""

import importlib
import math

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from srflow_jax.model.building import abstract_params, build_model
from srflow_jax.model.features import Given
from srflow_jax.model.srflow import SRFlow

VARIANTS = ("srflow", "da", "da_r", "da_s", "da_d")


def small_model(name: str) -> SRFlow:
  """The model of `configs/NAME.py` with its topology kept and its sizes cut."""
  model = importlib.import_module(f"configs.{name}").get_config().model.to_dict()
  model["encoder"] |= {"width": 4, "growth": 3, "num_blocks": 2, "taps": (0, 1)}
  conditioner = model["conditioner"]
  conditioner["width"] = 12  # fewer can all be dead ReLUs
  if conditioner["num_hidden"] > 4:  # DA-D: two groups are enough to be groups
    conditioner["num_hidden"] = 2 * conditioner["residual_every"]
  model["stages"] = [stage | {"steps": min(stage["steps"], 2)} for stage in model["stages"]]
  return build_model(model)


def random_params(model: SRFlow, seed: int = 0, dtype=np.float64, kernel_std: float = 1.0):
  """Parameters off their initial values: there, zero convolutions would hide mistakes."""
  rng = np.random.default_rng(seed)

  def draw(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    noise = rng.standard_normal(shape)
    if path[-2:-1] == ("matrix",):  # of a mixer: near a rotation, or the identity's parameters
      start = np.linalg.qr(noise)[0] if path[-1] == "kernel" else np.eye(shape[-1])
      return start + 0.1 * rng.standard_normal(shape) / math.sqrt(shape[-1])
    if path[-1] in ("bias", "logs"):
      return 0.1 * noise
    return kernel_std * noise / math.sqrt(math.prod(shape[-4:-1]))

  shapes = flatten_dict(abstract_params(model))
  return unflatten_dict(
    {path: draw(path, leaf.shape).astype(dtype) for path, leaf in shapes.items()}
  )


def random_images(model: SRFlow, lr_size: tuple[int, int], batch: int = 1, dtype=np.float64):
  """A random HR image of LR size (height, width), and what a model is told of it."""
  rng = np.random.default_rng(1)
  height, width = lr_size
  hr = rng.uniform(size=(batch, height * model.scale, width * model.scale, 3))
  return hr.astype(dtype), Given(rng.uniform(size=(batch, height, width, 3)).astype(dtype))


def bound(model: SRFlow, params):
  """`method(name)` of a model with its parameters: a jitted function of arrays."""

  def method(name: str):
    return jax.jit(lambda *args: model.apply({"params": params}, *args, method=name))

  return method
