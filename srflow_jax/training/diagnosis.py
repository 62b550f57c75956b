"""Where a skipped step went wrong: the first place in it that holds a value that is not finite.

Once one value is not finite, nearly everything computed from it is not finite either, above all
the gradients. So the places are kept in the order in which a step passes them, and the first one
counts. To note them takes more compilation than a step that is not skipped should have to wait for,
so this is a program of its own.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from srflow_jax.config import Config, read_config
from srflow_jax.model.features import Given
from srflow_jax.model.model import Model
from srflow_jax.training.optimizer import global_norm, held
from srflow_jax.training.step import split_images, to_training_images

Array = jax.Array
Params = dict[str, Any]
Path = tuple[str, ...]


@struct.dataclass
class FiniteChecks:
  """Whether the values at each place of a step are finite, in the order in which it passes them.

  Attributes:
    not_finite: bool `[N]`, whether a place has a value that is not finite.
    names: what the places are called.
    repeated: the paths of layers that stand in a row as one scan (`srflow_jax.ops.repeated`).
  """

  not_finite: Array
  names: tuple[str, ...] = struct.field(pytree_node=False)
  repeated: frozenset[Path] = struct.field(pytree_node=False, default=frozenset())

  def first(self) -> str | None:
    """Names the first that is not finite, as "the output of flow/stages_0/steps/1/coupling"."""
    bad = np.asarray(self.not_finite)
    return self.names[int(np.argmax(bad))] if bad.any() else None


def _not_finite(tree: Any) -> Array:
  """Whether a tree has a value that is not finite."""
  return ~jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _loss_and_checks(
  model: Model, params: Params, hr: Array, given: Given
) -> tuple[Array, FiniteChecks]:
  """The model's mean loss; and the checks of the images, of each layer's output and of the loss."""
  called = {}  # used as an ordered set, in which a layer comes after those that it is made of
  nets = 0  # how many nets are being computed, one within the other

  def note(method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    # Every bijector is noted, those made of others too, and every net, but not the layers within a
    # net, which are too many.
    nonlocal nets
    layer, is_net = context.module, context.method_name == "__call__"
    nets += is_net
    result = method(*args, **kwargs)
    nets -= is_net
    if (is_net and not nets) or (context.method_name == "forward_and_log_det" and layer.path):
      layer.sow("places", "output", _not_finite(result), jnp.logical_or, lambda: False)
      called[layer.path] = True
    return result

  with nn.intercept_methods(note):
    loss, noted = model.apply({"params": params}, hr, given, method="loss", mutable=["places"])
  outputs: dict[Path, Any] = flax.traverse_util.flatten_dict(noted["places"])
  places = {"the batch's hr": _not_finite(hr), "the batch's lr": _not_finite(given.lr)}
  by_layer = {path: outputs[*path, "output"] for path in called}
  stacked = {path for path, value in by_layer.items() if value.ndim}
  outermost = (_outermost(path, stacked) for path in stacked)
  repeated = frozenset(path for path in outermost if path is not None)
  places |= {f"the output of {name}": value for name, value in _numbered(by_layer, repeated)}
  places["the loss"] = _not_finite(loss)
  return jnp.mean(loss), FiniteChecks(jnp.stack(list(places.values())), tuple(places), repeated)


def _outermost(path: Path, layers: Set[Path]) -> Path | None:
  """The outermost of `layers` that a path leads to or through, or None if there is none."""
  return next((path[:i] for i in range(len(path) + 1) if path[:i] in layers), None)


def _numbered(values: dict[Path, Array], repeated: Set[Path]) -> Iterator[tuple[str, Array]]:
  """Names and values in order; of layers in a row, all of the first, then all of the second..."""
  for layer, paths in itertools.groupby(values, lambda path: _outermost(path, repeated)):
    if layer is None:
      yield from (("/".join(path), values[path]) for path in paths)
      continue
    paths = list(paths)
    for i in range(len(values[paths[0]])):
      for path in paths:
        yield "/".join((*layer, str(i), *path[len(layer) :])), values[path][i]


def _with_gradients(places: FiniteChecks, gradients: Params) -> FiniteChecks:
  """Adds a check of the norm of each parameter's gradient, in the order of the backward pass."""
  passed = {name.removeprefix("the output of "): i for i, name in enumerate(places.names)}

  def place(name: str) -> int:
    while name and name not in passed:  # goes up to the innermost layer that was noted
      name = name.rpartition("/")[0]
    return passed.get(name, -1)

  by_parameter = {}
  for path, gradient in flax.traverse_util.flatten_dict(gradients).items():
    norm = jax.vmap(global_norm) if _outermost(path, places.repeated) else global_norm
    by_parameter[path] = ~jnp.isfinite(norm(gradient))
  not_finite = dict(_numbered(by_parameter, places.repeated))
  names = sorted(not_finite, key=place, reverse=True)
  return FiniteChecks(
    jnp.array([*places.not_finite, *(not_finite[name] for name in names)]),
    (*places.names, *(f"the gradient of {name}" for name in names)),
    places.repeated,
  )


def make_diagnosis(
  model: Model, config: Config | Mapping[str, Any], parts: tuple[str, ...]
) -> Callable[..., FiniteChecks]:
  """`diagnosis(params, key, batch, step) -> FiniteChecks`, compiled when it is first called.

  It computes loss and gradients as `train_step` does, in as many splits, from the parameters, the
  run's key, the step's batch, and the number of steps done before it. While one step after another
  is skipped, the parameters are still those that each of them had. Once a step was applied they are
  newer than those of the step that was skipped before it, and then everything may be finite.

  Args:
    model: the model.
    config: the whole configuration.
    parts: the parts of the parameters that the step trains.
  """
  config = read_config(config)

  def diagnosis(params: Params, key: Array, batch: dict[str, Array], step: Array) -> FiniteChecks:
    key = jax.random.fold_in(key, step)
    images = to_training_images(batch, config.data.noise, key)

    def of_split(images: tuple[Array, Given]) -> FiniteChecks:
      def loss(trained: Params) -> tuple[Array, FiniteChecks]:
        return _loss_and_checks(model, params | held(config.optim, trained), *images)

      trained = {part: params[part] for part in parts}
      gradients, places = jax.grad(loss, has_aux=True)(trained)
      return _with_gradients(places, gradients)

    places = jax.lax.map(of_split, split_images(images, config.optim.accumulation_steps))
    return jax.tree.map(functools.partial(jnp.any, axis=0), places)

  return jax.jit(diagnosis)
