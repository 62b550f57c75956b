"""The training loop: `train(config, workdir)`."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh
from tensorboardX import SummaryWriter

from srflow_jax import checkpoints
from srflow_jax.config import Config, read_config
from srflow_jax.data import describe, put_ahead, validation_batches
from srflow_jax.data.pairs import PairSource
from srflow_jax.data.pipeline import iterate
from srflow_jax.data.sources import open_source
from srflow_jax.errors import InputError, Interrupted
from srflow_jax.model.building import abstract_params, build_model
from srflow_jax.model.model import Model
from srflow_jax.runs import (
  check_config,
  check_data,
  lock_workdir,
  workdir_path,
  write_config,
  write_data,
)
from srflow_jax.training import checkpoint, devices, distributed, skipped, start
from srflow_jax.training.diagnosis import FiniteChecks, make_diagnosis
from srflow_jax.training.events import event_writer
from srflow_jax.training.profile import profiled
from srflow_jax.training.signals import STEPS_BEHIND, StopRequest
from srflow_jax.training.step import TrainState, create_state, make_train_step
from srflow_jax.training.validation import Validation
from srflow_jax.weights.starting import flow_line, starting_params


@dataclasses.dataclass(frozen=True)
class _Run:
  """Everything that a run needs but its state."""

  config: Config
  model: Model
  images: PairSource
  workdir: pathlib.Path
  mesh: Mesh
  writer: checkpoints.Writer
  validation: Validation
  step_of_phase: Callable[[int], Callable[..., Any]]
  diagnosis_of_phase: Callable[[int], Callable[..., FiniteChecks]]


def train(
  config: Config | Mapping[str, Any], workdir: str | os.PathLike, allow_config_change: bool = False
) -> TrainState:
  """Trains a model, from the latest checkpoint of `workdir` if it has one.

  Args:
    config: a configuration as `configs/base.py` describes it.
    workdir: the run's folder, made if need be; it gets `config.json`, `data.json`,
      `parameters.txt`, checkpoints, TensorBoard events and `metrics.csv`. Several processes of one
      run must share it.
    allow_config_change: whether a run may go on with another configuration, or other images, than
      it was begun with.

  Returns:
    The state after the last step.

  Raises:
    InputError: the configuration, the data or the workdir cannot be used, a checkpoint cannot be
      written, all are damaged or gone, the devices' memory does not suffice, or training diverged,
      again after it went back with a lower learning rate.
    Interrupted: SIGTERM, SIGINT or SIGHUP came; the state is saved.
  """
  process = (jax.process_index(), jax.process_count())
  with contextlib.ExitStack() as opened:
    with distributed.agreement():
      workdir = workdir_path(workdir)
      config = read_config(config)
      model = build_model(config.model, config.compute)
      start.check(config, model)
      images = open_source(config.data, model.scale, "train")
      first_batch = start.first_batch(config, model.scale, images)
      val_batches = validation_batches(config.data, model.scale, *process)
      begun = bool(checkpoints.saved_steps(workdir))
      given = {} if begun else starting_params(config, model)
    with distributed.agreement():  # not before: nothing is written if any process refuses
      if process[0] == 0:
        opened.enter_context(lock_workdir(workdir))
        check_config(workdir, config, allow_config_change)
        data = describe(config.data, model.scale, images)
        check_data(workdir, data, allow_config_change)

    mesh = devices.data_mesh()

    def latest_or_initial() -> tuple[TrainState, list[int]]:
      """The state to go on from, on the devices, and the damaged checkpoints."""
      new_state = functools.partial(create_state, config.optim, key=jax.random.key(config.seed))
      like = jax.eval_shape(new_state, abstract_params(model))
      with distributed.agreement():
        state, errors, damaged = checkpoint.restore_latest(workdir, like, new_state)
        if state is None:
          state = start.initial_state(model, config, first_batch, given)
      with distributed.agreement():
        distributed.check_alike(int(state.step), "the step of the latest checkpoint")
      for error in errors:
        _say(f"{error}; going on from {int(state.step)}")
      return devices.put_replicated(mesh, state), damaged

    with _memory_named():
      state, damaged = latest_or_initial()
    with distributed.agreement():  # so that no process looks at checkpoints before this is done
      if process[0] == 0:
        checkpoints.set_aside(workdir, damaged)
        write_config(workdir, config)  # not before: the checkpoint may not have fitted it
        write_data(workdir, data)
        start.write_parameter_table(workdir, state.params)
    writer = opened.enter_context(
      checkpoints.writer(workdir, config.keep_checkpoints, config.keep_best)
    )
    if int(state.step):
      _say(f"continuing {workdir} from step {int(state.step)}")
    _say(start.parameter_line(state.params))
    if "flow" in given:
      _say(flow_line(model, given))
    on_devices = [devices.put_batch(mesh, batch) for batch in val_batches]
    validation = Validation(model, config, on_devices, val_batches[0])
    by_phase = [_by_phase(make, model, config) for make in (make_train_step, make_diagnosis)]
    run = _Run(config, model, images, workdir, mesh, writer, validation, *by_phase)
    while True:
      lowered = float(state.rate_factor) < 1
      try:
        with _memory_named():
          return _run_steps(run, state)
      except skipped.Diverged as diverged:
        reason = str(diverged)
      # Out here nothing holds the diverged state any longer, so that there are not two at once.
      del state
      if lowered:
        raise InputError(
          f"{reason}, and the learning rates had been lowered once before: training diverges. "
          "A lower config.optim.learning_rate may help"
        )
      writer.wait()
      # Nothing tells a new process of this until the next checkpoint, nor need it be told: the
      # same steps lead it here again.
      state, damaged = latest_or_initial()
      with distributed.agreement():
        if process[0] == 0:
          checkpoints.set_aside(workdir, damaged)
      writer.reload()
      factor = np.float32(config.optim.rollback_rate_factor)
      state = dataclasses.replace(state, rate_factor=devices.put_replicated(mesh, factor))
      _say(f"{reason}; going back to step {int(state.step)}, learning rates times {factor:g}")


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
  # When a batch cannot be had, those before it must last until all processes know.
  ahead = STEPS_BEHIND + 1 if jax.process_count() > 1 else 2
  pending, shown = [], {}  # metrics still on the device; what the bar shows
  with (
    StopRequest(run.mesh) as stop,
    contextlib.closing(_batches_from(run, done, ahead, stop.fail)) as batches,
    event_writer(run.workdir, done) as writer,
    bar,
    profiled(run.workdir, config.profile_steps) as profiler,
  ):
    with distributed.agreement():
      first = _first_batch(batches) if done < total else None
    for step in range(done + 1, total + 1):
      batch = first if step == done + 1 else next(batches)
      profiler.before(step)
      state, metrics = run.step_of_phase(step)(state, batch)
      profiler.after(step, metrics)
      pending.append(metrics)
      bar.update()
      last = step == total
      validation_loss = float("nan")
      saves = step % config.checkpoint_every_steps == 0 or last
      diverged = skipped.too_many(config, pending, saves)
      if step % config.log_every_steps == 0 or last or diverged:
        pending = jax.device_get(pending)
        shown |= _log(run, writer, state, step, pending)
        skipped.raise_if_diverged(config, step, pending)
        pending = []
        run.writer.wait(only_if_done=True)
      if step % config.eval_every_steps == 0 or last:
        validation_loss = run.validation.write(writer, step, state.ema or state.params)
        shown[f"val_{loss_name}"] = f"{validation_loss:.4g}"
      elif saves and config.keep_best:
        validation_loss = run.validation.loss(state.ema or state.params)
      # The last step needs no more batches, whichever process has none.
      stopped = stop.received() and not (last and stop.failed is not None)
      # What is saved is good to go back to: parameters are finite, since a step that is not is
      # not applied, and the latest step was applied.
      if (saves or stopped) and (last or not int(state.skipped_in_a_row)):
        checkpoint.save(run.writer, state, validation_loss)
      bar.set_postfix(shown, refresh=last)
      if stopped:
        run.writer.wait()
        raise _stopped(run, stop, step)
  return state


def _first_batch(batches: Iterator[Any]) -> Any:
  """The first batch; what cannot be read of those that are put ahead with it is an `InputError`."""
  try:
    return next(batches)
  except Exception as error:
    raise InputError(_reason(error)) from error


def _stopped(run: _Run, stop: StopRequest, step: int) -> Exception:
  """What ends a run early, after a step, in all processes; what there is, is saved."""
  saved = max(checkpoints.saved_steps(run.workdir), default=0)
  if stop.failed is None:
    return Interrupted(
      f"stopped by a signal after step {step}; the same command goes on from step {saved}"
    )
  reason = f"process {stop.failed} cannot go on, its output says why"
  if stop.error:
    reason = _reason(stop.error)
  distributed.leave()
  return InputError(
    f"{reason}; training stopped after step {step}, the same command goes on from step {saved}"
  )


def _reason(error: Exception) -> str:
  """Why there is no batch, in one line: an image is damaged or gone, or a worker was killed."""
  said = str(error) if isinstance(error, InputError) else f"reading images failed: {error!r}"
  return " ".join(said.split())


@contextlib.contextmanager
def _memory_named() -> Iterator[None]:
  """Makes an `InputError` of a lack of the devices' memory."""
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise InputError(
      "the devices' memory does not suffice for a step: a larger config.optim.accumulation_steps "
      "or a smaller config.data.batch_size needs less, and so does --config.compute.remat=True"
    ) from error


