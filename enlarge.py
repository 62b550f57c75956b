"""Enlarges photographs with a model that the repository carries, or with one of yours.

    python enlarge.py PHOTO.jpg OTHER.png             # to enlarged/PHOTO_00.png and so on
    python enlarge.py PHOTO.jpg --model=x4_realsr     # the larger model
    python enlarge.py PHOTO.jpg --workdir=W --num_samples=1 --temperature=0 --out=RESULTS
    python enlarge.py PHOTO.jpg --consistent          # samples that bicubic reduces to PHOTO

The default, x4_small, is the fastest: four samples of one of 451x300 pixels took 55 seconds
of processor time, compilation included, so about half a minute on two idle cores.

Of each photograph several samples are written as PNG, and beside them NAME_sheet.png: the
photograph enlarged by bicubic, two samples, the mean and the standard deviation of all samples.

PNG, JPEG, WebP, BMP, TIFF and GIF files are read. Grey ones stay grey (they pass the model as RGB,
whose three channels are then averaged), 16-bit ones keep 16 bits, transparency is enlarged by
bicubic, colour profiles are kept, and photographs stand upright as EXIF says. The exit status is 3
if samples have values that are not finite: they count as black, and a warning names the file.
"""

import sys

from absl import flags

from srflow_jax import cli
from srflow_jax.weights.named import FINDERS

NOT_FINITE = 3

_FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_enum(
  "model", "x4_small", list(FINDERS), "A model known by name.", flag_values=_FLAGS
)
_WORKDIR = cli.define_path(
  "workdir", None, "A training run's folder, in place of --model.", flag_values=_FLAGS
)
_SCALE = flags.DEFINE_integer(
  "scale", None, "By how much; default: as the model does.", flag_values=_FLAGS
)
_NUM_SAMPLES = flags.DEFINE_integer(
  "num_samples", 4, "Samples of each photograph.", flag_values=_FLAGS
)
_TEMPERATURE = cli.define_temperature(
  "temperature",
  0.7,
  "Standard deviation of the latents, or of each level of them, finest first: 0.8/0.9; 0: one "
  "image, the smoothest. The run's own, if a search has chosen one and none is given.",
  flag_values=_FLAGS,
)
_SEED = flags.DEFINE_integer(
  "seed", 0, "Sample i is a function of the seed and i.", flag_values=_FLAGS
)
_OUT = cli.define_path("out", "enlarged", "The folder to write to.", flag_values=_FLAGS)
_OVERWRITE = flags.DEFINE_bool(
  "overwrite", False, "Replace files that are there.", flag_values=_FLAGS
)
_CONSISTENT = flags.DEFINE_bool(
  "consistent",
  False,
  "Change samples so that bicubic reduces them to the photograph.",
  flag_values=_FLAGS,
)
_MAX_MEMORY_GB = flags.DEFINE_float(
  "max_memory_gb",
  0.0,
  "Photographs that need more are cut into tiles: GB of this process on a CPU, of the device's "
  "memory else; 0: half of what this process may use, or three quarters of the device's.",
  flag_values=_FLAGS,
)


def main(argv: list[str]) -> None:
  """Enlarges as the flags say."""
  # Here, not above: what takes seconds to import comes after mistakes in flags are answered.
  from srflow_jax.enlarging import Settings, enlarge_photographs
  from srflow_jax.errors import InputError

  if _WORKDIR.value is not None and _FLAGS["model"].present:
    raise InputError("--model and --workdir: give one of them")
  settings = Settings(
    num_samples=_NUM_SAMPLES.value,
    temperature=_TEMPERATURE.value,
    use_chosen=not _FLAGS["temperature"].present,
    seed=_SEED.value,
    scale=_SCALE.value,
    max_memory_gb=_MAX_MEMORY_GB.value,
    overwrite=_OVERWRITE.value,
    consistent=_CONSISTENT.value,
  )
  source = _MODEL.value if _WORKDIR.value is None else _WORKDIR.value
  outcome = enlarge_photographs(argv[1:], source, _OUT.value, settings)
  print(outcome.text)
  if not outcome.finite:
    sys.exit(NOT_FINITE)


if __name__ == "__main__":
  cli.run(main, _FLAGS)
