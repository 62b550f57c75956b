"""Evaluates a trained model beside bicubic, or draws its samples of LR images.

python evaluate.py --workdir=W                    # on the validation photographs of W's training
python evaluate.py --workdir=W --hr_dir=PHOTOS    # LR images made by MATLAB's bicubic
python evaluate.py --workdir=W --hr_dir=HR --lr_dir=LR    # paired by name
python evaluate.py --workdir=W --lr_dir=LR        # samples alone, of any size
python evaluate.py --workdir=V --workdir=W --temperatures=0,0.8,0.9    # in one table
python evaluate.py --workdir=W --temperatures=0.8/0.9,0.9/0.8    # of each level, finest first
python evaluate.py --workdir=W --temperatures=search --num_samples=4    # notes the best one in W
python evaluate.py --workdir=W --checkpoint=best --noema
python evaluate.py --workdir=W --estimates        # also the mean and the medoid of the samples
python evaluate.py --workdir=W --denoise          # also samples without the training's noise
python evaluate.py --workdir=W --consistent       # also samples that agree with the LR image

Killed, it goes on where it was if the same command is given again. The exit status is 3 if samples
have values that are not finite: they count as black, and the last line names them. A search leaves
out temperatures with such samples.
"""

import shlex
import sys
from typing import Literal

from absl import flags

from srflow_jax import cli
from srflow_jax.errors import InputError
from srflow_jax.sampling.temperatures import Temperature, parse_temperature

NOT_FINITE = 3
_SEARCH = "search"

_FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_multi(
  cli.PathParser(),
  flags.ArgumentSerializer(),
  "workdir",
  None,
  "A training run's folder; give it again to compare runs.",
  required=True,
  flag_values=_FLAGS,
)
_HR_DIR = cli.define_path("hr_dir", "", "Folder of HR images.", flag_values=_FLAGS)
_LR_DIR = cli.define_path("lr_dir", "", "Folder of LR images.", flag_values=_FLAGS)
_OUTPUT_DIR = cli.define_path(
  "output_dir", "", "Where to write; default: WORKDIR/evaluation.", flag_values=_FLAGS
)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 10, "Samples of each image.", flag_values=_FLAGS)
_TEMPERATURE = cli.define_temperature(
  "temperature",
  0.9,
  "Standard deviation of the latents, or of each level of them, finest first: 0.8/0.9. If none is "
  "given, it is the one that a search has chosen for a run, where there is one.",
  flag_values=_FLAGS,
)
_TEMPERATURES = flags.DEFINE_list(
  "temperatures",
  [],
  "Several, each a row of the table; or the word search: many are tried for each level on training "
  "images (--hr_dir, or the run's), and the best is noted in WORKDIR.",
  flag_values=_FLAGS,
)
_SEED = flags.DEFINE_integer(
  "seed", 0, "Sample i is a function of the seed and i.", flag_values=_FLAGS
)
_UINT8 = flags.DEFINE_string(
  "uint8", "round", "How floats become 8 bits: round, or truncate as published.", flag_values=_FLAGS
)
_LPIPS_VGG = flags.DEFINE_bool(
  "lpips_vgg",
  False,
  "LPIPS with VGG16 too, by the package lpips-j, which fetches its weights.",
  flag_values=_FLAGS,
)
_ESTIMATES = flags.DEFINE_bool(
  "estimates",
  False,
  "More rows: one image of all samples, their mean and their medoid by LPIPS.",
  flag_values=_FLAGS,
)
_DENOISE = cli.define_multiples(
  "denoise",
  "More rows: samples without the training's noise, by the flow's own score; or without so many "
  "times its variance.",
  flag_values=_FLAGS,
)
_CONSISTENT = flags.DEFINE_bool(
  "consistent",
  False,
  "More rows: samples changed so that bicubic reduces them to the LR image.",
  flag_values=_FLAGS,
)
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint",
  "latest",
  "Whose weights: latest, best (by validation loss), or a step.",
  flag_values=_FLAGS,
)
_EMA = flags.DEFINE_bool(
  "ema", True, "Moving averages of weights, where a run has them.", flag_values=_FLAGS
)
_MAX_MEMORY_GB = flags.DEFINE_float(
  "max_memory_gb",
  0.0,
  "Images that need more are cut into tiles: GB of this process on a CPU, of the device's memory "
  "else; 0: half of what this process may use, or three quarters of the device's.",
  flag_values=_FLAGS,
)
_TILE_OVERLAP = flags.DEFINE_integer(
  "tile_overlap",
  None,
  "LR pixels that tiles overlap; default: as far as encoder, nets, priors and target see.",
  flag_values=_FLAGS,
)


def main(argv: list[str]) -> None:
  """Evaluates as the flags say and prints the table."""
  if len(argv) > 1:
    raise InputError(f"unexpected argument: {argv[1]}")
  searches = _TEMPERATURES.value == [_SEARCH]
  temperatures, step = [] if searches else _temperatures(), _step()
  # Here, not above: what takes seconds to import comes after signals and mistakes are answered.
  from srflow_jax.evaluation import Settings
  from srflow_jax.evaluation.run import Memory, Weights, evaluate_workdirs, search_workdir

  settings = Settings(
    num_samples=_NUM_SAMPLES.value,
    temperature=_TEMPERATURE.value,
    seed=_SEED.value,
    uint8_mode=_UINT8.value,
    lpips_vgg=_LPIPS_VGG.value,
    consistent=_CONSISTENT.value,
    estimates=_ESTIMATES.value,
    denoise=_DENOISE.value,
  )
  folders = _WORKDIR.value, _HR_DIR.value, _LR_DIR.value, _OUTPUT_DIR.value
  memory, weights = Memory(_MAX_MEMORY_GB.value, _TILE_OVERLAP.value), Weights(step, _EMA.value)
  if searches:
    outcome = search_workdir(*folders, settings, memory, weights)
  else:
    command = shlex.join(["python", *sys.argv])
    outcome = evaluate_workdirs(*folders, settings, command, temperatures, memory, weights)
  print(outcome.text)
  if not outcome.finite:
    sys.exit(NOT_FINITE)


def _temperatures() -> list[Temperature] | None:
  """Those of the table's rows; None if no flag gives any."""
  is_given = _FLAGS["temperature"].present
  if _TEMPERATURES.value and is_given:
    raise InputError("--temperature and --temperatures: give one of them")
  if not _TEMPERATURES.value:
    return [] if is_given else None
  try:
    return [parse_temperature(text) for text in _TEMPERATURES.value]
  except InputError as error:
    raise InputError(f"--temperatures={','.join(_TEMPERATURES.value)}: {error}") from None


def _step() -> int | Literal["best"] | None:
  if _CHECKPOINT.value == "latest":
    return None
  if _CHECKPOINT.value != "best" and not _CHECKPOINT.value.isdecimal():
    raise InputError(f"--checkpoint={_CHECKPOINT.value}: neither latest nor best nor a step")
  return "best" if _CHECKPOINT.value == "best" else int(_CHECKPOINT.value)


if __name__ == "__main__":
  cli.run(main, _FLAGS)
