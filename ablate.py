"""Trains and evaluates the variants of a study, over seeds at one budget, and reports.

    python ablate.py --study=configs/studies/seed_small.py --workdir=runs/seed_small --dry_run
    python ablate.py --study=configs/studies/seed_small.py --workdir=runs/seed_small
    python ablate.py --workdir=runs/seed_small --report
    python ablate.py ... --slurm --slurm_partition=P --slurm_gpus=1 --slurm_array=16

The same command, started on any number of machines that share the workdir, or once for each GPU of
one (CUDA_VISIBLE_DEVICES=0, 1, ...), divides the runs; given again, it goes on where it was.

SIGTERM, SIGINT or SIGHUP saves the state and ends it with status 75. The status is 4 if a run
failed.
"""

import pathlib
import shlex
import sys
import typing

from absl import flags

from srflow_jax import cli
from srflow_jax.errors import InputError

if typing.TYPE_CHECKING:
  from srflow_jax.studies.study import Study

RUN_FAILED = 4

_FLAGS = flags.FlagValues()
_STUDY = cli.define_path("study", None, "The study's file, a Python file.", _FLAGS)
_WORKDIR = cli.define_path("workdir", None, "The study's folder.", _FLAGS)
_DRY_RUN = flags.DEFINE_bool(
  "dry_run", False, "Checks the study and says what its runs cost; nothing is written.", _FLAGS
)
_TFLOPS = flags.DEFINE_float(
  "tflops",
  0.0,
  "With --dry_run: predicts times at so many 10^12 operations a second; 0: times a few steps here.",
  lower_bound=0.0,
  flag_values=_FLAGS,
)
_REPORT = flags.DEFINE_bool(
  "report", False, "Reports on the runs that there are, and runs nothing.", _FLAGS
)
_TRAIN_DIR = cli.define_path("train_dir", "", "Training images, not those of the file.", _FLAGS)
_VAL_DIR = cli.define_path("val_dir", "", "Validation images of training, likewise.", _FLAGS)
_HR_DIR = cli.define_path("hr_dir", "", "HR images of the evaluation, likewise.", _FLAGS)
_ENCODER_INIT = cli.define_path("encoder_init", "", "The encoder's weights, likewise.", _FLAGS)
_WAIT = flags.DEFINE_bool(
  "wait", True, "Waits for other machines' runs, to take them over if these die.", _FLAGS
)
_RETRY_FAILED = flags.DEFINE_bool("retry_failed", False, "Lets failed runs go on.", _FLAGS)
_DEAD_AFTER = flags.DEFINE_float(
  "dead_after",
  180.0,
  "Seconds of silence after which another machine's run is taken over.",
  lower_bound=1.0,
  flag_values=_FLAGS,
)
_SLURM = flags.DEFINE_bool(
  "slurm", False, "Submits the study to a Slurm cluster, as an array of jobs.", _FLAGS
)
_SLURM_PARTITION = flags.DEFINE_string("slurm_partition", "", "Its partition.", flag_values=_FLAGS)
_SLURM_GPUS = flags.DEFINE_integer(
  "slurm_gpus", 0, "GPUs of each job.", lower_bound=0, flag_values=_FLAGS
)
_SLURM_CPUS = flags.DEFINE_integer(
  "slurm_cpus", 4, "Processors of each job.", lower_bound=1, flag_values=_FLAGS
)
_SLURM_ARRAY = flags.DEFINE_integer(
  "slurm_array", 1, "How many jobs.", lower_bound=1, flag_values=_FLAGS
)
_SLURM_MINUTES = flags.DEFINE_integer(
  "slurm_minutes",
  24 * 60,
  "After which a job saves its run and is put into the queue again.",
  lower_bound=1,
  flag_values=_FLAGS,
)
flags.mark_flag_as_required("workdir", flag_values=_FLAGS)


def main(argv: list[str]) -> None:
  """Does what the flags say."""
  if len(argv) > 1:
    raise InputError(f"unexpected argument: {argv[1]}")
  if _DRY_RUN.value and _REPORT.value:
    raise InputError("--dry_run and --report: give one of them")
  # Here, not above: what takes seconds to import comes after signals and mistakes are answered.
  from srflow_jax.runs import workdir_path
  from srflow_jax.studies import command
  from srflow_jax.studies.study import load_study

  folder: pathlib.Path = workdir_path(_WORKDIR.value or "")
  if _REPORT.value:
    print(command.report(folder))
    return
  if not _STUDY.value:
    raise InputError("--study: which? Only --report can do without it")
  study = load_study(
    _STUDY.value,
    _HR_DIR.value or "",
    train_dir=_TRAIN_DIR.value or "",
    val_dir=_VAL_DIR.value or "",
    encoder_init=_ENCODER_INIT.value or "",
  )
  if _DRY_RUN.value:
    print(command.dry_run(study, _TFLOPS.value))
    return
  if _SLURM.value:
    print(_submit(study, folder))
    return
  text, failed = command.run(
    study,
    folder,
    shlex.join(["python", *sys.argv]),
    dead_after=_DEAD_AFTER.value,
    wait=_WAIT.value,
    retry_failed=_RETRY_FAILED.value,
  )
  print(text)
  if failed:
    sys.exit(RUN_FAILED)


def _submit(study: "Study", folder: pathlib.Path) -> str:
  from srflow_jax.studies import command, slurm

  flags_of_jobs = [
    flag.serialize()
    for name, flag in ((name, _FLAGS[name]) for name in _FLAGS)
    if flag.present and not name.startswith("slurm") and name not in ("wait", "retry_failed")
  ]
  program = str(pathlib.Path(__file__).resolve())
  resources = slurm.Resources(
    _SLURM_PARTITION.value or "",
    _SLURM_GPUS.value or 0,
    _SLURM_CPUS.value or 1,
    _SLURM_ARRAY.value or 1,
    _SLURM_MINUTES.value or 1,
  )
  # Slurm itself starts a job anew whose machine died, so none waits for others with its GPUs idle.
  started = [sys.executable, program, *flags_of_jobs, "--nowait"]
  return command.submit(study, folder, started, resources, bool(_RETRY_FAILED.value))


if __name__ == "__main__":
  cli.run(main, _FLAGS, resumes=True)
