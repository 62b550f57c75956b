"""What `ablate.py` does: a dry run, the runs, the report."""

import pathlib
from collections.abc import Sequence

from srflow_jax.evaluation.report import human_count, human_seconds, markdown_table
from srflow_jax.studies import claims, costs, receptive_field, record, slurm
from srflow_jax.studies.planning import StudyPlan, plan, run_name, variant_configs
from srflow_jax.studies.progress import Display
from srflow_jax.studies.report import write_report
from srflow_jax.studies.results import collect
from srflow_jax.studies.runner import Options, failure, forget_failures, jobs_of, run_jobs
from srflow_jax.studies.stages import ROWS, RUNS, Job, commit
from srflow_jax.studies.study import Study


def dry_run(study: Study, tflops: float = 0.0) -> str:
  """Says what a study's runs cost.

  Args:
    study: the study.
    tflops: 10^12 operations a second, to predict times by; 0: a few steps of each are timed here.

  Returns:
    A table in Markdown and what stands under it.

  Raises:
    InputError: the study cannot be run.
  """
  planned = plan(study)
  each = len(planned.runs) // len(planned.configs)
  heading = ["variant", "parameters", "steps", "training FLOPs", "memory", "receptive field"]
  cells, total = [[*heading, "training a run", "runs"]], 0.0
  for name, config in planned.configs.items():
    measured = costs.measured(config, timed=not tflops)
    operations = costs.flops(config).of_run(config)
    seconds = operations / (tflops * 1e12) if tflops else measured.seconds.of_run(config)
    total += each * seconds
    sides = receptive_field.sides(config)
    cells.append(
      [
        name,
        human_count(sum(costs.parameters(config).values())),
        f"{config.num_train_steps:,}",
        f"{operations:.2e}",
        _human_bytes(measured.memory_bytes),
        ", ".join(str(side) for side in sides.values()) or "-",
        human_seconds(seconds),
        str(each),
      ]
    )
  return f"{markdown_table(cells)}\n{_note(planned, tflops, total)}"


def _human_bytes(number: int) -> str:
  return f"{number / 1e9:.3g} GB" if number >= 1e9 else f"{number / 1e6:.3g} MB"


def _note(planned: StudyPlan, tflops: float, seconds: float) -> str:
  rate = (
    f"the operations at {tflops:g} x 10^12 a second, as stated by --tflops"
    if tflops
    else f"a few steps of each variant, timed on this machine ({costs.device_kind()})"
  )
  return (
    f"{len(planned.runs)} runs with {planned.study.budget}: {human_seconds(seconds)} of training "
    "altogether; compilation, validation and evaluation of each run come on top and are not in "
    f"these figures. Times are predicted from {rate}. Memory is "
    "the compiler's figure for a step on this machine, parameters include the encoder's, and "
    "the receptive field is that of each stage and of all, in HR pixels a side."
  )


def run(
  study: Study,
  folder: pathlib.Path,
  command: str = "",
  dead_after: float = 180.0,
  wait: bool = True,
  retry_failed: bool = False,
) -> tuple[str, bool]:
  """Does the runs that nobody else does, and reports when all that this process waits for ended.

  Args:
    study: the study.
    folder: its folder.
    command: what was typed.
    dead_after: seconds of silence after which another machine's run is taken over.
    wait: whether to wait for others' runs.
    retry_failed: whether failed runs go on.

  Returns:
    What to tell the user, and whether a run failed.

  Raises:
    InputError: the study cannot be run, has changed since it began, or cannot be written.
    Interrupted: a signal came; the same command goes on.
  """
  commit()  # before the checkout may be moved on
  planned = record.begin(study, folder)
  jobs = jobs_of(planned, folder, command)
  timing = claims.Timing(min(15.0, dead_after / 4), dead_after)
  with Display(jobs) as display:
    run_jobs(jobs, folder, Options(command, timing, wait, retry_failed), display)
  failed = [f"{job.run.name}: {reason}" for job in jobs if (reason := failure(job))]
  lines = [write_report(folder), *_ending(jobs, failed)]
  lines.append(f"Tables, rows, sheets and the page report.html: {folder}")
  return "\n".join(lines), bool(failed)


def submit(
  study: Study,
  folder: pathlib.Path,
  command: Sequence[str],
  resources: slurm.Resources,
  retry_failed: bool = False,
) -> str:
  """Submits a study to a Slurm cluster, after all that can be checked here was checked.

  Args:
    study: the study.
    folder: its folder, which all machines of the cluster must share.
    command: what each job runs.
    resources: what each job asks for.
    retry_failed: whether failed runs go on. It is done here: a job that Slurm puts into the queue
      again would repeat it.

  Returns:
    What to tell the user.

  Raises:
    InputError: the study cannot be run, or Slurm refuses it.
  """
  if study.budget.seconds and not (folder / record.FILE).exists():
    variant_configs(study)  # a step is timed by the first job, on the device that counts
  else:
    planned = record.begin(study, folder)
    if retry_failed:
      forget_failures(jobs_of(planned, folder), claims.Timing())
  jobs = slurm.submit(folder, command, resources)
  return f"submitted {', '.join(jobs)}; their output: {folder / slurm.FOLDER}"


def _ending(jobs: Sequence[Job], failed: Sequence[str]) -> list[str]:
  left = [job.run.name for job in jobs if job.left() and not failure(job)]
  lines = [f"not done yet: {', '.join(left)}"] if left else []
  return lines + [f"failed: {line}" for line in failed]


def report(folder: pathlib.Path) -> str:
  """Reports on the runs that a study's folder has; the data need not be there.

  Without the runs themselves, what `runs.csv` says of them is taken.

  Raises:
    InputError: there is no study in the folder, or a file of it is damaged.
  """
  found = record.read_record(folder)
  rates = found["learning_rates"] or [None]
  folders = [
    folder / RUNS / run_name(name, seed, rate) / ROWS
    for seed in found["seeds"]
    for name in found["variants"]
    for rate in rates
  ]
  if any(rows.exists() for rows in folders):
    collect(folders, folder / "runs.csv", kept=True)
  return write_report(folder)
