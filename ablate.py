"""Trains and evaluates the variants of a study, over seeds at one budget, and reports.

    python ablate.py --study=configs/studies/seed_small.py --workdir=runs/seed_small --dry_run
    python ablate.py --study=configs/studies/seed_small.py --workdir=runs/seed_small
    python ablate.py --study=configs/studies/seed_small.py --workdir=runs/seed_small --report

The same command, started on any number of machines that share the workdir, or once for each GPU of
one (CUDA_VISIBLE_DEVICES=0, 1, ...), divides the runs; given again, it goes on where it was.

SIGTERM or SIGINT saves the state and ends it with status 75. The status is 4 if a run failed.
"""

import pathlib
import shlex
import sys

from absl import flags

from srflow_jax import cli
from srflow_jax.errors import InputError

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
  "With --dry_run: predicts hours at so many 10^12 operations a second; 0: times a few steps here.",
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
_RETRY_FAILED = flags.DEFINE_bool("retry_failed", False, "Begins failed runs again.", _FLAGS)
_DEAD_AFTER = flags.DEFINE_float(
  "dead_after",
  180.0,
  "Seconds of silence after which another machine's run is taken over.",
  lower_bound=1.0,
  flag_values=_FLAGS,
)
flags.mark_flags_as_required(["study", "workdir"], flag_values=_FLAGS)


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

  study = load_study(
    _STUDY.value or "",
    _HR_DIR.value or "",
    train_dir=_TRAIN_DIR.value or "",
    val_dir=_VAL_DIR.value or "",
    encoder_init=_ENCODER_INIT.value or "",
  )
  folder: pathlib.Path = workdir_path(_WORKDIR.value or "")
  if _DRY_RUN.value:
    print(command.dry_run(study, _TFLOPS.value))
    return
  if _REPORT.value:
    print(command.report(study, folder))
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


if __name__ == "__main__":
  cli.run(main, _FLAGS, resumes=True)
