"""The input pipeline's rate, and a training run of some minutes: for `benchmarks.accelerator`."""

import contextlib
import copy
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.accelerator_items import Sizes, load_config
from benchmarks.measuring import median_seconds, plausible_params, random_batch
from srflow_jax import checkpoints
from srflow_jax.data import make_train_iterator
from srflow_jax.errors import InputError, Interrupted
from srflow_jax.evaluation import Settings
from srflow_jax.evaluation.run import evaluate_workdirs
from srflow_jax.model.building import build_model
from srflow_jax.model.model import ComputeSpec
from srflow_jax.training.loop import train
from srflow_jax.training.step import create_state, make_train_step
from srflow_jax.weights import files, own_names

Emit = Callable[..., None]

_EXPORT_SECONDS = 60
_NUM_SAMPLES, _TEMPERATURES = 5, (0.0, 0.5, 0.8)


def pipeline(emit: Emit, sizes: Sizes, data: str) -> None:
  """Batches a second that the input pipeline delivers, by its number of worker processes."""
  config = load_config(sizes.first[0][0], sizes.small)
  config.data.update(train_dir=data, batch_size=sizes.batch, hr_patch=sizes.patch)
  cores = os.cpu_count()
  for workers in (0,) if sizes.small else (0, min(8, cores)):
    config.data.num_workers = workers
    begin = time.perf_counter()
    with contextlib.closing(make_train_iterator(config.data, config.model.scale, 0)) as batches:
      first = time.perf_counter() - begin
      num = 20 if sizes.small else 200
      for _ in range(num):  # what was read ahead, and images that have to be decoded
        next(batches)
      begin = time.perf_counter()
      for _ in range(num):
        next(batches)
      rate = num / (time.perf_counter() - begin)
    emit(
      workers=workers,
      batches_per_s=rate,
      patches_per_s=rate * sizes.batch,
      opening_s=first,
      batch=sizes.batch,
      patch=sizes.patch,
    )


def train_and_evaluate(
  emit: Emit,
  config: Any,
  data: str,
  out: pathlib.Path,
  workdir: pathlib.Path,
  num_steps: int,
  seconds: float,
) -> None:
  """Trains for most of the time, writing weights every minute, and evaluates in the rest.

  Args:
    emit: takes rows.
    config: to train.
    data: its training set; '' for the configuration's own.
    out: gets `weights.safetensors`, float16, of the flow (of an encoder alone, of that), in our own
      names, and `evaluation/`.
    workdir: of the run, which goes on if it is there.
    num_steps: in all; 0: as many as the time allows, by the seconds that a step takes.
    seconds: all that this may take.
  """
  end = time.monotonic() + seconds
  config = copy.deepcopy(config)
  if data:
    config.data.train_dir = data
  stop = end - min(90.0, 0.25 * seconds)
  done = checkpoints.load_run(workdir).step if checkpoints.saved_steps(workdir) else 0
  every = max(1, num_steps // max(1, round((stop - time.monotonic()) / _EXPORT_SECONDS)))
  if not num_steps:
    begin = time.monotonic()
    a_step = _step_seconds(config)
    compiling = time.monotonic() - begin
    # What was compiled for this is compiled once more, for the rates depend on the steps.
    left = max(0.0, stop - time.monotonic() - compiling)
    num_steps = int(done) + max(1, int(0.9 * left / a_step))
    every = max(1, round(_EXPORT_SECONDS / a_step))
    emit(what="seconds a step, host waiting for none", value=a_step)
  emit(what="steps: before, in all, between checkpoints", value=f"{done}, {num_steps}, {every}")
  config.update(num_train_steps=num_steps, checkpoint_every_steps=every)
  config.eval_every_steps = max(1, num_steps // 3)

  finished = threading.Event()
  exporter = threading.Thread(target=_watch, args=(emit, workdir, out, stop, finished))
  exporter.start()
  begin = time.monotonic()
  try:
    train(config, str(workdir), allow_config_change=True)
  except Interrupted as stopped:
    emit(what="the time was up", value=str(stopped))
  finally:
    finished.set()
    exporter.join()
  step = _export(workdir, out)
  emit(what="training: steps, seconds", value=f"{step - int(done)}, {time.monotonic() - begin:.0f}")
  settings = Settings(num_samples=_NUM_SAMPLES, temperature=_TEMPERATURES[-1])
  temperatures = _TEMPERATURES if build_model(config.model).loss_name == "nll" else ()
  outcome = evaluate_workdirs(
    [str(workdir)],
    "",
    "",
    str(out / "evaluation"),
    settings,
    "benchmarks.accelerator",
    temperatures,
  )
  print(outcome.text, flush=True)
  for line in outcome.text.splitlines():
    if line.startswith("|"):
      emit(what="evaluation", value=line.replace("|", " "))


def _step_seconds(config: Any) -> float:
  """Seconds that a step takes on average over the run's phases, measured with random images."""
  model = build_model(config.model, ComputeSpec(**config.compute))
  frozen = config.optim.encoder_frozen_fraction if config.optim.encoder_init else 0.0
  phases = {("flow",): frozen, model.parts: 1 - frozen}
  images = jax.device_put(
    random_batch(config.data.batch_size, config.data.hr_patch, config.model.scale)
  )
  total = 0.0
  for parts, share in phases.items():
    if not share:
      continue
    state = create_state(
      config.optim, jax.tree.map(jax.numpy.asarray, plausible_params(model)), jax.random.key(0)
    )
    step = make_train_step(model, config, parts)

    def ten(step: Any = step) -> None:
      nonlocal state
      for _ in range(10):
        state, metrics = step(state, images)
      float(metrics[model.loss_name])

    total += share * median_seconds(ten, seconds=1) / 10
  return total


def _watch(
  emit: Emit, workdir: pathlib.Path, out: pathlib.Path, stop: float, finished: threading.Event
) -> None:
  """Exports each new checkpoint; when the time is up, asks training to stop."""
  last, asked, begin = 0, False, time.monotonic()
  while not finished.wait(0.5):
    # Before training listens for it, the signal would end this process.
    listening = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    if time.monotonic() > stop and listening and not asked:
      asked = True
      os.kill(os.getpid(), signal.SIGTERM)
    steps = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
    if (newest := max(steps, default=0)) > last:
      try:
        last = _export(workdir, out)
      except (InputError, OSError, ValueError) as error:
        # It is just being replaced by the next one, which will be exported.
        last = newest
        emit(what=f"checkpoint {newest} not exported", value=str(error)[:200])
        continue
      emit(what=f"weights of step {last} written after, s", value=time.monotonic() - begin)


def _export(workdir: pathlib.Path, out: pathlib.Path) -> int:
  """Writes the latest checkpoint's weights as float16, in place of the last ones; its step."""
  run = checkpoints.load_run(workdir)
  tensors = own_names.to_state_dict({part: run.params[part] for part in run.model.parts[-1:]})
  half = {name: np.asarray(tensor).astype(np.float16) for name, tensor in tensors.items()}
  files.write(out / "weights.safetensors", half, run.config.model.to_dict())
  return int(run.step)
