"""The training loop: `train(config, workdir)`."""

import contextlib
import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from tensorboardX import SummaryWriter

from srflow_jax.data import make_train_iterator, put_ahead, validation_batches
from srflow_jax.errors import InputError
from srflow_jax.model import Model, abstract_params, build_model, count_parameters, init_params
from srflow_jax.training import checkpoint, devices, optimizer
from srflow_jax.training.step import TrainState, create_state, make_train_step, to_training_images
from srflow_jax.training.validation import Validation
from srflow_jax.weights.encoders import starting_encoder

Batch = dict[str, Any]


def train(config: Any, workdir: str) -> TrainState:
  """Trains a model, from the latest checkpoint of `workdir` if it has one.

  Args:
    config: a configuration as `configs/base.py` describes it.
    workdir: the run's folder, made if need be; it gets `config.json`, checkpoints and TensorBoard
      events.

  Returns:
    The state after the last step.

  Raises:
    InputError: the configuration, the data or the workdir cannot be used, or training diverged.
  """
  workdir = pathlib.Path(workdir)
  model = build_model(config.model)
  _check(config, model)
  if (workdir / "config.json").exists():
    if differences := checkpoint.config_differences(checkpoint.read_config(workdir), config):
      raise InputError(f"{workdir} holds a run of another configuration: {'; '.join(differences)}")
  first_batch = _first_batch(config)
  process = (jax.process_index(), jax.process_count())
  val_batches = validation_batches(config.data, config.model.scale, *process)
  given = {} if checkpoint.has_checkpoint(workdir) else starting_encoder(config, model)
  _open_workdir(workdir, config)

  mesh = devices.data_mesh()
  replicated = devices.replicated(mesh)
  put_batch = functools.partial(devices.put_batch, mesh)
  with (
    checkpoint.checkpoint_manager(workdir, keep=config.keep_checkpoints) as manager,
    contextlib.closing(SummaryWriter(str(workdir))) as writer,
  ):
    if manager.latest_step() is None:
      state = jax.device_put(_initial_state(model, config, first_batch, given), replicated)
    else:
      like = jax.eval_shape(
        functools.partial(create_state, config.optim), abstract_params(model), jax.random.key(0)
      )
      state = checkpoint.restore(manager, checkpoint.with_sharding(like, replicated))
      print(f"continuing {workdir} from step {int(state.step)}", flush=True)
    sizes = {part: count_parameters(tree) for part, tree in state.params.items()}
    print(f"parameters: {', '.join(f'{part} {n:,}' for part, n in sizes.items())}", flush=True)
    validation = Validation(model, config, [put_batch(b) for b in val_batches], val_batches[0])
    state = _run_steps(state, model, config, put_batch, manager, writer, validation)
  return state


def _check(config: Any, model: Model) -> None:
  """Refuses what would only fail later."""
  multiple = model.scale * model.lr_multiple
  if config.data.hr_patch < 1 or config.data.hr_patch % multiple:
    raise InputError(
      f"config.data.hr_patch is {config.data.hr_patch}: this model needs a multiple of {multiple}"
    )
  optimizer.check(config.optim, config.data.batch_size, jax.device_count())
  if config.optim.encoder_init and config.optim.encoder_frozen_fraction and len(model.parts) == 1:
    raise InputError(
      f"config.optim.encoder_frozen_fraction is {config.optim.encoder_frozen_fraction}: there is "
      "nothing but the encoder to train, so it must be 0"
    )
  for field in ("num_train_steps", "log_every_steps", "eval_every_steps", "checkpoint_every_steps"):
    if config[field] < 1:
      raise InputError(f"config.{field} is {config[field]}: it must be at least 1")


def _first_batch(config: Any) -> Batch:
  """The whole first batch. Every process reads all of it, so all start from equal parameters."""
  with contextlib.closing(
    make_train_iterator(config.data, config.model.scale, config.seed)
  ) as batches:
    return next(batches)


