"""The training loop: `train(config, workdir)`."""

import contextlib
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh
from tensorboardX import SummaryWriter

from srflow_jax.data import make_train_iterator, put_ahead, validation_batches
from srflow_jax.errors import InputError, Interrupted
from srflow_jax.model.building import abstract_params, build_model, count_parameters
from srflow_jax.model.model import Model
from srflow_jax.runs import check_config, lock_workdir, write_config
from srflow_jax.training import checkpoint, devices, distributed, start
from srflow_jax.training.diagnosis import Places, make_diagnosis
from srflow_jax.training.events import event_writer
from srflow_jax.training.signals import StopRequest
from srflow_jax.training.step import TrainState, create_state, make_train_step
from srflow_jax.training.validation import Validation
from srflow_jax.weights.encoders import starting_encoder

Metrics = dict[str, Any]


class _Diverged(Exception):
  """Too many steps in a row were skipped; the message says when."""


@dataclasses.dataclass(frozen=True)
class _Run:
  """What a run has at hand: everything but its state."""

  config: Any
  model: Model
  workdir: pathlib.Path
  mesh: Mesh
  manager: Any
  validation: Validation
  step_of_phase: Callable[[int], Callable[..., Any]]
  diagnosis_of_phase: Callable[[int], Callable[..., Places]]


def train(config: Any, workdir: str, allow_config_change: bool = False) -> TrainState:
  """Trains a model, from the latest checkpoint of `workdir` if it has one.

  Args:
    config: a configuration as `configs/base.py` describes it.
    workdir: the run's folder, made if need be; it gets `config.json`, checkpoints and TensorBoard
      events. Several processes of one run must share it.
    allow_config_change: whether a run may go on with another configuration than it was begun with.

  Returns:
    The state after the last step.

  Raises:
    InputError: the configuration, the data or the workdir cannot be used, a checkpoint cannot be
      written, or training diverged, again after it went back with a lower learning rate.
    Interrupted: SIGTERM or SIGINT came; the state is saved.
  """
  workdir = pathlib.Path(workdir)
  process = (jax.process_index(), jax.process_count())
  with contextlib.ExitStack() as opened:
    with distributed.agreement():
      model = build_model(config.model, config.get("compute"))
      start.check(config, model)
      first_batch = start.first_batch(config)
      val_batches = validation_batches(config.data, config.model.scale, *process)
      given = {} if checkpoint.has_checkpoint(workdir) else starting_encoder(config, model)
    with distributed.agreement():  # not before: nothing is written if any process refuses
      if process[0] == 0:
        opened.enter_context(lock_workdir(workdir))
        check_config(workdir, config, allow_config_change)

    mesh = devices.data_mesh()
    manager = opened.enter_context(
      checkpoint.checkpoint_manager(workdir, config.keep_checkpoints, config.keep_best)
    )

    def latest_or_initial() -> TrainState:
      if manager.latest_step() is None:
        state = start.initial_state(model, config, first_batch, given)
        return devices.put_replicated(mesh, state)
      new_state = functools.partial(create_state, config.optim)
      like = jax.eval_shape(new_state, abstract_params(model), jax.random.key(0))
      return checkpoint.restore(manager, checkpoint.with_sharding(like, devices.replicated(mesh)))

    state = latest_or_initial()
    if process[0] == 0:
      write_config(workdir, config)  # not before: the checkpoint may not have fitted it
    if int(state.step):
      _say(f"continuing {workdir} from step {int(state.step)}")
    sizes = {part: count_parameters(tree) for part, tree in state.params.items()}
    _say(f"parameters: {', '.join(f'{part} {n:,}' for part, n in sizes.items())}")
    on_devices = [devices.put_batch(mesh, batch) for batch in val_batches]
    validation = Validation(model, config, on_devices, val_batches[0])
    by_phase = [_by_phase(make, model, config) for make in (make_train_step, make_diagnosis)]
    run = _Run(config, model, workdir, mesh, manager, validation, *by_phase)
    while True:
      lowered = float(state.rate_factor) < 1
      try:
        return _run_steps(run, state)
      except _Diverged as diverged:
        if lowered:
          raise InputError(
            f"{diverged}, and the learning rates had been lowered once before: training diverges. "
            "A lower config.optim.learning_rate may help"
          ) from None
        checkpoint.wait(manager)
        # Nothing tells a new process of this until the next checkpoint, nor need it be told: the
        # same steps lead it here again.
        factor = np.float32(config.optim.rollback_rate_factor)
        factor_there = devices.put_replicated(mesh, factor)
        state = latest_or_initial().replace(rate_factor=factor_there)
        _say(f"{diverged}; going back to step {int(state.step)}, learning rates times {factor:g}")