def _batches_from(
  run: _Run, done: int, ahead: int, failed: Callable[[Exception], object] | None = None
) -> Any:
  """This process's part of the batches after `done` steps; see `put_ahead`."""
  process = (jax.process_index(), jax.process_count())
  config = run.config
  batches = iterate(run.images, config.data, run.model.scale, config.seed, done, *process)
  return put_ahead(batches, functools.partial(devices.put_batch, run.mesh), ahead, failed)


def _by_phase(
  make: Callable[..., Any], model: Model, config: Config
) -> Callable[[int], Callable[..., Any]]:
  """For a step number, what `make` makes for its phase: encoder frozen, or all trained."""
  frozen_until = config.frozen_steps
  unfrozen = tuple(part for part in model.parts if part != "encoder")
  frozen, full = (make(model, config, parts) for parts in (unfrozen, model.parts))
  return lambda step: frozen if step <= frozen_until else full


def _log(
  run: _Run, writer: SummaryWriter, state: TrainState, step: int, metrics: list[skipped.Metrics]
) -> dict[str, Any]:
  """Writes the mean loss of the latest applied steps, and the last value of everything else.

  Args:
    run: the run.
    writer: of TensorBoard's events.
    state: after the last step.
    step: the last step's number.
    metrics: of the steps since the last call, on the host.

  Returns:
    What the bar shows.
  """
  loss_name = run.model.loss_name
  losses = [m[loss_name] for m in metrics if not m["skipped_in_a_row"]]
  latest = dict(metrics[-1])
  del latest[loss_name]
  shown: dict[str, Any] = {"skipped": int(latest["skipped"])}
  if losses:  # else none was applied
    latest[loss_name] = float(np.mean(losses))
    shown[loss_name] = f"{latest[loss_name]:.4g}"
  for name, value in latest.items():
    writer.add_scalar(f"train/{name}", float(value), step)
  if text := skipped.told(step, metrics, functools.partial(_first_not_finite, run, state)):
    writer.add_text("train/skipped", text, step)
    _say(text)
  return shown


def _first_not_finite(run: _Run, state: TrainState, step: int) -> str | None:
  """What in a step that was skipped is not finite first, with the parameters of now.

  For that its batch is made again: see `make_diagnosis`.
  """
  with contextlib.closing(_batches_from(run, step - 1, ahead=0)) as batches:
    diagnosis = run.diagnosis_of_phase(step)
    return diagnosis(state.params, state.key, next(batches), step - 1).first()


def _say(text: str) -> None:
  """Prints a line, above the bar if there is one, in one process."""
  if jax.process_index() == 0:
    tqdm.tqdm.write(text)
    sys.stdout.flush()
