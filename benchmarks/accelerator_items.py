"""What `benchmarks.accelerator` measures of models that need no training."""

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks.measuring import (
  GB,
  gflop_of_samples,
  median_seconds,
  peak_gflops,
  plausible_params,
  program_gb,
  random_batch,
)
from srflow_jax.model.building import build_model
from srflow_jax.model.model import ComputeSpec, Model
from srflow_jax.ops.costs import count_flops
from srflow_jax.sampling.budget import Plan, Request, footprint, samples_of_program
from srflow_jax.sampling.sampler import Sampler
from srflow_jax.sampling.tiles import cut
from srflow_jax.training.step import create_state, make_train_step

Emit = Callable[..., None]
Size = tuple[int, int]

_TEMPERATURE = 0.9
_CHECKED = "tests/test_accelerator.py"


@dataclasses.dataclass(frozen=True)
class Sizes:
  """How large everything is.

  Attributes:
    small: whether the models are small ones, which only shows that everything works.
    batch: patches of a training step.
    patch: HR pixels a side of them.
    lr_sizes: LR images that are sampled.
    samples: how many samples of each.
    first: the models that matter most, with whether in bfloat16; the baseline is of the first.
    others: all others.
    whole: an LR image that is computed whole and in tiles, to compare.
    largest: an LR image that is computed within `largest_gb` of the device's memory.
    largest_gb: see there.
    tests: which tests show how exact the device is.
  """

  small: bool
  batch: int
  patch: int
  lr_sizes: tuple[Size, ...]
  samples: tuple[int, ...]
  first: tuple[tuple[str, bool], ...]
  others: tuple[tuple[str, bool], ...]
  whole: Size
  largest: Size
  largest_gb: float
  tests: tuple[str, ...]


FULL = Sizes(
  small=False,
  batch=12,
  patch=160,
  lr_sizes=((128, 128), (270, 480), (64, 64)),
  samples=(10, 1),
  first=(("x4_da", True), ("x4_da", False)),
  others=(("x4_da_s", True), ("x4_srflow", True), ("x4_da_s", False), ("x4_srflow", False)),
  whole=(270, 480),
  largest=(1080, 1920),
  largest_gb=16,
  tests=(_CHECKED,),
)
SMALL = Sizes(
  small=True,
  batch=2,
  patch=16,
  lr_sizes=((8, 8),),
  samples=(2, 1),
  first=(("x4_da", True),),
  others=(("x4_da_s", False),),
  whole=(16, 24),
  largest=(32, 48),
  largest_gb=2,
  tests=("tests/test_compute.py::test_bfloat16_trains_float32_parameters",),
)


def load_config(name: str, small: bool, **compute: bool) -> Any:
  """The configuration of that name; small: with its topology, but with few channels and steps."""
  config = importlib.import_module(f"configs.{name}").get_config()
  if small:
    config.model.encoder.update(width=4, growth=2, num_blocks=2, taps=(0, 1))
    config.model.conditioner.update(width=4, num_hidden=1)
    config.model.stages = tuple(dict(stage) | {"steps": 1} for stage in config.model.stages)
  config.compute.update(**compute)
  return config


def device(emit: Emit) -> None:
  """Versions, devices, and the rate of a large matrix product."""
  names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
  emit(what="Python", value=f"{platform.python_version()}, {os.cpu_count()} cores")
  for name in names:
    emit(what=name, value=importlib.metadata.version(name))
  for number, one in enumerate(jax.devices()):
    limit = (one.memory_stats() or {}).get("bytes_limit", 0) / GB
    emit(what=f"device {number}", value=f"{one.platform}: {one.device_kind}, {limit:.1f} GB for us")
  emit(what="large matrix product, TFLOP/s", value=peak_gflops() / 1e3)


def accuracy(emit: Emit, sizes: Sizes) -> None:
  """Runs the tests of `sizes.tests`, and emits what they record; fails if one of them does."""
  os.chdir(pathlib.Path(__file__).resolve().parents[1])
  arguments = [*sizes.tests, "-m", "", "-p", "no:cacheprovider"]
  if status := pytest.main(arguments, plugins=[Reports(emit)]):
    sys.exit(f"pytest ended with status {int(status)}")


