"""What can be evaluated: anything that turns an LR image into one or more SR images."""

import functools
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from srflow_jax.model import Context, Model, SRFlow, SuperResolver, count_parameters
from srflow_jax.resize import bicubic_resize


class System(Protocol):
  """A super-resolution method.

  Attributes:
    name: Its name in tables and paths.
    scale: By how much it enlarges.
    num_params: Parameters as the published tables count them, or None.
    stochastic: Whether samples of an image differ; if not, one is drawn.
  """

  name: str
  scale: int
  num_params: int | None
  stochastic: bool

  def compile(self, lr_size: tuple[int, int]) -> None:
    """Does once for a size of LR what should not be counted as time for an image."""

  def prepare(self, lr: np.ndarray) -> Any:
    """Computes what all samples of an LR image, uint8 `[h, w, 3]`, share."""

  def draw(self, prepared: Any, seed: int, index: int, temperature: float) -> np.ndarray:
    """Draws sample `index` of a seed: `[H, W, 3]`, uint8 or floats nominally in [0, 1]."""

  def log_prob(self, prepared: Any, hr: np.ndarray) -> tuple[float, int] | None:
    """Log-density, in nats, of float32 `[H, W, 3]` in [0, 1], and the number of pixels it is of.

    These are more than H W where the system pads the image. None without a density.
    """


class Bicubic:
  """MATLAB's bicubic enlargement of the 8-bit LR image."""

  name = "bicubic"
  num_params = None
  stochastic = False

  def __init__(self, scale: int) -> None:
    """See the class."""
    self.scale = scale

  def compile(self, lr_size: tuple[int, int]) -> None:
    """Nothing to do."""

  def prepare(self, lr: np.ndarray) -> np.ndarray:
    """Returns LR itself."""
    return lr

  def draw(self, prepared: np.ndarray, seed: int, index: int, temperature: float) -> np.ndarray:
    """Returns the enlarged image, uint8."""
    return bicubic_resize(prepared, self.scale)

  def log_prob(self, prepared: np.ndarray, hr: np.ndarray) -> None:
    """Returns None: there is no density."""


class Deterministic:
  """A network that gives one image; time is all counted as the sample's."""

  stochastic = False

  def __init__(self, name: str, model: SuperResolver, params: Any) -> None:
    """Takes a model.

    Args:
      name: What tables call it.
      model: The model.
      params: Its parameters, all of which are counted.
    """
    self.name = name
    self.scale = model.scale
    self.num_params = count_parameters(params)
    self._variables = {"params": params}
    self._model = model
    self._compiled = functools.cache(self._compile)

  def compile(self, lr_size: tuple[int, int]) -> None:
    """Compiles the network."""
    self._compiled(tuple(lr_size))

  def prepare(self, lr: np.ndarray) -> np.ndarray:
    """Returns LR as floats."""
    return (lr[None] / 255).astype(np.float32)

  def draw(self, prepared: np.ndarray, seed: int, index: int, temperature: float) -> np.ndarray:
    """Returns the enlarged image, float32."""
    super_resolve = self._compiled(prepared.shape[1:3])
    return np.asarray(super_resolve(self._variables, prepared)[0])

  def log_prob(self, prepared: np.ndarray, hr: np.ndarray) -> None:
    """Returns None: there is no density."""

  def _compile(self, lr_size: tuple[int, int]) -> jax.stages.Compiled:
    super_resolve = jax.jit(functools.partial(self._model.apply, method="super_resolve"))
    lr = jax.ShapeDtypeStruct((1, *lr_size, 3), jnp.float32)
    return super_resolve.lower(self._variables, lr).compile()


class Flow:
  """A conditional flow with its variables; the context is computed once an image."""

  stochastic = True

  def __init__(self, name: str, model: SRFlow, params: Any) -> None:
    """Takes a model.

    Args:
      name: What tables call it.
      model: The model.
      params: Its parameters; as in the published tables, the encoder's are not counted.
    """
    self.name = name
    self.scale = model.scale
    self.num_params = count_parameters(params["flow"])
    self._variables = {"params": params}
    self._model = model
    self._compiled = functools.cache(self._compile)
    self._log_prob = jax.jit(functools.partial(model.apply, method="log_prob_from_context"))

  def compile(self, lr_size: tuple[int, int]) -> None:
    """Compiles the encoder and the drawing of one sample."""
    self._compiled(tuple(lr_size))

  def prepare(self, lr: np.ndarray) -> Context:
    """Returns the context, on the device."""
    condition, _ = self._compiled(lr.shape[:2])
    context = condition(self._variables, (lr[None] / 255).astype(np.float32))
    return jax.block_until_ready(context)

  def draw(self, prepared: Context, seed: int, index: int, temperature: float) -> np.ndarray:
    """Draws sample `index` of the key of the seed; float32."""
    _, draw = self._compiled(tuple(size // self.scale for size in prepared.hr_size))
    key = jax.random.key(seed)
    return np.asarray(
      draw(self._variables, key, prepared, np.float32(temperature), np.int32(index))
    )

  def log_prob(self, prepared: Context, hr: np.ndarray) -> tuple[float, int]:
    """Returns the log-density of the image as the model pads it."""
    log_prob = self._log_prob(self._variables, hr[None], prepared)
    return float(log_prob[0]), math.prod(prepared.padded_size)

  def _compile(self, lr_size: tuple[int, int]) -> tuple[jax.stages.Compiled, jax.stages.Compiled]:
    condition = jax.jit(functools.partial(self._model.apply, method="condition"))

    def draw(
      variables: Any, key: jax.Array, context: Context, temperature: jax.Array, index: jax.Array
    ) -> jax.Array:
      arguments = key, context, temperature, 1, index
      return self._model.apply(variables, *arguments, method="sample_from_context")[0, 0]

    lr = jax.ShapeDtypeStruct((1, *lr_size, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    context = jax.eval_shape(condition, self._variables, lr)
    scalars = [jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.float32, jnp.int32)]
    return (
      condition.lower(self._variables, lr).compile(),
      jax.jit(draw).lower(self._variables, key, context, *scalars).compile(),
    )


def trained_system(name: str, model: Model, params: Any) -> System:
  """The system that a trained model is."""
  return (Deterministic if isinstance(model, SuperResolver) else Flow)(name, model, params)
