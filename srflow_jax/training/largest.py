"""Where a step went wrong: the largest value at every place that it computes.

Once one value is not finite nearly all that is computed from it is not either, gradients above all.
So the places are kept in the order in which a step passes them, and the first counts.
"""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from srflow_jax.model import Model

Array = jax.Array


@flax.struct.dataclass
class Largest:
  """The largest absolute values at places of a step, in the order in which it passes them.

  Attributes:
    values: `[N]`, not finite where one of the place's values is not.
    names: of the places.
  """

  values: Array
  names: tuple[str, ...] = flax.struct.field(pytree_node=False)


def _by_example(tree: Any) -> Array:
  """The largest absolute value in arrays `[B, ...]`: `[B]`, float32."""

  def largest(x: Array) -> Array:
    x = jnp.abs(jax.lax.stop_gradient(x)).astype(jnp.float32)
    # A maximum over several devices may lose what is not a number, but not an infinity.
    return jnp.max(jnp.where(jnp.isfinite(x), x, jnp.inf), axis=tuple(range(1, x.ndim)))

  return jnp.max(jnp.stack([largest(leaf) for leaf in jax.tree.leaves(tree)]), 0)


def loss_and_largest(model: Model, params: Any, hr: Array, lr: Array) -> tuple[Array, Largest]:
  """The model's loss `[B]`, and the largest values of the images, each layer's output and the loss.

  Args:
    model: the model.
    params: its parameters.
    hr: `[B, H, W, 3]`.
    lr: `[B, h, w, 3]`.
  """
  called = []  # a layer comes after those that it is made of
  nets = 0  # that are being computed, one within the other

  def note(method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    # Bijectors, also those made of others; of nets not their single layers, which are too many.
    nonlocal nets
    layer, is_net = context.module, context.method_name == "__call__"
    nets += is_net
    result = method(*args, **kwargs)
    nets -= is_net
    if (is_net and not nets) or (context.method_name == "forward_and_log_det" and layer.path):
      layer.sow("largest", "output", _by_example(result), jnp.maximum, lambda: 0.0)
      called.append((*layer.path, "output"))
    return result

  with nn.intercept_methods(note):
    loss, noted = model.apply({"params": params}, hr, lr, method="loss", mutable=["largest"])
  outputs = flax.traverse_util.flatten_dict(noted["largest"])
  places = {"the batch's hr": _by_example(hr), "the batch's lr": _by_example(lr)}
  places |= {f"the output of {'/'.join(path[:-1])}": outputs[path] for path in called}
  places["the loss"] = _by_example(loss)
  # One reduction over the examples of all places: with several devices, one exchange.
  return loss, Largest(jnp.max(jnp.stack(list(places.values())), 1), tuple(places))


def with_gradients(largest: Largest, gradients: Any) -> Largest:
  """Adds the norm of each parameter's gradient, in the order of the backward pass."""
  passed = {name.removeprefix("the output of "): i for i, name in enumerate(largest.names)}

  def place(name: str) -> int:
    while name and name not in passed:  # up to the innermost layer that was noted
      name = name.rpartition("/")[0]
    return passed.get(name, -1)

  norms = {
    jax.tree_util.keystr(path, simple=True, separator="/"): optax.tree.norm(gradient)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients)
  }
  names = sorted(norms, key=place, reverse=True)
  values = jnp.stack([norms[name].astype(jnp.float32) for name in names])
  return Largest(
    jnp.concatenate([largest.values, values]),
    (*largest.names, *(f"the gradient of {name}" for name in names)),
  )


def name_of_largest(metrics: dict[str, Any]) -> str:
  """Names the place where a step's first value that is not finite arose, else its largest value.

  Args:
    metrics: a step's, as `train_step` gives them, on the device or on the host.

  Returns:
    Such as "the output of flow/stages_0/steps_1/coupling/net".
  """
  largest = metrics["largest"]
  values = np.asarray(largest.values)
  bad = ~np.isfinite(values)
  return largest.names[int(np.argmax(bad if bad.any() else values))]
