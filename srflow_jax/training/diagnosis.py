"""Where a skipped step went wrong: the first place in it that holds a value that is not finite.

Once one value is not finite nearly all that is computed from it is not either, gradients above all.
So the places are kept in the order in which a step passes them, and the first counts. To note them
is more to compile than a step that is not skipped should need: this is a program of its own.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Set
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from srflow_jax.config import Config
from srflow_jax.model.features import Given
from srflow_jax.model.model import Model
from srflow_jax.training.optimizer import global_norm
from srflow_jax.training.step import split_images, to_training_images

Array = jax.Array
Params = dict[str, Any]
Path = tuple[str, ...]


@flax.struct.dataclass
class Places:
  """The places of a step, in the order in which it passes them.

  Attributes:
    not_finite: bool `[N]`, whether one of the place's values is not finite.
    names: of the places.
    repeated: the paths of layers that are several in a row (`srflow_jax.ops.repeated`).
  """

  not_finite: Array
  names: tuple[str, ...] = flax.struct.field(pytree_node=False)
  repeated: frozenset[Path] = flax.struct.field(pytree_node=False, default=frozenset())

  def first(self) -> str | None:
    """Names the first that is not finite, as "the output of flow/stages_0/steps/1/coupling/net"."""
    bad = np.asarray(self.not_finite)
    return self.names[int(np.argmax(bad))] if bad.any() else None


def _not_finite(tree: Any) -> Array:
  """Whether one of a tree's values is not finite."""
  return ~jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _loss_and_places(model: Model, params: Params, hr: Array, given: Given) -> tuple[Array, Places]:
  """The model's mean loss, and as places the images, each layer's output and the loss."""
  called = {}  # as an ordered set: a layer comes after those that it is made of
  nets = 0  # that are being computed, one within the other

  def note(method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    # Bijectors, also those made of others; of nets not their single layers, which are too many.
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
  outputs = flax.traverse_util.flatten_dict(noted["places"])
  places = {"the batch's hr": _not_finite(hr), "the batch's lr": _not_finite(given.lr)}
  found = {path: outputs[*path, "output"] for path in called}
  stacked = {path for path, value in found.items() if value.ndim}
  repeated = frozenset(_outermost(path, stacked) for path in stacked)
  places |= {f"the output of {name}": value for name, value in _numbered(found, repeated)}
  places["the loss"] = _not_finite(loss)
  return jnp.mean(loss), Places(jnp.stack(list(places.values())), tuple(places), repeated)


def _outermost(path: Path, layers: Set[Path]) -> Path | None:
  """The outermost of `layers` that a path leads to or through; None: through none of them."""
  return next((path[:i] for i in range(len(path) + 1) if path[:i] in layers), None)


def _numbered(found: dict[Path, Array], repeated: Set[Path]) -> Iterator[tuple[str, Array]]:
  """Names and values in order; of repeated layers all of the first, then all of the second..."""
  for layer, paths in itertools.groupby(found, lambda path: _outermost(path, repeated)):
    if layer is None:
      yield from (("/".join(path), found[path]) for path in paths)
      continue
    paths = list(paths)
    for i in range(len(found[paths[0]])):
      for path in paths:
        yield "/".join((*layer, str(i), *path[len(layer) :])), found[path][i]


def _with_gradients(places: Places, gradients: Params) -> Places:
  """Adds the norm of each parameter's gradient, in the order of the backward pass."""
  passed = {name.removeprefix("the output of "): i for i, name in enumerate(places.names)}

  def place(name: str) -> int:
    while name and name not in passed:  # up to the innermost layer that was noted
      name = name.rpartition("/")[0]
    return passed.get(name, -1)

  found = {}
  for path, gradient in flax.traverse_util.flatten_dict(gradients).items():
    norm = jax.vmap(global_norm) if _outermost(path, places.repeated) else global_norm
    found[path] = ~jnp.isfinite(norm(gradient))
  not_finite = dict(_numbered(found, places.repeated))
  names = sorted(not_finite, key=place, reverse=True)
  return Places(
    jnp.array([*places.not_finite, *(not_finite[name] for name in names)]),
    (*places.names, *(f"the gradient of {name}" for name in names)),
    places.repeated,
  )


def make_diagnosis(model: Model, config: Config, parts: tuple[str, ...]) -> Callable[..., Places]:
  """`diagnosis(params, key, batch, step) -> Places`, compiled when it is first called.

  It computes loss and gradients as `train_step` does, in as many splits, from the parameters, the
  run's key, the step's batch, and the steps done before it. While step after step is skipped the
  parameters are those of each. Once one was applied they are newer than those of the step before
  that was not: then nothing may be found.

  Args:
    model: the model.
    config: the whole configuration.
    parts: the parts of the parameters that the step trains.
  """

  def diagnosis(params: Params, key: Array, batch: dict[str, Array], step: Array) -> Places:
    key = jax.random.fold_in(key, step)
    images = to_training_images(batch, config.data.noise, key)

    def of_split(images: tuple[Array, Given]) -> Places:
      def loss(trained: Params) -> tuple[Array, Places]:
        return _loss_and_places(model, params | trained, *images)

      trained = {part: params[part] for part in parts}
      gradients, places = jax.grad(loss, has_aux=True)(trained)
      return _with_gradients(places, gradients)

    places = jax.lax.map(of_split, split_images(images, config.optim.accumulation_steps))
    return jax.tree.map(functools.partial(jnp.any, axis=0), places)

  return jax.jit(diagnosis)
