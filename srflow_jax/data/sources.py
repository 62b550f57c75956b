"""Opens whatever `config.data.train_dir` and `config.data.val_dir` name."""

import os
import pathlib
from typing import Any

from srflow_jax.config import Data
from srflow_jax.data.archives import hr_images, lr_images
from srflow_jax.data.folders import FolderSource, photographs
from srflow_jax.data.names import match_names, own_side
from srflow_jax.data.pairs import PairSource, lr_patch_size
from srflow_jax.data.record_sets import INCOMPLETE, INFO_FILE, find_tfds, open_set
from srflow_jax.data.records import RecordSource
from srflow_jax.errors import InputError


def open_source(data_config: Data, scale: int, split: str) -> PairSource:
  """The training or validation images, checked.

  `train_dir` and `val_dir` name one of
  - '': the photographs that scikit-image ships,
  - a folder tree of images: LR by MATLAB bicubic,
  - HR_FOLDER:LR_FOLDER: images paired by their names, as `names.match_names` says,
  - a folder with a prepared data set, or any TFDS data set on ArrayRecord,
  - tfds:NAME: a TFDS data set in its data dir.

  Without a `val_dir`, validation uses the training data set's own `validation` split if it has
  one, else the bundled photographs kept for it.

  Args:
    data_config: `config.data`.
    scale: HR pixels per LR pixel.
    split: "train" or "validation".

  Returns:
    A source of pairs at least as large as the patch.

  Raises:
    InputError: naming the file or folder that cannot be used.
  """
  spec = data_config.train_dir if split == "train" else validation_dir(data_config)
  patch = lr_patch_size(data_config, scale) * scale
  # Each worker process has its own cache, so they share the bytes allowed.
  cache_bytes = data_config.cache_mb * 2**20 // max(data_config.num_workers, 1)
  if folder := record_folder(spec):
    return RecordSource(folder, split, scale, patch, cache_bytes)
  if os.pathsep in spec and not os.path.exists(spec):
    hr, lr = _paired_folders(spec, scale)
    return FolderSource(hr, scale, patch, cache_bytes, lr)
  paths = [path for _, path in photographs(spec, split)]
  return FolderSource(paths, scale, patch, cache_bytes)


def validation_dir(data_config: Data) -> str:
  """What validation uses: `val_dir`, or the training data set's folder if it has such a split.

  Returns:
    A specification as `open_source` takes it; '' for the bundled photographs.

  Raises:
    InputError: the training data set cannot be opened.
  """
  if data_config.val_dir:
    return data_config.val_dir
  folder = record_folder(data_config.train_dir)
  return str(folder) if folder and "validation" in open_set(folder).splits else ""


def describe(
  data_config: Data, scale: int, train: PairSource | None = None
) -> dict[str, dict[str, Any]]:
  """Tells a run's data from others, so that a run that goes on can say that they changed.

  Args:
    data_config: `config.data`.
    scale: HR pixels per LR pixel.
    train: the training images, if they are open already.

  Returns:
    What can be stored as JSON, by split: `images`, their number, and `digest`, a SHA-256 of their
    names and sizes, which does not depend on the folder that they lie in.

  Raises:
    InputError: as `open_source`.
  """
  train = train or open_source(data_config, scale, "train")
  validation = open_source(data_config, scale, "validation")
  return {"train": train.describe(), "validation": validation.describe()}


def record_folder(spec: str) -> pathlib.Path | None:
  """The folder of the TFDS data set that `spec` names, or None if it names no such thing."""
  if not spec:
    return None
  if spec.startswith("tfds:"):
    return find_tfds(spec.removeprefix("tfds:"))
  folder = pathlib.Path(spec)
  if folder.exists():
    is_set = (folder / INFO_FILE).exists() or folder.name.endswith(INCOMPLETE)
    return folder if is_set else None
  begun = folder.with_name(folder.name + INCOMPLETE)
  if begun.exists():
    raise InputError(f"{folder}: only begun, in {begun}; its prepare command again completes it")
  return None


def _paired_folders(spec: str, scale: int) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
  """HR and LR files in the same order."""
  folders = spec.split(os.pathsep)
  if len(folders) != 2 or not all(folders):
    raise InputError(f"{spec}: neither a folder nor HR_FOLDER{os.pathsep}LR_FOLDER")
  for folder in folders:
    if not os.path.isdir(folder):
      raise InputError(f"{folder}: no such folder")
  hr, lr = hr_images(folders[:1]), lr_images(folders[1:], [scale])[scale]
  hr, lr = own_side(list(hr.items()), scale, "HR"), own_side(list(lr.items()), scale, "LR")
  partners = match_names(hr, lr, scale)
  return [file.path for _, file in hr], [file.path for file in partners]