class Reports:
  """A plugin of pytest that emits each test's result and what it recorded, as soon as it ends."""

  def __init__(self, emit: Emit) -> None:
    self._emit = emit

  def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
    """Is called by pytest after a test's preparation, after itself and after what cleans up."""
    if report.when != "call" and report.passed:  # there is another report of the same test
      return
    crash = getattr(report.longrepr, "reprcrash", None)  # what was raised; nothing if skipped
    said = None if report.passed else (crash.message if crash else report.longreprtext)
    said = said and said.split("\n")[0][:200]
    noted = dict(report.user_properties)
    name = report.nodeid.rpartition("::")[2]
    self._emit(test=name, result=report.outcome, s=report.duration, **noted, message=said)


def speed(emit: Emit, sizes: Sizes, models: Sequence[tuple[str, bool]]) -> None:
  """Times training steps and samples, model after model.

  A step's `s` is with its loss fetched, as the baseline does; `s in a row` that of ten steps for
  which the host waits once, as training does. All programs of a model are compiled before one of
  them is timed, side by side.
  """
  peak = peak_gflops()
  for name, bfloat16 in models:
    config = load_config(name, sizes.small, bfloat16=bfloat16)
    model = build_model(config.model, ComputeSpec(**config.compute))
    params = jax.device_put(plausible_params(model))
    about = {"model": name, "type": _type(bfloat16)}
    sampler = Sampler(model, params)
    jobs = {
      f"train step, {what}": functools.partial(_train_job, model, config, params, sizes, parts)
      for what, parts in (("frozen encoder", ("flow",)), ("all", model.parts))
    }
    for size in sizes.lr_sizes:
      text = f"LR {size[0]}x{size[1]}"
      jobs[text] = functools.partial(_sample_jobs, sampler, size, sizes.samples)
    with futures.ThreadPoolExecutor(min(len(jobs), max(2, os.cpu_count() // 2))) as pool:
      begin = time.perf_counter()
      prepared = {job: pool.submit(prepare) for job, prepare in jobs.items()}
      futures.wait(prepared.values())
      emit(**about, job="compile all of these", s=time.perf_counter() - begin)
    for job, future in prepared.items():
      try:
        for number, measure, gflop, needed in future.result():
          row = measure()
          share = gflop / row["s"] / peak
          job_name = f"{number} sample{'s' * (number > 1)}, {job}" if number else job
          figures = {"GFLOP": gflop, "share of peak": share, "GB": needed}
          emit(**about, job=job_name, **row, **figures)
      except Exception as error:  # of one job; the others may well succeed
        emit(**about, job=job, error=_told(error))


Job = tuple[int, Callable[[], dict[str, float]], float, float]


def _train_job(
  model: Model, config: Any, params: Any, sizes: Sizes, parts: tuple[str, ...]
) -> list[Job]:
  """A training step, compiled: (0, what measures it, its GFLOP, its GB)."""
  step = compiled_step(model, config, params, sizes, parts)

  def measure() -> dict[str, float]:
    one = median_seconds(step.run)
    ten = median_seconds(lambda: step.run(10), most=5) / 10 if one < 1 else None
    step.state = None
    return {"s": one, "s in a row": ten}

  return [(0, measure, step.gflop, program_gb(step.program))]


@dataclasses.dataclass
class CompiledStep:
  """A training step, compiled, with the state that it goes on from and a batch."""

  program: jax.stages.Compiled
  state: Any
  images: Any
  loss_name: str
  gflop: float

  def run(self, steps: int = 1) -> None:
    """Runs so many steps and fetches the last one's loss."""
    for _ in range(steps):
      self.state, metrics = self.program(self.state, self.images)
    float(metrics[self.loss_name])


def compiled_step(
  model: Model, config: Any, params: Any, sizes: Sizes, parts: tuple[str, ...]
) -> CompiledStep:
  """Compiles a step that trains `parts`, of noise as images."""
  # A copy, since a step consumes the state that it is given.
  own = jax.tree.map(lambda leaf: leaf.copy(), params)
  state = create_state(config.optim, own, jax.random.key(0))
  images = jax.device_put(random_batch(sizes.batch, sizes.patch, model.scale))
  traced = make_train_step(model, config, parts).trace(state, images)
  gflop = count_flops(traced.jaxpr) / 1e9
  return CompiledStep(traced.lower().compile(), state, images, model.loss_name, gflop)


def _sample_jobs(sampler: Sampler, size: Size, numbers: Sequence[int]) -> list[Job]:
  """So many samples of an LR image, compiled: (number, what measures it, GFLOP, GB) for each."""
  lr = np.random.default_rng(0).random((*size, 3), np.float32)
  jobs = []
  for number in numbers:
    request = Request(("draw",), number)
    plan = sampler.budget.plan(size, request)
    together, window = samples_of_program(plan.batch), plan.tiling.size
    gflop = {
      method: count_flops(sampler.programs.trace(method, window, batch).jaxpr) / 1e9
      for method, batch in (("condition", 1), ("decode", together))
    }
    total = gflop_of_samples(plan, number, **gflop)
    needed = footprint(sampler.programs, window, request.methods, plan.batch).total(plan.batch) / GB

    def measure(request: Request = request, number: int = number) -> dict[str, float]:
      def run() -> None:
        for _ in sampler.draw(sampler.prepare(lr, request), 0, range(number), _TEMPERATURE):
          pass

      return {"s": median_seconds(run)}

    jobs.append((number, measure, total, needed))
  return jobs


def baseline(emit: Emit, sizes: Sizes, command: Sequence[str], seconds: float) -> None:
  """Times the PyTorch baseline, what matters most first, until the time is over."""
  end = time.monotonic() + seconds - 2
  train = ("train step, frozen encoder", ["--batch", str(sizes.batch), "--patch", str(sizes.patch)])

  def draw(size: Size, number: int) -> tuple[str, list[str]]:
    name = f"{number} sample{'s' * (number > 1)}, LR {size[0]}x{size[1]}"
    return name, ["--lr_size", *map(str, size), "--samples", str(number)]

  samples = [draw(size, number) for size in sizes.lr_sizes for number in sizes.samples]
  first = samples[0]
  half, compiled = ["--autocast"], ["--compile"]
  runs = [(train, half), (first, half), (train, half + compiled), (first, []), (train, [])]
  runs += [(train, compiled), *((sample, half) for sample in samples[1:]), (first, half + compiled)]
  runs += [(sample, []) for sample in samples[1:]]
  for (job, arguments), modes in runs:
    how = {"type": _type("--autocast" in modes), "mode": "compiled" if "--compile" in modes else ""}
    how["mode"] = how["mode"] or "eager"
    kind = "train" if job.startswith("train") else "sample"
    left = end - time.monotonic()
    if left < 1:
      emit(job=job, **how, error="no time left")
      continue
    try:
      done = subprocess.run(
        [*command, kind, *arguments, *modes], capture_output=True, text=True, timeout=left
      )
      if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        emit(job=job, **how, error=lines[-1][:300])
      else:
        emit(job=job, **how, s=json.loads(done.stdout.splitlines()[-1])["seconds"])
    except (subprocess.TimeoutExpired, ValueError, KeyError, IndexError) as error:
      emit(job=job, **how, error=_told(error))


def memory(emit: Emit, sizes: Sizes) -> None:
  """Memory of training steps and of large images."""
  config = load_config(sizes.first[0][0], sizes.small, bfloat16=True)
  model = build_model(config.model, ComputeSpec(**config.compute))
  params = jax.device_put(plausible_params(model))
  with _reported(emit, f"LR {sizes.largest[0]}x{sizes.largest[1]}"):
    _large_image(emit, model, params, sizes)
  with _reported(emit, "tiles against the whole"):
    _tiles_against_whole(emit, model, params, sizes)

  def step(what: str, batch: int, **compute: bool) -> float:
    spec = ComputeSpec(**config.compute.to_dict() | compute)
    of_kind = build_model(config.model, spec)
    begin = time.perf_counter()
    resized = dataclasses.replace(sizes, batch=batch)
    ((_, measure, _, needed),) = _train_job(of_kind, config, params, resized, of_kind.parts)
    compiled = time.perf_counter() - begin
    emit(what=f"train step, all, {what}, batch {batch}", GB=needed, compile_s=compiled, **measure())
    return needed

  with _reported(emit, "train step"):
    one = step("as it is", sizes.batch)
    with_remat = step("remat", sizes.batch, remat=True)
    two = step("as it is", 2 * sizes.batch)
    if limit := (jax.devices()[0].memory_stats() or {}).get("bytes_limit"):
      # What a patch needs, from two batches; the largest batch that leaves a tenth of it free.
      a_patch = (two - one) / sizes.batch
      most = int((0.9 * limit / GB - one) / a_patch) + sizes.batch
      step("the largest", most)
    emit(what="remat saves, share", GB=1 - with_remat / one)
  with _reported(emit, "unrolled"):
    step("unrolled", sizes.batch, unroll=True)


def _large_image(emit: Emit, model: Model, params: Any, sizes: Sizes) -> None:
  sampler = Sampler(model, params, sizes.largest_gb)
  lr = np.random.default_rng(0).random((*sizes.largest, 3), np.float32)
  begin = time.perf_counter()
  plan = sampler.budget.plan(sizes.largest, Request(("draw",)))
  compiled = time.perf_counter() - begin

  def run() -> None:
    for _ in sampler.draw(sampler.prepare(lr, Request(("draw",))), 0, range(1), _TEMPERATURE):
      pass

  begin = time.perf_counter()
  run()
  seconds = time.perf_counter() - begin
  stats = jax.devices()[0].memory_stats() or {}
  height, width = (side * model.scale for side in sizes.largest)
  emit(
    what=f"{width}x{height} within {sizes.largest_gb} GB: {len(plan.tiling.tiles)} tiles",
    GB=stats["peak_bytes_in_use"] / GB if "peak_bytes_in_use" in stats else None,
    compile_s=compiled,
    s=seconds,
  )


def _tiles_against_whole(emit: Emit, model: Model, params: Any, sizes: Sizes) -> None:
  exact = dataclasses.replace(model, compute=dataclasses.replace(model.compute, bfloat16=False))
  lr = np.random.default_rng(0).random((*sizes.whole, 3), np.float32)
  request, images, overlap = Request(("draw",)), [], 0
  # At the highest precision: else round-off, which depends on a program's size, hides the rest.
  with jax.default_matmul_precision("highest"):
    for counts in ((1, 1), (2, 2)):
      sampler = Sampler(exact, params)
      overlap = min(sampler.budget.overlap, sizes.whole[0] // 3) if counts[0] > 1 else 0
      tiling = cut(sizes.whole, counts, overlap, exact.lr_multiple)
      sampler.budget.use(sizes.whole, request, Plan(tiling))
      image = np.empty([side * exact.scale for side in sizes.whole] + [3], np.float32)
      for _, where, part in sampler.draw(sampler.prepare(lr, request), 0, range(1), _TEMPERATURE):
        image[where] = part
      images.append(image)
  emit(
    what=f"LR {sizes.whole[0]}x{sizes.whole[1]}: 2x2 tiles, overlap {overlap}, less the whole",
    largest_difference=float(np.abs(images[1] - images[0]).max()),
  )


@contextlib.contextmanager
def _reported(emit: Emit, what: str) -> Iterator[None]:
  """Emits an error in place of raising it, so that what follows is still measured."""
  try:
    yield
  except Exception as error:
    emit(what=what, error=_told(error))


def _told(error: Exception) -> str:
  return f"{type(error).__name__}: {error}".split("\n")[0][:300]


def _type(bfloat16: bool) -> str:
  return "bfloat16" if bfloat16 else "float32"
