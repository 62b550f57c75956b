"""Trains a model; run again, the same command goes on where it stopped.

    python train.py --config=configs/x4_da.py --workdir=W --config.data.train_dir=PHOTOS

Any field of the configuration can be changed: `--config.model.stages[0].steps=4`. All fields stand
in `configs/base.py`.

Of several processes, on one machine or more, each is started with the address of the first and its
own number. They share the workdir:

    python train.py ... --coordinator=HOST:PORT --num_processes=2 --process_id=0
    python train.py ... --coordinator=HOST:PORT --num_processes=2 --process_id=1

SIGTERM, SIGINT or SIGHUP (a closed terminal; not under nohup) saves the state and ends the run with
status 75; a second SIGTERM or SIGINT ends it at once.
"""

from absl import flags
from ml_collections import config_flags

from srflow_jax import cli
from srflow_jax.errors import InputError

_FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A configuration file.", flag_values=_FLAGS
)
_WORKDIR = cli.define_path("workdir", None, "The run's folder.", _FLAGS)
_ALLOW_CHANGE = flags.DEFINE_bool(
  "allow_config_change",
  False,
  "Go on with another configuration, or other images, than the run was begun with.",
  flag_values=_FLAGS,
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator",
  None,
  "HOST:PORT at which process 0 listens, if there are several processes.",
  flag_values=_FLAGS,
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", None, "Of this run.", lower_bound=1, flag_values=_FLAGS
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "This one's, from 0.", lower_bound=0, flag_values=_FLAGS
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "In place of these three: take them from SLURM, Open MPI or the cloud.",
  flag_values=_FLAGS,
)
flags.mark_flags_as_required(["config", "workdir"], flag_values=_FLAGS)


def main(argv: list[str]) -> None:
  """Trains as the flags say."""
  if len(argv) > 1:
    raise InputError(f"unexpected argument: {argv[1]}")
  # Here, not above: what takes seconds to import comes after signals and mistakes are answered.
  from srflow_jax.runs import workdir_path
  from srflow_jax.training import distributed
  from srflow_jax.training.loop import train

  workdir = workdir_path(_WORKDIR.value or "")
  distributed.initialize(
    _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _DISTRIBUTED.value
  )
  train(_CONFIG.value, workdir, _ALLOW_CHANGE.value)


if __name__ == "__main__":
  cli.run(main, _FLAGS, resumes=True)
