"""The training step: loss, gradients, optimisation, and the refusal of what is not finite."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from srflow_jax.compiling import compiler_options
from srflow_jax.config import Config, Optim, read_config
from srflow_jax.model.features import Given
from srflow_jax.model.model import Model
from srflow_jax.model.noises import Noise
from srflow_jax.training import optimizer

Array = jax.Array
Params = dict[str, Any]


@struct.dataclass
class TrainState:
  """All that training changes.

  Attributes:
    step: steps done, skipped ones included.
    key: the run's PRNG key. A step's own is this one with the step's number folded in.
    params: the model's parameters, by part: "encoder" and, if there is one, "flow".
    ema: the average of them that evaluation uses, likewise; {} if `optim.ema_decay` is 0 and the
      optimiser has no average of its own.
    opt_state: each part's optimiser state. A frozen part's stays as it is, so that its optimiser
      starts when it thaws.
    rate_factor: multiplies every learning rate; 1 at first.
    skipped: steps that were not applied, since loss, gradient or the parameters after them were not
      finite.
    skipped_in_a_row: those among them since the last applied one.
  """

  step: Array
  key: Array
  params: Params
  ema: Params
  opt_state: dict[str, Any]
  rate_factor: Array
  skipped: Array
  skipped_in_a_row: Array


def create_state(optim: Optim, params: Params, key: Array) -> TrainState:
  """The state of a run that starts from `params` with the PRNG key `key`."""
  # A donated buffer may appear only once: hence a copy, and three zeros.
  step, skipped, skipped_in_a_row = (jnp.zeros((), jnp.int32) for _ in range(3))
  has_average = optim.ema_decay or optimizer.averages(optim)
  return TrainState(
    step=step,
    key=key,
    params=params,
    ema=jax.tree.map(jnp.copy, params) if has_average else {},
    opt_state=optimizer.init(optim, params),
    rate_factor=jnp.ones((), jnp.float32),
    skipped=skipped,
    skipped_in_a_row=skipped_in_a_row,
  )


def to_images(batch: dict[str, Array]) -> tuple[Array, Given]:
  """Turns uint8 images into what a model takes, float32 in [0, 1]; adds no noise.

  Args:
    batch: {"hr": uint8 `[B, H, W, 3]`, "lr": uint8 `[B, h, w, 3]`}.

  Returns:
    HR images, and what the model is told of them.
  """
  hr, lr = (batch[name].astype(jnp.float32) / 255 for name in ("hr", "lr"))
  return hr, Given(lr)


def to_training_images(batch: dict[str, Array], noise: Noise, key: Array) -> tuple[Array, Given]:
  """As `to_images`, with the noise of training; `key` is the noise's."""
  hr, given = to_images(batch)
  return noise.add(key, hr, given.lr)


def split_images(images: Any, splits: int) -> Any:
  """Splits each array `[B, ...]` of a tree along its first axis: `[splits, B / splits, ...]`."""
  # A split is every n-th example, not a run of them, so each device has its share of it already.
  return jax.tree.map(lambda x: x.reshape(-1, splits, *x.shape[1:]).swapaxes(0, 1), images)


def _loss_and_gradients(
  model: Model, params: Params, parts: tuple[str, ...], images: tuple[Array, Given], optim: Optim
) -> tuple[Array, Params]:
  """The mean loss over a batch and its gradients for `parts`, zero for what is not trained.

  The batch is worked off in `optim.accumulation_steps` splits, one after the other, which takes the
  memory of one.
  """
  splits = optim.accumulation_steps

  def mean_loss(trained: Params, images: tuple[Array, Given]) -> Array:
    losses: Any = model.apply(
      {"params": params | optimizer.held(optim, trained)}, *images, method="loss"
    )
    return jnp.mean(losses)

  trained = {part: params[part] for part in parts}
  value_and_grad = jax.value_and_grad(mean_loss)
  if splits == 1:
    return value_and_grad(trained, images)

  def add(total: Params, images: tuple[Array, Given]) -> tuple[Params, Array]:
    loss, gradients = value_and_grad(trained, images)
    return jax.tree.map(jnp.add, total, gradients), loss

  # A scan bounds the memory: in straight-line code XLA computes the splits side by side.
  total, losses = jax.lax.scan(
    add, jax.tree.map(jnp.zeros_like, trained), split_images(images, splits)
  )
  return jnp.mean(losses), jax.tree.map(lambda leaf: leaf / splits, total)


def train_step(
  state: TrainState,
  batch: dict[str, Array],
  *,
  model: Model,
  config: Config,
  parts: tuple[str, ...],
) -> tuple[TrainState, dict[str, Any]]:
  """One step of optimisation on the mean of the model's loss over a batch.

  Args:
    state: the state before.
    batch: uint8 images, {"hr": `[B, H, W, 3]`, "lr": `[B, h, w, 3]`}.
    model: the model.
    config: the whole configuration.
    parts: the parts of the parameters to train; no gradient is computed for the others.

  Returns:
    The state after, and scalars: the loss under `model.loss_name`, gradient_norm (before it is
    clipped), learning_rate (the flow's), skipped, skipped_in_a_row.
  """
  optim = config.optim
  key = jax.random.fold_in(state.key, state.step)
  images = to_training_images(batch, config.data.noise, key)
  loss, gradients = _loss_and_gradients(model, state.params, parts, images, optim)
  gradient_norm = optimizer.global_norm(gradients)
  schedule = optimizer.learning_rate_schedule(optim, config.num_train_steps)
  learning_rate = state.rate_factor * schedule(state.step)

  old = {
    name: {part: tree[part] for part in parts if part in tree}
    for name, tree in (("params", state.params), ("opt_state", state.opt_state), ("ema", state.ema))
  }
  new = {}
  new["params"], new["opt_state"] = optimizer.update(
    optim, learning_rate, gradients, old["opt_state"], old["params"]
  )
  applied = state.step - state.skipped
  new["ema"] = (
    optimizer.average(optim, old["ema"], new["params"], new["opt_state"], applied)
    if state.ema
    else {}
  )
  # The parameters as well: finite gradients do not make every optimiser's update finite.
  judged = jnp.stack([loss, gradient_norm, optimizer.global_norm(new["params"])])
  finite = jnp.isfinite(judged).all()
  kept = jax.tree.map(functools.partial(jnp.where, finite), new, old)
  # Weight decay, of whatever optimiser, would change what has no gradient.
  for name in ("params", "ema"):
    trained = optimizer.is_trained(optim, kept[name])
    kept[name] = jax.tree.map(lambda t, n, o: n if t else o, trained, kept[name], old[name])
  state = dataclasses.replace(
    state,
    step=state.step + 1,
    skipped=state.skipped + ~finite,
    skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    **{name: getattr(state, name) | tree for name, tree in kept.items()},
  )
  metrics = {
    model.loss_name: loss,
    "gradient_norm": gradient_norm,
    "learning_rate": learning_rate,
    "skipped": state.skipped,
    "skipped_in_a_row": state.skipped_in_a_row,
  }
  return state, metrics


def make_train_step(
  model: Model, config: Config | Mapping[str, Any], parts: tuple[str, ...]
) -> Callable[..., Any]:
  """`train_step(state, batch)`, compiled; it consumes the state that it is given."""
  step = functools.partial(train_step, model=model, config=read_config(config), parts=parts)
  return jax.jit(step, donate_argnums=0, compiler_options=compiler_options())