def _run_steps(run: _Run, state: TrainState) -> TrainState:
  """Runs the steps that are left, logging, evaluating and saving on the way.

  The host waits for the devices only where it does one of these three.
  """
  config, loss_name = run.config, run.model.loss_name
  done, total = int(state.step), config.num_train_steps
  bar = tqdm.tqdm(
    total=total,
    initial=done,
    unit="step",
    desc="training",
    dynamic_ncols=True,
    mininterval=0.5 if sys.stderr.isatty() else 10,
    disable=jax.process_index() != 0,
  )
  pending, shown = [], {}  # metrics still on the device; what the bar shows
  with (
    contextlib.closing(_batches_from(run, done)) as batches,
    event_writer(run.workdir, done) as writer,
    bar,
    StopRequest(run.mesh) as stop,
  ):
    for step in range(done + 1, total + 1):
      state, metrics = run.step_of_phase(step)(state, next(batches))
      pending.append(metrics)
      bar.update()
      last = step == total
      validation_loss = float("nan")
      if step % config.log_every_steps == 0 or last:
        pending = jax.device_get(pending)
        latest = _log(writer, step, loss_name, pending)
        _tell_of_skipped(run, writer, state, step, pending)
        pending = []
        shown |= {loss_name: f"{latest[loss_name]:.4g}", "skipped": int(latest["skipped"])}
        in_a_row = int(latest["skipped_in_a_row"])
        if in_a_row >= config.optim.max_skipped_steps:
          raise _Diverged(
            f"step {step}: loss or gradient was not finite in the last {in_a_row} steps"
          )
        checkpoint.wait(run.manager, only_if_done=True)
      if step % config.eval_every_steps == 0 or last:
        validation_loss = run.validation.write(writer, step, state.ema or state.params)
        shown[f"val_{loss_name}"] = f"{validation_loss:.4g}"
      stopped = stop.received() and not last
      if step % config.checkpoint_every_steps == 0 or last or stopped:
        # What is saved is good to go back to: parameters are finite, since a step that is not is
        # not applied, and the latest step was applied.
        if last or not int(state.skipped_in_a_row):
          checkpoint.save(run.manager, state, validation_loss)
      bar.set_postfix(shown, refresh=last)
      if stopped:
        checkpoint.wait(run.manager)
        raise Interrupted(
          f"stopped by a signal after step {step}; the same command goes on from step "
          f"{run.manager.latest_step() or 0}"
        )
  return state


def _batches_from(run: _Run, done: int, ahead: int = 2) -> Any:
  """This process's part of the batches after `done` steps, on the devices `ahead` of their use."""
  process = (jax.process_index(), jax.process_count())
  config = run.config
  batches = make_train_iterator(config.data, config.model.scale, config.seed, done, *process)
  return put_ahead(batches, functools.partial(devices.put_batch, run.mesh), ahead)


def _by_phase(
  make: Callable[..., Any], model: Model, config: Any
) -> Callable[[int], Callable[..., Any]]:
  """For a step number, what `make` makes for its phase: encoder frozen, or all trained."""
  frozen_until = 0
  if config.optim.encoder_init:
    frozen_until = round(config.optim.encoder_frozen_fraction * config.num_train_steps)
  unfrozen = tuple(part for part in model.parts if part != "encoder")
  frozen, full = (make(model, config, parts) for parts in (unfrozen, model.parts))
  return lambda step: frozen if step <= frozen_until else full


def _log(writer: SummaryWriter, step: int, loss_name: str, metrics: list[Metrics]) -> Metrics:
  """Writes the mean loss of the latest steps, and of all else the last; returns them.

  Args:
    writer: of TensorBoard's events.
    step: the last step's number.
    loss_name: the loss's name in the metrics.
    metrics: of the steps since the last call, on the host.
  """
  latest = metrics[-1] | {loss_name: float(np.mean([m[loss_name] for m in metrics]))}
  for name, value in latest.items():
    writer.add_scalar(f"train/{name}", float(value), step)
  return latest


def _tell_of_skipped(
  run: _Run, writer: SummaryWriter, state: TrainState, step: int, metrics: list[Metrics]
) -> None:
  """Says how many of the latest steps were skipped, and where the last of them went wrong.

  For that its batch is made again and computed with the parameters of now: see `make_diagnosis`.
  The arguments are the run, `_log`'s, and the state after the last step.
  """
  since = step - len(metrics) + 1
  skipped = [at for at, m in enumerate(metrics, since) if m["skipped_in_a_row"]]
  if not skipped:
    return
  at = skipped[-1]
  with contextlib.closing(_batches_from(run, at - 1, ahead=0)) as batches:
    diagnosis = run.diagnosis_of_phase(at)
    place = diagnosis(state.params, state.key, next(batches), at - 1).first()
  text = f"steps {since} to {step}: {len(skipped)} skipped, not finite; step {at} " + (
    f"first in {place}" if place else f"not found again with the parameters of step {step}"
  )
  writer.add_text("train/skipped", text, step)
  _say(text)


def _say(text: str) -> None:
  """Prints a line, above the bar if there is one, in one process."""
  if jax.process_index() == 0:
    tqdm.tqdm.write(text)
    sys.stdout.flush()
