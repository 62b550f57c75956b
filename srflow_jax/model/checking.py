"""Whether the parts of a model do what they say: invert themselves and know their log-det.

All is computed in float64, on small images of noise, with parameters a little off their initial
values, where zero convolutions would hide mistakes. There round-off is many times below the limits,
so a part that misses one is wrong, and not merely inexact.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from srflow_jax.model.bijectors import Grid, LogDet
from srflow_jax.model.building import init_params, parts_of
from srflow_jax.model.features import Features, Given
from srflow_jax.model.kinds import Part, Place
from srflow_jax.model.layers import Layer
from srflow_jax.model.maps import Map, mapped
from srflow_jax.model.priors import Prior
from srflow_jax.model.srflow import SRFlow
from srflow_jax.ops.convolutions import AnyArray
from srflow_jax.ops.resize import bicubic_resize_on_device

Array = jax.Array
Call = Callable[[nn.Module, Grid, str], tuple[Grid, LogDet]]

_OFF = 0.15  # the standard deviation by which parameters are moved, at most
# By how much a kernel's noise enlarges what it sums. Deep nets and many steps are steep with more.
_GAIN = 0.1
_GAIN_OF_FLOWS = 0.01
_FAR = 1e3  # where an inverse must still hold
_LIMIT = 1e-6  # of errors; an inverse that is computed by iterations need not be exact
_LIMIT_OF_FLOWS = 1e-4  # many layers enlarge errors; of DA-D's deep nets to 4e-7


@dataclasses.dataclass(frozen=True)
class Finding:
  """What a check found.

  Attributes:
    part: what was checked.
    what: what should be zero.
    error: what it is.
    at_most: what it may be.
  """

  part: str
  what: str
  error: float
  at_most: float = _LIMIT

  @property
  def holds(self) -> bool:
    """Whether the part does what it says; not if the error is not a number."""
    return self.error <= self.at_most


def normal(seed: int, shape: tuple[int, ...]) -> Array:
  """Numbers from N(0, 1), float64, of a seed."""
  return jax.random.normal(jax.random.key(seed), shape, jnp.float64)


def check_map(elementwise: Map, name: str) -> Iterator[Finding]:
  """Checks an elementwise map at moderate numbers, and its inverse far out."""
  parameters = elementwise.parameters(1.5 * normal(0, (3, 40, elementwise.numbers)))
  z = normal(1, (3, 40))
  y, log_derivative = mapped(elementwise, z, parameters)
  back, of_inverse = mapped(elementwise, y, parameters, inverse=True)
  by_autodiff = jax.grad(lambda z: jnp.sum(elementwise.forward(z, parameters)[0]))(z)
  for what, difference in {
    "z → y → z": back - z,
    "log-derivative less that by autodiff": log_derivative - jnp.log(by_autodiff),
    "log-derivatives of both directions, summed": log_derivative + of_inverse,
  }.items():
    yield Finding(name, what, _largest(difference))
  for far in (_FAR, -_FAR):
    z = jnp.full_like(z, far)
    y, _ = mapped(elementwise, z, parameters)
    back, _ = mapped(elementwise, y, parameters, inverse=True)
    yield Finding(name, f"z → y → z at {far:g}, relative", _largest(back / far - 1))


def bijector(part: Part, channels: int) -> tuple[nn.Module, Call]:
  """A layer or a prior as a map of images, with features of noise.

  A prior is seen as a map of all channels, the first half of which it is given as those that a
  split keeps.

  Returns:
    The module, and what `module.apply(..., z, method_name, method=call)` takes as its method.
  """
  if issubclass(part.cls, Layer):
    module = part.unbound(channels=channels, feature_channels=5)

    def call(module: Any, z: Grid, method: str) -> tuple[Grid, LogDet]:
      features, given = _told(z)
      kernel = module.feature_kernel()
      convolved = None if kernel is None else features.convolve(kernel)
      context = module.own_context()
      if context is None:
        context = module.condition(convolved, features, given)
      return getattr(module, method)(z, context)

    return module, call

  kept = channels - channels // 2
  module = part.unbound(channels=channels - kept, kept_channels=kept, feature_channels=5)

  def call_prior(module: Any, z: Grid, method: str) -> tuple[Grid, LogDet]:
    context = module.condition(*_told(z))
    y, log_det = getattr(module, method)(z[..., kept:], z[..., :kept], context)
    return jnp.concatenate([z[..., :kept], y], -1), log_det

  return module, call_prior


def _told(z: Grid) -> tuple[Features, Given]:
  b, h, w, _ = z.shape
  features = Features(normal(7, (b, h, w, 3)), normal(8, (b, h, w, 2)), 1)
  return features, Given(normal(9, (b, h, w, 3)), normal(10, (b, 2 * h, 2 * w, 3)))


def fitting(module: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape `[B, h, w, C]`, with sides enlarged to what the module takes."""
  b, h, w, c = shape
  return b, *(-(-side // module.multiple) * module.multiple for side in (h, w)), c


def moved_params(module: nn.Module, call: Call, z: Grid, gain: float = _GAIN) -> Any:
  """A part's parameters, off their initial values, by little: float64 can invert every map."""
  variables = module.init(jax.random.key(1), z, "forward_and_log_det", method=call)
  return _moved(variables.get("params", {}), gain)


def _moved(params: Any, gain: float, most: float = _OFF) -> Any:
  """Adds noise, to kernels and matrices the less the more numbers they sum."""

  def moved(seed: int, leaf: Array) -> Array:
    fan_in = math.prod(leaf.shape[-4:-1])
    return leaf + min(most, gain / math.sqrt(fan_in)) * normal(seed, leaf.shape)

  leaves, treedef = jax.tree.flatten(params)
  return treedef.unflatten([moved(seed, leaf) for seed, leaf in enumerate(leaves)])


def check_bijector(
  part: Part, name: str, shape: tuple[int, ...] = (2, 3, 2, 6), gain: float = _GAIN
) -> Iterator[Finding]:
  """Checks a layer or a prior on images of (about) a shape `[B, h, w, C]`.

  Args:
    part: the layer or prior.
    name: what findings call it.
    shape: sides are enlarged to what the part takes.
    gain: by how much the noise that is added to kernels enlarges what they sum.
  """
  module, call = bijector(part, shape[-1])
  z = normal(0, fitting(module, shape))
  params = moved_params(module, call, z, gain)

  def forward(params: Any, z: Grid) -> tuple[Grid, LogDet]:
    return module.apply({"params": params}, z, "forward_and_log_det", method=call)  # pyright: ignore

  def inverse(z: Grid) -> tuple[Grid, LogDet]:
    return module.apply({"params": params}, z, "inverse_and_log_det", method=call)  # pyright: ignore

  def loss(params: Any) -> Array:
    y, log_det = forward(params, z)
    return jnp.sum(jnp.sin(y)) + jnp.sum(log_det)

  @jax.jit
  def everything(params: Any, z: Grid) -> Any:
    y, log_det = forward(params, z)
    # Images of a batch do not mix: the Jacobian of the sum over the batch holds each one's own.
    jacobian = jax.jacobian(lambda z: forward(params, z)[0].sum(0))(z)
    jacobian = jnp.moveaxis(jacobian, 3, 0).reshape(len(z), z[0].size, z[0].size)
    back, inverse_log_det = inverse(y)
    return {
      "z → y → z": back - z,
      "y → z → y": forward(params, inverse(z)[0])[0] - z,
      "log-det less that of the Jacobian by autodiff": log_det - jnp.linalg.slogdet(jacobian)[1],
      "log-dets of both directions, summed": log_det + inverse_log_det,
    }, jax.grad(loss)(params)

  differences, gradients = everything(params, z)
  for what, difference in differences.items():
    yield Finding(name, what, _largest(difference))
  for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
    if not np.all(np.isfinite(gradient)) or not np.any(gradient):
      where = jax.tree_util.keystr(path, simple=True, separator="/")
      yield Finding(name, f"gradient of {where}, which is zero or not finite", math.nan)


def check_flow(model: SRFlow) -> Iterator[Finding]:
  """Checks a whole flow on an image of noise, of a few LR pixels."""
  # Actnorms see many pixels first: of few, some channels are constant, and enlarged without bounds.
  params = init_params(model, jax.random.key(0), *_noise_images(model, 16, 16))
  # By less than single parts: what many steps do in a row soon is too steep, even for float64.
  params = _moved(params, _GAIN_OF_FLOWS, _GAIN_OF_FLOWS)
  hr, given = _noise_images(model, 2, 3)

  @jax.jit
  def everything(params: Any, hr: Array, given: Given) -> Any:
    def call(*args: Any, method: str) -> Any:
      return model.apply({"params": params}, *args, method=method)

    context = call(given, method="condition")
    density = call(hr, context, method="density_parts")
    back, inverse_log_det = call(density.latents, context, method="inverse_and_log_det")
    log_det = sum(density.log_dets)
    return {
      "image → latents → image": back - hr,
      "log-dets of both directions, summed, relative": (log_det + inverse_log_det)
      / jnp.maximum(1, jnp.abs(log_det)),
    }

  for what, difference in everything(params, hr, given).items():
    yield Finding("the whole flow", what, _largest(difference), at_most=_LIMIT_OF_FLOWS)


def _noise_images(model: SRFlow, height: int, width: int) -> tuple[Array, Given]:
  """An HR image of noise of at least so many LR pixels, and what the model is told of it."""
  sides = (-(-side // model.lr_multiple) * model.lr_multiple for side in (height, width))
  shape = (1, *(side * model.scale for side in sides), 3)
  hr = jax.random.uniform(jax.random.key(0), shape, jnp.float64)
  # Of one target LR must be HR's own LR image.
  return hr, Given(bicubic_resize_on_device(hr, 1 / model.scale), normal(2, shape))


def check_model(model: SRFlow) -> Iterator[Finding]:
  """Checks each different map, layer and prior of a flow by itself, and then the whole."""
  for part in dict.fromkeys(parts_of(model)):
    name = " ".join([part.cls.place, part.kind, *_inner(part)])
    if issubclass(part.cls, Map):
      yield from check_map(part.cls(**dict(part.settings)), name)
    elif issubclass(part.cls, Layer | Prior):
      yield from check_bijector(part, name)
  yield from check_flow(model)


def _inner(part: Part) -> list[str]:
  """The kinds of the parts that are settings of a part, in brackets, if there are any."""
  kinds = [value.kind for _, value in part.settings if isinstance(value, Part | Place)]
  return [f"({', '.join(kinds)})"] if kinds else []


def _largest(difference: AnyArray) -> float:
  return float(np.max(np.abs(difference)))
