"""Times a model's training step and sampling, in turns with a PyTorch baseline if one is given.

python -m benchmarks.speed --config=configs/x4_da.py [--lr_sizes=64,128] [--jobs=train,sample]
    [--baseline=FILE.py [--python=INTERPRETER_WITH_PYTORCH]] [--rounds=3] [--json=FILE]

Training is of the flow alone, with a frozen encoder, on random patches; a sample is what
`srflow_jax.sampling` draws for `evaluate.py`. In each round every job runs once, ours and then the
baseline's, so that both meet the same machine; the table gives medians over rounds and their ratio
(baseline over ours: above 1 ours is faster). Compilation is timed first: with an empty compilation
cache, and again with what that left there. The baseline (`train` and `sample` of a script that
prints JSON with "seconds", after a warm-up) has to be of the same model: it is asked only for
SRFlow-DA. Memory is the compiler's figure for our programs, weights included, and the peak of the
baseline's process. GFLOP are those of the programs' convolutions and matrix products, as
`srflow_jax.ops.costs` counts them; beside them stands what a second does of them, as a share of
what the device does in a large matrix product (bfloat16 on an accelerator, float32 on a CPU).

On a CPU, JAX_NUM_CPU_DEVICES=N splits the training batch over N devices, one a core at best.
"""

import functools
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import config_flags

from benchmarks.measuring import GB, gflop_of_samples, peak_gflops, program_gb, random_batch
from configs import x4_da, x8_da
from srflow_jax import cli
from srflow_jax.config import read_config
from srflow_jax.errors import InputError
from srflow_jax.model.building import build_model, init_params
from srflow_jax.model.features import Given
from srflow_jax.model.model import Model
from srflow_jax.ops.costs import count_flops
from srflow_jax.sampling.budget import Request, samples_of_program
from srflow_jax.sampling.sampler import Sampler, Seconds
from srflow_jax.training.devices import data_mesh, put_batch, put_replicated
from srflow_jax.training.step import create_state, make_train_step

_CONFIG = config_flags.DEFINE_config_file("config", None, "A configuration file.")
_JOBS = flags.DEFINE_list("jobs", ["train", "sample"], "What to time.")
_BATCH = flags.DEFINE_integer("batch", 2, "Patches of a training step.", lower_bound=1)
_PATCH = flags.DEFINE_integer("patch", 160, "HR pixels a side of them.", lower_bound=1)
_TRAIN_ENCODER = flags.DEFINE_bool("train_encoder", False, "Train the encoder too; no baseline.")
_LR_SIZES = flags.DEFINE_list("lr_sizes", ["64"], "LR images to sample: S, or HEIGHTxWIDTH.")
_SAMPLES = cli.define_numbers("samples", [1, 10], "Samples of one LR image.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds that medians are taken over.", lower_bound=1)
_BASELINE = flags.DEFINE_string("baseline", "", "The baseline's script; '': none.")
_PYTHON = flags.DEFINE_string("python", sys.executable, "What runs it.")
_BASELINE_FLAGS = flags.DEFINE_string("baseline_flags", "", "More flags for it.")
_JSON = flags.DEFINE_string("json", "", "File to write the figures to.")
flags.mark_flag_as_required("config")

# Runs a command and prints the peak of its memory. Linux counts as a process's peak also that of
# the one that started it, which therefore has to be small: this one, not ours.
_WITH_PEAK = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


class Program(NamedTuple):
  """What a job runs, and what tracing and compiling it took."""

  name: str
  cold_seconds: float
  cached_seconds: float
  memory_gb: float
  gflop: float


class Job(NamedTuple):
  """What is timed.

  Attributes:
    name: of the row.
    run: does it once and returns seconds by name; "seconds" is the whole.
    programs: that it runs.
    gflop: that they do for it, 10^9 floating-point operations.
    baseline: the baseline's arguments; () for none.
  """

  name: str
  run: Callable[[], dict[str, float]]
  programs: tuple[Program, ...]
  gflop: float
  baseline: tuple[str, ...]


