"""The optimisation of a configuration's `optim` block: rates, Adam, decay, moving average."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from srflow_jax.errors import InputError

Array = jax.Array
Params = dict[str, Any]


def check(optim: Any, batch_size: int, num_devices: int) -> None:
  """Refuses what cannot be meant.

  Args:
    optim: the configuration's `optim` block.
    batch_size: patches a step, over all devices.
    num_devices: of all processes.

  Raises:
    InputError: a value is out of range, or the batch cannot be divided.
  """
  for field in ("warmup_steps", "clip_norm", "weight_decay"):
    if optim[field] < 0:
      raise InputError(f"config.optim.{field} is {optim[field]}: it must be at least 0")
  if not 0 <= optim.ema_decay < 1:
    raise InputError(f"config.optim.ema_decay is {optim.ema_decay}: it must be in [0, 1)")
  if optim.encoder_rate_factor <= 0:
    raise InputError(
      f"config.optim.encoder_rate_factor is {optim.encoder_rate_factor}: it must be above 0; "
      "encoder_frozen_fraction = 1 keeps the encoder as it is"
    )
  if optim.accumulation_steps < 1:
    raise InputError(
      f"config.optim.accumulation_steps is {optim.accumulation_steps}: it must be at least 1"
    )
  if batch_size < 1 or batch_size % (num_devices * optim.accumulation_steps):
    raise InputError(
      f"config.data.batch_size is {batch_size}: it must be a multiple of the number of devices, "
      f"{num_devices}, times config.optim.accumulation_steps, {optim.accumulation_steps}"
    )


def learning_rate_schedule(optim: Any, num_train_steps: int) -> optax.Schedule:
  """The learning rate as a function of the step.

  Multiplied by `decay_factor` at each fraction `decay_at` of training, within each of
  `cosine_cycles` equal parts (0: none) falling from there to zero as half a cosine (Loshchilov and
  Hutter 2017), and in the first `warmup_steps` rising to all that in equal steps.
  """
  boundaries = {round(at * num_train_steps): optim.decay_factor for at in optim.decay_at}
  stepped = optax.piecewise_constant_schedule(optim.learning_rate, boundaries)

  def schedule(step: Array) -> Array:
    rate = stepped(step)
    if optim.cosine_cycles:
      in_cycle = (step * optim.cosine_cycles / num_train_steps) % 1
      rate *= 0.5 * (1 + jnp.cos(jnp.pi * in_cycle))
    if optim.warmup_steps:
      rate *= jnp.minimum(1.0, (step + 1) / optim.warmup_steps)  # the first step moves, too
    return rate

  return schedule


def transformation(optim: Any) -> optax.GradientTransformation:
  """What makes updates of gradients, before the learning rate: Adam, decoupled weight decay."""
  transforms = [optax.scale_by_adam(optim.b1, optim.b2, optim.eps)]
  if optim.weight_decay:
    transforms.append(optax.add_decayed_weights(optim.weight_decay, mask=decays))
  return optax.chain(*transforms)


def decays(params: Params) -> Params:
  """Which parameters weight decay acts on: the kernels of convolutions, and nothing else.

  Not biases, actnorms and the zero convolutions' scales. Not the flow's 1x1 matrices either: they
  begin as rotations, and decay would pull their determinants to zero, against the likelihood.
  """
  # A kernel is [k, k, C, O], a 1x1 matrix [C, C], with one axis more for layers in a row.
  return jax.tree.map(lambda leaf: leaf.ndim >= 4, params)


def init(optim: Any, params: Params) -> dict[str, Any]:
  """The optimiser's state for each part of the parameters."""
  return {part: transformation(optim).init(tree) for part, tree in params.items()}


def global_norm(gradients: Any) -> Array:
  """The Euclidean norm over all of a tree's arrays."""
  # Sums of squares would be a kernel to compile for each parameter; dot products need not be.
  squares = [jnp.vdot(leaf, leaf, precision="highest") for leaf in jax.tree.leaves(gradients)]
  return jnp.sqrt(sum(squares))


def apply(
  optim: Any,
  learning_rate: Array,
  gradients: Params,
  norm: Array,
  opt_state: Params,
  params: Params,
) -> tuple[Params, Params]:
  """Moves parameters against their gradients.

  Args:
    optim: the configuration's `optim` block.
    learning_rate: of this step; the encoder's is `encoder_rate_factor` times it.
    gradients: by part.
    norm: over all of them; `clip_norm` limits it.
    opt_state: of the same parts.
    params: of the same parts.

  Returns:
    Parameters and optimiser states after.
  """
  if optim.clip_norm:
    factor = jnp.minimum(1.0, optim.clip_norm / norm)
    gradients = jax.tree.map(lambda leaf: factor * leaf, gradients)
  new_params, new_opt_state = {}, {}
  for part, tree in params.items():
    updates, new_opt_state[part] = transformation(optim).update(
      gradients[part], opt_state[part], tree
    )
    rate = learning_rate * (optim.encoder_rate_factor if part == "encoder" else 1.0)
    updates = jax.tree.map(lambda update, rate=rate: -rate * update, updates)
    new_params[part] = optax.apply_updates(tree, updates)
  return new_params, new_opt_state


def moving_average(optim: Any, ema: Params, params: Params, applied: Array) -> Params:
  """The exponential moving average of parameters after `applied` steps and one more.

  Its decay rises to `ema_decay` as (1 + applied) / (10 + applied), as in TensorFlow's moving
  averages, so that what the first steps left behind is soon forgotten.
  """
  decay = jnp.minimum(optim.ema_decay, (1 + applied) / (10 + applied))
  return optax.incremental_update(params, ema, 1 - decay)
