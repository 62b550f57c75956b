"""The optimisation of a configuration's `optim` block: rates, optimiser, decay, moving average."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from srflow_jax.config import Optim
from srflow_jax.errors import InputError, one_line

Array = jax.Array
Params = dict[str, Any]

_WHERE = "config.optim.optimizer"
# Arguments of Optax's optimisers that this file gives. A rate of Adam's own beside Muon's would
# follow no schedule: "consistent_rms" makes one rate serve both.
_GIVEN = ("learning_rate", "adam_learning_rate", "muon_weight_dimension_numbers")


def check(optim: Optim, batch_size: int, num_devices: int) -> None:
  """Refuses values that only together, or with the devices, cannot be used.

  Args:
    optim: the configuration's `optim` block.
    batch_size: patches a step, over all devices.
    num_devices: of all processes.

  Raises:
    InputError: the optimiser cannot be made, or the batch cannot be divided.
  """
  _check_optimizer(optim)
  if batch_size % (num_devices * optim.accumulation_steps):
    raise InputError(
      f"config.data.batch_size is {batch_size}: it must be a multiple of the number of devices, "
      f"{num_devices}, times config.optim.accumulation_steps, {optim.accumulation_steps}"
    )


def _named(kind: str) -> Any:
  """What Optax, or its `contrib`, has under a name; None if there is nothing."""
  return getattr(optax, kind, None) or getattr(optax.contrib, kind, None)


def _check_optimizer(optim: Optim) -> None:
  """Makes the optimiser and takes a step of it, in shapes alone."""
  kind = optim.optimizer["kind"]
  make = _named(kind)
  takes = list(inspect.signature(make).parameters) if inspect.isfunction(make) else []
  if "learning_rate" not in takes:
    raise InputError(f"{_WHERE}.kind is {kind!r}: Optax has no optimiser of that name")
  takes = [name for name in takes if name not in _GIVEN]
  if averages(optim) and optim.ema_decay:
    raise InputError(
      f"config.optim.ema_decay is {optim.ema_decay}: {kind} has an average of its own, so it must "
      "be 0"
    )
  for name, value in optim.optimizer.items():
    if name != "kind" and name not in takes:
      raise InputError(f"unknown key {_WHERE}.{name}: optax.{kind} takes {', '.join(takes)}")
    if isinstance(value, float) and not np.isfinite(value):
      raise InputError(f"{_WHERE}.{name} is {value}: it must be finite")
  one = {"flow": {"kernel": jax.ShapeDtypeStruct((3, 3, 2, 2), jnp.float32)}}
  rate = jax.ShapeDtypeStruct((), jnp.float32)

  def step(params: Params, rate: Array) -> Any:
    return update(optim, rate, params, init(optim, params), params)

  try:
    jax.eval_shape(step, one, rate)
  except Exception as error:  # whatever Optax makes of arguments that it does not expect
    said = one_line(error)
    raise InputError(f"{_WHERE}: optax.{kind} cannot be used so: {said}") from error


def learning_rate_schedule(optim: Optim, num_train_steps: int) -> optax.Schedule:
  """The learning rate as a function of the step.

  Multiplied by `decay_factor` at each fraction `decay_at` of training, within each of
  `cosine_cycles` equal parts (0: none) falling from there to zero as half a cosine (Loshchilov and
  Hutter 2017), and in the first `warmup_steps` rising to all that in equal steps.
  """
  boundaries = {}
  for at in optim.decay_at:  # in short runs several may fall on one step
    step = round(at * num_train_steps)
    boundaries[step] = boundaries.get(step, 1.0) * optim.decay_factor
  stepped = optax.piecewise_constant_schedule(optim.learning_rate, boundaries)

  def schedule(step: Any) -> Any:
    rate = stepped(step)
    if optim.cosine_cycles:
      in_cycle = (step * optim.cosine_cycles / num_train_steps) % 1
      rate *= 0.5 * (1 + jnp.cos(jnp.pi * in_cycle))
    if optim.warmup_steps:
      rate *= jnp.minimum(1.0, (step + 1) / optim.warmup_steps)  # the first step moves, too
    return rate

  return schedule


def transformation(optim: Optim, learning_rate: Array | float) -> optax.GradientTransformation:
  """Optax's optimiser, for one part of the parameters.

  It is made anew in every step, since the rate is one of the step's numbers; what it keeps between
  steps does not depend on it.

  Args:
    optim: the configuration's `optim` block.
    learning_rate: of this step.
  """
  arguments = dict(optim.optimizer)
  kind = arguments.pop("kind")
  if kind == "adam":
    arguments = {"b1": optim.b1, "b2": optim.b2, "eps": optim.eps} | arguments
  if kind == "muon":
    arguments["muon_weight_dimension_numbers"] = muon_matrices
  return _named(kind)(learning_rate=learning_rate, **arguments)


def muon_matrices(params: Params) -> Params:
  """Which parameters are matrices to Muon (Jordan 2024), and how; Adam updates all others.

  They are the kernels of convolutions `[..., k, k, C, O]`, each as a matrix from the `k * k * C`
  numbers that a pixel of the output sees to its O channels; of layers in a row each is one of its
  own. Not among them are the flow's 1x1 matrices, whose determinants are part of the likelihood,
  and zero convolutions: an update of full rank would give them an output of some size at once.

  Returns:
    A tree of `params`' structure: Muon's dimension numbers, None for what is Adam's.
  """
  convolution = optax.contrib.MuonDimensionNumbers(reduction_axis=(-4, -3, -2), output_axis=-1)

  def of(tree: Any, is_scaled: bool) -> Any:
    if not isinstance(tree, Mapping):  # an array, or what Optax puts in place of Adam's
      return convolution if getattr(tree, "ndim", 0) >= 4 and not is_scaled else None
    # A zero convolution's kernel lies beside its `logs`, or one level below them.
    return {key: of(below, is_scaled or "logs" in tree) for key, below in tree.items()}

  return of(params, False)


def decays(params: Params) -> Params:
  """Which parameters weight decay acts on: the kernels of convolutions, and nothing else.

  Not biases, actnorms and the zero convolutions' scales. Not the flow's 1x1 matrices either: they
  begin as rotations, and decay would pull their determinants to zero, against the likelihood.
  """
  # A kernel is [k, k, C, O], a 1x1 matrix [C, C], with one axis more for layers in a row.
  return jax.tree.map(lambda leaf: leaf.ndim >= 4, params)


def parameter_name(path: Any) -> str:
  """A parameter's name as `parameters.txt` has it, from its path in the tree."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def is_trained(optim: Optim, params: Params) -> Params:
  """Which parameters `optim.flow_trained` lets training change, as a tree of bools.

  Args:
    optim: the configuration's `optim` block.
    params: by part. Of the parts beside "flow" all are trained.
  """
  expression = re.compile(optim.flow_trained)

  def of(path: Any, _: Any) -> bool:
    name = parameter_name(path)
    return not name.startswith("flow/") or expression.search(name) is not None

  return jax.tree_util.tree_map_with_path(of, params)


