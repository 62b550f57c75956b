"""What is done with one run of a study, stage by stage; each stage leaves a table of what it found.

RUN/rows/train.csv            parameters, operations, times, skipped steps, curves
RUN/rows/evaluation.csv       the scores of every image
RUN/rows/jpeg20.csv, ...      how samples fare on LR images unlike those of training
RUN/rows/receptive_field.csv  what is lost where LR is hidden beyond a radius

A stage whose table is there is not done again. RUN itself is a workdir of `train.py`.
"""

import dataclasses
import functools
import itertools
import pathlib
import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from srflow_jax.config import Config
from srflow_jax.evaluation import Settings
from srflow_jax.evaluation.run import Memory, evaluate_workdirs
from srflow_jax.files import read_json, write_json
from srflow_jax.images import write_png
from srflow_jax.studies import costs, receptive_field
from srflow_jax.studies.degraded import write_degraded
from srflow_jax.studies.planning import PlannedRun, StudyPlan, evaluation_folders, sheet_images
from srflow_jax.studies.results import SEVERAL, Row, write_rows
from srflow_jax.studies.study import BICUBIC
from srflow_jax.training.events import Scalar, read_scalars
from srflow_jax.training.loop import train

RUNS = "runs"  # the study's folder of runs
ROWS = "rows"  # a run's folder of tables
_DEVICES = "devices.json"  # of a run: the kinds of devices that it was on
_NOT_FINITE = ("nan", "inf", "-inf")  # numbers that JSON holds as texts
HR = "hr"  # the study's folder of HR images for the sheets


@dataclasses.dataclass(frozen=True)
class Job:
  """A run, with all that its stages need.

  Attributes:
    plan: the study.
    run: the run.
    folder: its folder.
    command: what was typed, for the reports of evaluations.
  """

  plan: StudyPlan
  run: PlannedRun
  folder: pathlib.Path
  command: str

  def stages(self) -> dict[str, Callable[["Job"], Iterator[Row]]]:
    """The stages by name, in order."""
    evaluation = self.plan.study.evaluation
    found: dict[str, Callable[[Job], Iterator[Row]]] = {"train": _train, "evaluation": _evaluate}
    found |= {kind: functools.partial(_degraded, kind=kind) for kind in evaluation.degraded}
    if evaluation.receptive_field_images:
      found["receptive_field"] = _receptive_field
    return found

  def left(self) -> list[str]:
    """The stages that are not done yet."""
    return [name for name in self.stages() if not self.table(name).exists()]

  def table(self, stage: str) -> pathlib.Path:
    """Where a stage's table is."""
    return self.folder / ROWS / f"{stage}.csv"

  @functools.cached_property
  def _devices(self) -> list[str]:
    """The kinds of devices that the run was on, this one last; read once, for thousands of rows."""
    path, own = self.folder / _DEVICES, costs.device_kind()
    before = read_json(path) if path.exists() else []
    return [kind for kind in before if kind != own] + [own]

  def do(self, stage: str) -> None:
    """Does a stage.

    Raises:
      InputError: it failed, or its table cannot be written.
      Interrupted: a signal came.
    """
    write_json(self.folder / _DEVICES, self._devices)
    rows = list(self.stages()[stage](self))
    self.table(stage).parent.mkdir(exist_ok=True)
    write_rows(self.table(stage), rows)

  def row(self, metric: str, value: float | str, image: str = "", step: int | None = None) -> Row:
    """A row of a table of this run's; without a step, of the end of its training."""
    config = self.run.config
    return Row(
      variant=self.run.variant,
      learning_rate=config.optim.learning_rate,
      seed=self.run.seed,
      step=config.num_train_steps if step is None else step,
      image=image,
      metric=metric,
      value=value,
      commit=commit(),
      device=SEVERAL.join(self._devices),
      config=self.run.digest,
    )


