"""Evaluates a trained model beside bicubic, or draws its samples of LR images.

python evaluate.py --workdir=W                    # on the validation photographs of W's training
python evaluate.py --workdir=W --hr_dir=PHOTOS    # LR images made by MATLAB's bicubic
python evaluate.py --workdir=W --hr_dir=HR --lr_dir=LR    # paired by name
python evaluate.py --workdir=W --lr_dir=LR        # samples alone
"""

import shlex
import sys

from absl import flags

from srflow_jax import cli
from srflow_jax.errors import InputError
from srflow_jax.evaluation import Settings
from srflow_jax.evaluation.run import evaluate_workdir

_DEFAULT = Settings()

_WORKDIR = flags.DEFINE_string("workdir", None, "The training run's folder.", required=True)
_HR_DIR = flags.DEFINE_string("hr_dir", "", "Folder of HR images.")
_LR_DIR = flags.DEFINE_string("lr_dir", "", "Folder of LR images.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "", "Where to write; default: WORKDIR/evaluation.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", _DEFAULT.num_samples, "Samples of each image.")
_TEMPERATURE = flags.DEFINE_float(
  "temperature", _DEFAULT.temperature, "Standard deviation of the latents."
)
_SEED = flags.DEFINE_integer("seed", _DEFAULT.seed, "Sample i is a function of the seed and i.")
_UINT8 = flags.DEFINE_string(
  "uint8", _DEFAULT.uint8_mode, "How floats become 8 bits: round, or truncate as published."
)


def main(argv: list[str]) -> None:
  """Evaluates as the flags say and prints the table."""
  if len(argv) > 1:
    raise InputError(f"unexpected argument: {argv[1]}")
  settings = Settings(
    num_samples=_NUM_SAMPLES.value,
    temperature=_TEMPERATURE.value,
    seed=_SEED.value,
    uint8_mode=_UINT8.value,
  )
  command = shlex.join(["python", *sys.argv])
  print(
    evaluate_workdir(
      _WORKDIR.value, _HR_DIR.value, _LR_DIR.value, _OUTPUT_DIR.value, settings, command
    )
  )


if __name__ == "__main__":
  cli.run(main)
