"""Where a device's time goes: kernels of a training step and of a sample, for the accelerator."""

import collections
import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.accelerator_items import Sizes, compiled_step, load_config
from benchmarks.measuring import plausible_params
from srflow_jax.model.building import build_model
from srflow_jax.model.model import ComputeSpec
from srflow_jax.sampling.programs import Programs

Emit = Callable[..., None]

_RUNS = 3
_LARGEST = 12  # kernels that are named


@dataclasses.dataclass(frozen=True)
class Kernels:
  """What a device ran: milliseconds and launches by name of a kernel, and of all together.

  Attributes:
    by_name: (ms, launches) of each kernel.
    busy: ms in which at least one ran.
    span: ms from the begin of the first to the end of the last.
  """

  by_name: dict[str, tuple[float, float]]
  busy: float
  span: float


def profile(emit: Emit, sizes: Sizes) -> None:
  """Emits the kernels of the first model's programs; none where the profiler sees none, as on CPUs.

  While the profiler runs, kernels are launched one by one: `busy` is what counts, not `span`.
  """
  name, bfloat16 = sizes.first[0]
  config = load_config(name, sizes.small, bfloat16=bfloat16)
  model = build_model(config.model, ComputeSpec(**config.compute))
  params = jax.device_put(plausible_params(model))
  variables = {"params": params}
  programs = Programs(model, variables)
  jobs: dict[str, Callable[[], Any]] = {}
  for size in sizes.lr_sizes:
    for method in ("condition", "decode"):
      program = programs.trace(method, size).lower().compile()
      arguments = jax.tree.map(_random, program.args_info[0][1:])
      text = f"{method}, LR {size[0]}x{size[1]}"
      jobs[text] = functools.partial(program, variables, *arguments)
  for what, parts in (("frozen encoder", ("flow",)), ("all", model.parts)):
    jobs[f"train step, {what}"] = compiled_step(model, config, params, sizes, parts).run
  for job, run in jobs.items():
    found = kernels_of(run)
    launches = sum(count for _, count in found.by_name.values())
    emit(job=job, ms=found.busy, launches=launches, kernel=f"all, in a span of {found.span:.3g} ms")
    largest = sorted(found.by_name.items(), key=lambda item: -item[1][0])[:_LARGEST]
    for kernel, (milliseconds, count) in largest:
      emit(job=job, ms=milliseconds, launches=count, kernel=kernel[:90])


def _random(info: Any) -> jax.Array:
  numbers = np.random.default_rng(0).random(info.shape, np.float32)
  return jax.device_put(numbers.astype(info.dtype))


def kernels_of(run: Callable[[], Any]) -> Kernels:
  """Traces a few runs; the figures are of one."""
  jax.block_until_ready(run())
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder, profiler_options=options):
      for _ in range(_RUNS):
        jax.block_until_ready(run())
    (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(file))
  events = [
    (event.name, event.start_ns, event.duration_ns)
    for plane in data.planes
    if plane.name.startswith("/device:")
    for line in plane.lines
    if line.name.startswith("Stream")
    for event in line.events
  ]
  return summed(events, _RUNS)


def summed(events: list[tuple[str, float, float]], runs: int) -> Kernels:
  """Sums (name, begin, duration) of events, in ns, of so many equal runs, which may overlap."""
  spent, launches = collections.Counter(), collections.Counter()
  busy = end = 0.0
  for name, begin, duration in sorted(events, key=lambda event: event[1]):
    spent[name] += duration / runs / 1e6
    launches[name] += 1
    busy += max(0.0, begin + duration - max(end, begin))
    end = max(end, begin + duration)
  first = min((begin for _, begin, _ in events), default=0.0)
  by_name = {name: (spent[name], launches[name] / runs) for name in spent}
  return Kernels(by_name, busy / runs / 1e6, (end - first) / runs / 1e6)
