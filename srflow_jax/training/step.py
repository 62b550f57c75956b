"""The training step: loss, gradients, Adam, and the refusal of what is not finite."""

import functools
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from srflow_jax.model import Model

Array = jax.Array
Params = dict[str, Any]


@flax.struct.dataclass
class TrainState:
  """All that training changes.

  Attributes:
    step: steps done, skipped ones included.
    params: the model's parameters, by part: "encoder" and, if there is one, "flow".
    opt_state: each part's optimiser state. A frozen part's stays as it is, so that its Adam starts
      when it thaws.
    skipped: steps that were not applied, since loss or gradient was not finite.
    skipped_in_a_row: those among them since the last applied one.
  """

  step: Array
  params: Params
  opt_state: dict[str, Any]
  skipped: Array
  skipped_in_a_row: Array


def learning_rate_schedule(optim: Any, num_train_steps: int) -> optax.Schedule:
  """The learning rate as a function of the step.

  Multiplied by `decay_factor` at each fraction `decay_at` of training, and within each of
  `cosine_cycles` equal parts (0: none) falling from there to zero as half a cosine (Loshchilov and
  Hutter 2017).
  """
  boundaries = {round(at * num_train_steps): optim.decay_factor for at in optim.decay_at}
  stepped = optax.piecewise_constant_schedule(optim.learning_rate, boundaries)
  if not optim.cosine_cycles:
    return stepped

  def schedule(step: Array) -> Array:
    in_cycle = (step * optim.cosine_cycles / num_train_steps) % 1
    return stepped(step) * 0.5 * (1 + jnp.cos(jnp.pi * in_cycle))

  return schedule


def _adam(optim: Any) -> optax.GradientTransformation:
  return optax.scale_by_adam(optim.b1, optim.b2, optim.eps)


def create_state(optim: Any, params: Params) -> TrainState:
  """The state of a run that starts from `params`."""
  opt_state = {part: _adam(optim).init(tree) for part, tree in params.items()}
  # Three arrays, not one three times: a donated buffer may appear only once.
  step, skipped, skipped_in_a_row = (jnp.zeros((), jnp.int32) for _ in range(3))
  return TrainState(step, params, opt_state, skipped, skipped_in_a_row)


def to_training_images(
  batch: dict[str, Array], noise_std: float, key: Array
) -> tuple[Array, Array]:
  """Turns uint8 images into float32 in [0, 1]; HR gets Gaussian noise.

  Args:
    batch: {"hr": uint8 `[B, H, W, 3]`, "lr": uint8 `[B, h, w, 3]`}.
    noise_std: in grey levels of 255.
    key: of the noise.
  """
  hr, lr = (batch[name].astype(jnp.float32) / 255 for name in ("hr", "lr"))
  if noise_std:
    hr += noise_std / 255 * jax.random.normal(key, (hr.size,)).reshape(hr.shape)
  return hr, lr


def train_step(
  state: TrainState,
  batch: dict[str, Array],
  *,
  model: Model,
  config: Any,
  parts: tuple[str, ...],
) -> tuple[TrainState, dict[str, Array]]:
  """One step of Adam on the mean of the model's loss over a batch.

  Args:
    state: the state before.
    batch: uint8 images, {"hr": `[B, H, W, 3]`, "lr": `[B, h, w, 3]`}.
    model: the model.
    config: the whole configuration.
    parts: the parts of the parameters to train; no gradient is computed for the others.

  Returns:
    The state after, and scalars: the loss under `model.loss_name`, gradient_norm, learning_rate,
    skipped, skipped_in_a_row.
  """
  key = jax.random.fold_in(jax.random.key(config.seed), state.step)
  hr, lr = to_training_images(batch, config.data.noise_std, key)

  def mean_loss(trained: Params) -> Array:
    return jnp.mean(model.apply({"params": state.params | trained}, hr, lr, method="loss"))

  trained = {part: state.params[part] for part in parts}
  loss, grads = jax.value_and_grad(mean_loss)(trained)
  gradient_norm = optax.tree.norm(grads)
  learning_rate = learning_rate_schedule(config.optim, config.num_train_steps)(state.step)

  new_params, new_opt_state = {}, {}
  for part in parts:
    updates, new_opt_state[part] = _adam(config.optim).update(grads[part], state.opt_state[part])
    updates = jax.tree.map(lambda u: -learning_rate * u, updates)
    new_params[part] = optax.apply_updates(trained[part], updates)

  finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
  old = (trained, {part: state.opt_state[part] for part in parts})
  params, opt_state = jax.tree.map(
    functools.partial(jnp.where, finite), (new_params, new_opt_state), old
  )
  state = state.replace(
    step=state.step + 1,
    params=state.params | params,
    opt_state=state.opt_state | opt_state,
    skipped=state.skipped + ~finite,
    skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
  )
  metrics = {
    model.loss_name: loss,
    "gradient_norm": gradient_norm,
    "learning_rate": learning_rate,
    "skipped": state.skipped,
    "skipped_in_a_row": state.skipped_in_a_row,
  }
  return state, metrics


def make_train_step(model: Model, config: Any, parts: tuple[str, ...]) -> Callable[..., Any]:
  """`train_step(state, batch)`, compiled; it consumes the state that it is given."""
  step = functools.partial(train_step, model=model, config=config, parts=parts)
  return jax.jit(step, donate_argnums=0)