def _open_workdir(workdir: pathlib.Path, config: Any) -> None:
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoint.write_config(workdir, config)
  except OSError as error:
    raise InputError(f"cannot write to the workdir {workdir}: {error.strerror}") from error


def _initial_state(model: Model, config: Any, batch: Batch, given: dict[str, Any]) -> TrainState:
  """Parameters drawn from the seed, actnorms set by the batch, with noise as training adds it.

  Not compiled as a whole: that takes several times longer than it saves.
  """
  key = jax.random.key(config.seed)
  init_key, noise_key = jax.random.split(key)
  hr, lr = to_training_images(jax.tree.map(jnp.asarray, batch), config.data.noise_std, noise_key)
  return create_state(config.optim, init_params(model, init_key, hr, lr, given), key)


def _run_steps(
  state: TrainState,
  model: Model,
  config: Any,
  put_batch: Callable[[Batch], Batch],
  manager: Any,
  writer: SummaryWriter,
  validation: Validation,
) -> TrainState:
  """Runs the steps that are left, logging, evaluating and saving on the way."""
  done, total = int(state.step), config.num_train_steps
  process = (jax.process_index(), jax.process_count())
  batches = put_ahead(
    make_train_iterator(config.data, config.model.scale, config.seed, done, *process), put_batch
  )
  bar = tqdm.tqdm(
    total=total,
    initial=done,
    unit="step",
    desc="training",
    dynamic_ncols=True,
    mininterval=0.5 if sys.stderr.isatty() else 10,
    disable=process[0] != 0,
  )
  step_of_phase = _steps_by_phase(model, config)
  pending, shown = [], {}  # metrics still on the device; what the bar shows
  with contextlib.closing(batches), bar:
    for step in range(done + 1, total + 1):
      state, metrics = step_of_phase(step)(state, next(batches))
      pending.append(metrics)
      bar.update()
      last = step == total
      if step % config.log_every_steps == 0 or last:
        latest = _log(writer, step, model.loss_name, jax.device_get(pending))
        pending = []
        loss = f"{latest[model.loss_name]:.4g}"
        shown |= {model.loss_name: loss, "skipped": int(latest["skipped"])}
        _stop_if_diverged(latest, config, step)
      if step % config.eval_every_steps == 0 or last:
        val_loss = validation.write(writer, step, state.params)
        shown[f"val_{model.loss_name}"] = f"{val_loss:.4g}"
      if step % config.checkpoint_every_steps == 0 or last:
        checkpoint.save(manager, state)
      bar.set_postfix(shown, refresh=last)
  return state


def _steps_by_phase(model: Model, config: Any) -> Callable[[int], Callable[..., Any]]:
  """For a step number, the compiled step of its phase: encoder frozen, or all trained."""
  frozen_until = 0
  if config.optim.encoder_init:
    frozen_until = round(config.optim.encoder_frozen_fraction * config.num_train_steps)
  unfrozen = tuple(part for part in model.parts if part != "encoder")
  frozen_step = make_train_step(model, config, unfrozen)
  full_step = make_train_step(model, config, model.parts)
  return lambda step: frozen_step if step <= frozen_until else full_step


def _log(
  writer: SummaryWriter, step: int, loss_name: str, metrics: list[dict[str, Any]]
) -> dict[str, Any]:
  """Writes the mean loss since the last call and the latest of all else; returns them."""
  latest = metrics[-1] | {loss_name: float(np.mean([m[loss_name] for m in metrics]))}
  for name, value in latest.items():
    if name == "largest":
      continue
    writer.add_scalar(f"train/{name}", float(value), step)
  return latest


def _stop_if_diverged(latest: dict[str, Any], config: Any, step: int) -> None:
  in_a_row = int(latest["skipped_in_a_row"])
  if in_a_row >= config.optim.max_skipped_steps:
    raise InputError(
      f"step {step}: loss or gradient was not finite in the last {in_a_row} steps; none of them "
      "was applied. A lower config.optim.learning_rate may help"
    )