def main(argv: list[str]) -> None:
  """Compiles, measures in turns and prints the table."""
  del argv
  config = _CONFIG.value
  if unknown := set(_JOBS.value) - {"train", "sample"}:
    raise InputError(f"--jobs: unknown: {', '.join(sorted(unknown))}")
  sizes = [_size(text) for text in _LR_SIZES.value]
  if _JSON.value and not pathlib.Path(_JSON.value).parent.is_dir():
    raise InputError(f"--json={_JSON.value}: no such folder: {pathlib.Path(_JSON.value).parent}")
  baseline = _baseline_command(config)
  config = read_config(config)
  model = build_model(config.model, config.compute)
  params = _random_params(model)
  jobs = [_train_job(model, config, params)] if "train" in _JOBS.value else []
  if "sample" in _JOBS.value:
    jobs += [job for size in sizes for job in _sample_jobs(model, params, size)]
  first = {job.name: job.run()["seconds"] for job in jobs}  # also the warm-up
  taken = {job.name: {"ours": [], "baseline": []} for job in jobs}
  for round_number in range(_ROUNDS.value):
    for job in jobs:
      print(f"round {round_number + 1} of {_ROUNDS.value}: {job.name}", file=sys.stderr)
      taken[job.name]["ours"].append(job.run())
      if baseline and job.baseline:
        taken[job.name]["baseline"].append(_run_baseline([*baseline, *job.baseline]))
  peak = peak_gflops()
  figures = {
    "peak_gflops": peak,
    "device": f"{jax.devices()[0].device_kind} x {jax.device_count()}",
    "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    "date": time.strftime("%Y-%m-%d"),
    "command": " ".join(["python -m benchmarks.speed", *sys.argv[1:]]),
    "jobs": [_summary(job, first[job.name], peak, **taken[job.name]) for job in jobs],
  }
  print(_table(figures))
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(figures, indent=2) + "\n")


def _random_params(model: Model) -> dict[str, Any]:
  size = 2 * model.lr_multiple
  rng = np.random.default_rng(0)
  lr = rng.random((1, size, size, 3), np.float32)
  hr = rng.random((1, size * model.scale, size * model.scale, 3), np.float32)
  return init_params(model, jax.random.key(0), hr, Given(lr))


