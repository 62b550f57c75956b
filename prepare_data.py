"""Prepares images once, as a TFDS data set of tiles that training reads fast; or verifies one.

python prepare_data.py --out=SET --train_hr=PHOTOS --scales=4,8       # a folder tree
python prepare_data.py --out=div2k_x4 --scales=4 \
  --train_hr=DIV2K_train_HR.zip --train_lr=DIV2K_train_LR_bicubic_X4.zip \
  --validation_hr=DIV2K_valid_HR.zip --validation_lr=DIV2K_valid_LR_bicubic_X4.zip
python prepare_data.py --out=df2k_x4 --scales=4 --train_hr=DIV2K_train_HR.zip,Flickr2K.tar
python prepare_data.py --out=SET --verify

An interrupted run is completed by the same command. Train with --config.data.train_dir=SET.
"""

from absl import flags

from srflow_jax import cli
from srflow_jax.errors import InputError

_FLAGS = flags.FlagValues()
_OUT = cli.define_path("out", None, "The data set's folder.", required=True, flag_values=_FLAGS)
_TRAIN_HR = cli.define_paths(
  "train_hr",
  "Folders and archives (zip, tar) of HR images, separated by commas.",
  flag_values=_FLAGS,
)
_TRAIN_LR = cli.define_paths(
  "train_lr",
  "Likewise of their LR images; without: MATLAB's bicubic of the HR images.",
  flag_values=_FLAGS,
)
_VALIDATION_HR = cli.define_paths(
  "validation_hr", "As --train_hr, for validation.", flag_values=_FLAGS
)
_VALIDATION_LR = cli.define_paths(
  "validation_lr", "As --train_lr, for validation.", flag_values=_FLAGS
)
_SCALES = flags.DEFINE_list(
  "scales", ["4"], "Scales to keep LR tiles for: 2, 3, 4, 8, 16.", flag_values=_FLAGS
)
_TILE = flags.DEFINE_integer("tile", 480, "Side of the HR tiles in pixels.", flag_values=_FLAGS)
_OVERLAP = flags.DEFINE_integer(
  "overlap", 0, "HR pixels that neighbouring tiles share at least.", flag_values=_FLAGS
)
_NUM_WORKERS = flags.DEFINE_integer(
  "num_workers", 0, "Processes; 0: one a core.", lower_bound=0, flag_values=_FLAGS
)
_VERIFY = flags.DEFINE_bool(
  "verify", False, "Compare the data set with its digests.", flag_values=_FLAGS
)


def main(argv: list[str]) -> None:
  """Prepares or verifies as the flags say and prints what the set holds."""
  if len(argv) > 1:
    raise InputError(f"unexpected argument: {argv[1]}")
  scales = [_whole_number(scale) for scale in _SCALES.value]
  # Here, not above: what takes seconds to import comes after signals and mistakes are answered.
  from srflow_jax.data.plan import SplitInputs
  from srflow_jax.data.prepare import prepare
  from srflow_jax.data.verify import summary, verify

  splits = {
    "train": SplitInputs(_TRAIN_HR.value, _TRAIN_LR.value),
    "validation": SplitInputs(_VALIDATION_HR.value, _VALIDATION_LR.value),
  }
  has_inputs = any(inputs.hr or inputs.lr for inputs in splits.values())
  if has_inputs or not _VERIFY.value:
    metadata = prepare(_OUT.value, splits, scales, _TILE.value, _OVERLAP.value, _NUM_WORKERS.value)
  if _VERIFY.value:
    metadata = verify(_OUT.value, _NUM_WORKERS.value)
  print(f"{_OUT.value}: {'verified' if _VERIFY.value else 'prepared'}\n{summary(metadata)}")


def _whole_number(text: str) -> int:
  try:
    return int(text)
  except ValueError:
    raise InputError(f"--scales={text}: not a whole number") from None


if __name__ == "__main__":
  cli.run(main, _FLAGS)