@functools.cache
def commit() -> str:
  """The commit of the code that runs; "unknown" outside of a repository."""
  root = pathlib.Path(__file__).parents[2]

  def git(*arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

  try:
    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short=12", "HEAD") + ("-changed" if changed else "")
  except (OSError, subprocess.CalledProcessError):
    return "unknown"


def _train(job: Job) -> Iterator[Row]:
  config = job.run.config
  state = train(config, job.folder)
  for part, number in costs.parameters(config).items():
    yield job.row(f"params_{part}", number)
  yield job.row("train_flops", costs.flops(config).of_run(config))
  for name, pixels in receptive_field.sides(config).items():
    yield job.row(name, pixels)
  yield job.row("skipped", int(state.skipped))
  yield job.row("rate_factor", float(state.rate_factor))
  scalars = read_scalars(job.folder)
  seconds = _seconds(scalars.get("train/learning_rate", {}), config)
  if seconds:
    yield job.row("train_seconds", seconds)
    yield job.row("step_seconds", seconds / config.num_train_steps)
  for tag, steps in sorted(scalars.items()):
    if tag.startswith("validation/"):
      for step, scalar in sorted(steps.items()):
        yield job.row(tag, scalar.value, step=step)


def _seconds(logged: Mapping[int, Scalar], config: Config) -> float:
  """How long training takes, by when steps were logged; 0 if too few of a phase were.

  That is the median time of a step, of those with a frozen encoder and of those after, times their
  number. So neither compilation nor what happened between a kill and a new start counts.
  """
  frozen = config.frozen_steps
  by_phase = {phase: [] for phase in ("frozen", "full")}
  for (earlier, before), (step, after) in itertools.pairwise(sorted(logged.items())):
    if after.time > before.time and not earlier < frozen < step:
      phase = by_phase["frozen" if step <= frozen else "full"]
      phase.append((after.time - before.time) / (step - earlier))
  medians = {name: statistics.median(taken) if taken else 0.0 for name, taken in by_phase.items()}
  steps = costs.PerStep(float(frozen), float(config.num_train_steps - frozen))
  unknown = (steps.frozen and not medians["frozen"]) or (steps.full and not medians["full"])
  return 0.0 if unknown else costs.PerStep(**medians).of_run(config)


def _settings(job: Job) -> tuple[Settings, Memory]:
  evaluation = job.plan.study.evaluation
  settings = Settings(evaluation.num_samples, evaluation.temperature, evaluation.seed)
  return settings, Memory(evaluation.max_memory_gb)


def _evaluate(job: Job) -> Iterator[Row]:
  folders = evaluation_folders(job.plan.study, job.plan.configs[job.plan.study.base_name])
  for image in sheet_images(job.plan.study, job.run.config.model.scale, *folders):
    path = job.folder.parents[1] / HR / f"{image.name}.png"
    if not path.exists():  # the report needs no more than the study's folder
      hr = image.read(job.run.config.model.scale)[1]
      assert hr is not None  # a study's evaluation has HR images
      write_png(path, hr)
  yield from _scores(job, *folders, job.folder / "evaluation")


def _degraded(job: Job, kind: str) -> Iterator[Row]:
  folders = evaluation_folders(job.plan.study, job.plan.configs[job.plan.study.base_name])
  number = job.plan.study.evaluation.degraded_images
  folder = job.folder / kind
  hr_dir, lr_dir = write_degraded(folder, kind, job.run.config.model.scale, *folders, number)
  for row in _scores(job, str(hr_dir), str(lr_dir), folder / "evaluation"):
    yield dataclasses.replace(row, metric=f"{kind}/{row.metric}")


def _scores(job: Job, hr_dir: str, lr_dir: str, output: pathlib.Path) -> Iterator[Row]:
  settings, memory = _settings(job)
  evaluate_workdirs(
    [str(job.folder)], hr_dir, lr_dir, str(output), settings, job.command, memory=memory
  )
  systems = read_json(output / "summary.json")["systems"]
  name = job.folder.resolve().name
  yield from _of_images(job, systems[name]["images"])
  for row in _of_images(job, systems[BICUBIC]["images"]):  # the same beside all runs
    yield dataclasses.replace(row, variant=BICUBIC, step=0)


def _of_images(job: Job, images: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
  for image, scores in images.items():
    for metric, value in scores.items():
      number = isinstance(value, int | float) or value in _NOT_FINITE
      if number and metric not in ("height", "width"):
        yield job.row(metric, float(value), image)
    counts = [scores["per_sample"][name] for name in ("not_finite", "outside")]
    broken = [any(values) for values in zip(*counts, strict=True)]
    yield job.row("broken_samples", sum(broken) / len(broken), image)


def _receptive_field(job: Job) -> Iterator[Row]:
  folders = evaluation_folders(job.plan.study, job.plan.configs[job.plan.study.base_name])
  number = job.plan.study.evaluation.receptive_field_images
  for image, measured in receptive_field.in_bits(job.folder, *folders, number).items():
    for metric, value in measured.items():
      yield job.row(metric, value, image)