def held(optim: Optim, params: Params) -> Params:
  """Parameters as a loss takes them, so that those which are not trained have no gradient."""
  return jax.tree.map(
    lambda trained, leaf: leaf if trained else jax.lax.stop_gradient(leaf),
    is_trained(optim, params),
    params,
  )


def init(optim: Optim, params: Mapping[str, Any]) -> dict[str, Any]:
  """The optimiser's state for each part of the parameters."""
  return {part: transformation(optim, 0.0).init(tree) for part, tree in params.items()}


def global_norm(gradients: Any) -> Array:
  """The Euclidean norm over all of a tree's arrays."""
  # Sums of squares would be a kernel to compile for each parameter; dot products need not be.
  squares = [jnp.vdot(leaf, leaf, precision="highest") for leaf in jax.tree.leaves(gradients)]
  return jnp.sqrt(sum(squares))


def update(
  optim: Optim, learning_rate: Array, gradients: Params, opt_state: Params, params: Params
) -> tuple[Params, Params]:
  """Moves parameters against their gradients.

  Args:
    optim: the configuration's `optim` block.
    learning_rate: of this step; the encoder's is `encoder_rate_factor` times it.
    gradients: by part; their norm, over all parts, is cut to `clip_norm`.
    opt_state: of the same parts. A part that is frozen is not among them, and its state waits.
    params: of the same parts.

  Returns:
    Parameters and optimiser states after.
  """
  if optim.clip_norm:
    gradients = _stateless(optax.clip_by_global_norm(optim.clip_norm), gradients, params)
  new_params, new_opt_state = {}, {}
  for part, tree in params.items():
    rate = learning_rate * (optim.encoder_rate_factor if part == "encoder" else 1.0)
    updates, new_opt_state[part] = transformation(optim, rate).update(
      gradients[part], opt_state[part], tree
    )
    if optim.weight_decay:
      updates = _stateless(
        optax.add_decayed_weights(-rate * optim.weight_decay, mask=decays), updates, tree
      )
    new_params[part] = optax.apply_updates(tree, updates)
  return new_params, new_opt_state


def _stateless(transform: optax.GradientTransformation, updates: Any, params: Params) -> Any:
  """Applies a transformation that keeps nothing between steps."""
  return transform.update(updates, transform.init(params), params)[0]


def averages(optim: Optim) -> bool:
  """Whether the optimiser itself defines an average of its iterates, to be used in their place.

  Schedule-free ones do (Defazio et al. 2024): gradients are taken between it and the latest
  iterate, and the average takes the place of a falling rate.
  """
  return optim.optimizer["kind"].startswith("schedule_free")


def average(optim: Optim, ema: Params, params: Params, opt_state: Params, applied: Array) -> Params:
  """The average of parameters that evaluation uses, after `applied` steps and one more.

  Args:
    optim: the configuration's `optim` block.
    ema: the average before.
    params: the parameters after the step, of the same parts.
    opt_state: likewise.
    applied: how many steps were applied before this one.
  """
  if averages(optim):
    return {
      part: optax.contrib.schedule_free_eval_params(opt_state[part], tree)
      for part, tree in params.items()
    }
  return moving_average(optim, ema, params, applied)


def moving_average(optim: Optim, ema: Params, params: Params, applied: Array) -> Any:
  """The exponential moving average of parameters after `applied` steps and one more.

  Its decay rises to `ema_decay` as (1 + applied) / (10 + applied), as in TensorFlow's moving
  averages, so that what the first steps left behind is soon forgotten.
  """
  decay = jnp.minimum(optim.ema_decay, (1 + applied) / (10 + applied))
  return optax.incremental_update(params, ema, 1 - decay)