def _baseline_command(config: Any) -> list[str]:
  if not _BASELINE.value:
    return []
  if not os.path.isfile(_BASELINE.value):
    raise InputError(f"--baseline={_BASELINE.value}: no such file")
  if config.model.to_dict() not in [c.get_config().model.to_dict() for c in (x4_da, x8_da)]:
    print("no baseline: it is of SRFlow-DA, the configuration of another model", file=sys.stderr)
    return []
  try:
    subprocess.run([_PYTHON.value, "-c", "import torch"], check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    print(f"no baseline: {_PYTHON.value} cannot import torch", file=sys.stderr)
    return []
  flags_for_it = _BASELINE_FLAGS.value.split()
  return [_PYTHON.value, _BASELINE.value, "--scale", str(config.model.scale), *flags_for_it]


def _run_baseline(command: list[str]) -> dict[str, float]:
  """Seconds as the script prints them, and the peak of its memory in 10^9 bytes."""
  python, script, *arguments, job = command
  command = [python, script, job, *arguments, "--repeats", "1"]
  run = subprocess.run(
    [sys.executable, "-c", _WITH_PEAK, *command], stdout=subprocess.PIPE, text=True
  )
  if run.returncode:
    raise InputError(f"the baseline failed: {' '.join(command)}")
  *_, result, peak_kb = run.stdout.splitlines()
  return {"seconds": json.loads(result)["seconds"], "memory_gb": int(peak_kb) * 1024 / GB}


def _compile(name: str, trace: Callable[[], jax.stages.Traced]) -> tuple[Any, Program]:
  """Traces and compiles, with an empty cache and then with what that left there."""
  seconds, usual = [], jax.config.jax_compilation_cache_dir
  with tempfile.TemporaryDirectory() as cache:
    jax.config.update("jax_compilation_cache_dir", cache)
    for _ in range(2):
      jax.clear_caches()
      compilation_cache.reset_cache()
      begin = time.perf_counter()
      traced = trace()
      program = traced.lower().compile()
      seconds.append(time.perf_counter() - begin)
  jax.config.update("jax_compilation_cache_dir", usual)
  compilation_cache.reset_cache()
  gflop = count_flops(traced.jaxpr) / 1e9
  return program, Program(name, *seconds, program_gb(program), gflop)


def _train_job(model: Model, config: Any, params: dict[str, Any]) -> Job:
  batch, patch = _BATCH.value, _PATCH.value
  parts = model.parts if _TRAIN_ENCODER.value or len(model.parts) == 1 else ("flow",)
  mesh = data_mesh()
  state = put_replicated(mesh, create_state(config.optim, params, jax.random.key(0)))
  images = put_batch(mesh, random_batch(batch, patch, model.scale))
  step, program = _compile(
    "train step", lambda: make_train_step(model, config, parts).trace(state, images)
  )

  def run() -> dict[str, float]:
    nonlocal state
    begin = time.perf_counter()
    state, metrics = step(state, images)
    float(metrics[model.loss_name])
    return {"seconds": time.perf_counter() - begin}

  baseline = ("--batch", str(batch), "--patch", str(patch), "train")
  name = f"train step, batch {batch}, patch {patch}" + ", encoder too" * _TRAIN_ENCODER.value
  return Job(name, run, (program,), program.gflop, () if _TRAIN_ENCODER.value else baseline)


def _size(text: str) -> tuple[int, int]:
  """Height and width, of `S` or `HEIGHTxWIDTH`."""
  if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", text):
    raise InputError(f"--lr_sizes: {text!r}: a size is S or HEIGHTxWIDTH")
  height, _, width = text.partition("x")
  return int(height), int(width or height)


def _sample_jobs(model: Model, params: dict[str, Any], size: tuple[int, int]) -> list[Job]:
  height, width = size
  lr = np.random.default_rng(0).random((height, width, 3), np.float32)
  sampler = Sampler(model, params)

  def job(number: int) -> Job:
    request = Request(("draw",), number)
    plan = sampler.budget.plan((height, width), request)
    together = samples_of_program(plan.batch)
    batches = {"condition": 1, "noise": together, "decode": together}
    programs = tuple(
      _compile(method, functools.partial(sampler.programs.trace, method, plan.tiling.size, batch))[
        1
      ]
      for method, batch in batches.items()
    )
    condition, _, decode = programs
    gflop = gflop_of_samples(plan, number, condition.gflop, decode.gflop)

    def run() -> dict[str, float]:
      spent, begin = Seconds(), time.perf_counter()
      for _ in sampler.draw(sampler.prepare(lr, request, spent), 0, range(number), 0.9, spent):
        pass
      seconds = time.perf_counter() - begin
      return {"seconds": seconds, "context": spent.context, "a sample": spent.samples / number}

    arguments = ("--lr_size", str(height), str(width), "--samples", str(number), "sample")
    plural = "s" * (number > 1)
    return Job(f"{number} sample{plural}, LR {height}x{width}", run, programs, gflop, arguments)

  return [job(number) for number in _SAMPLES.value]


def _summary(
  job: Job, first: float, peak: float, ours: list[dict], baseline: list[dict]
) -> dict[str, Any]:
  """A job's medians."""

  def median(rows: list[dict], name: str) -> float | None:
    return statistics.median(row[name] for row in rows) if rows else None

  summary = {name: median(ours, name) for name in ours[0]}
  theirs = median(baseline, "seconds")
  return {
    "job": job.name,
    **summary,
    "first_run": first,
    "gflop": job.gflop,
    "share_of_peak": job.gflop / summary["seconds"] / peak,
    "baseline": theirs,
    "ratio": theirs and theirs / summary["seconds"],
    "baseline_memory_gb": median(baseline, "memory_gb"),
    "programs": [program._asdict() for program in job.programs],
    "rounds": {"ours": ours, "baseline": baseline},
  }


def _table(figures: dict[str, Any]) -> str:
  def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"

  lines = [
    f"{figures['device']}; {figures['machine']}; {figures['date']}; `{figures['command']}`; "
    f"a large matrix product: {figures['peak_gflops']:.0f} GFLOP/s",
    "",
    "| job | s | context, s | a sample, s | baseline, s | ratio |"
    " compile, s: cold / cached | first run, s | memory, GB: ours / baseline |"
    " GFLOP | share of peak |",
    f"|{' --- |' * 11}",
  ]
  for job in figures["jobs"]:
    programs = job["programs"]
    cells = [
      job["job"],
      number(job["seconds"], 3),
      number(job.get("context"), 3),
      number(job.get("a sample"), 3),
      number(job["baseline"], 3),
      number(job["ratio"]),
      "{:.1f} / {:.1f}".format(
        *(sum(p[f"{kind}_seconds"] for p in programs) for kind in ("cold", "cached"))
      ),
      number(job["first_run"]),
      f"{max(p['memory_gb'] for p in programs):.2f} / {number(job['baseline_memory_gb'])}",
      number(job["gflop"], 0),
      number(job["share_of_peak"]),
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


if __name__ == "__main__":
  cli.run(main)
