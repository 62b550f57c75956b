"""Pairs from TFDS data sets on ArrayRecord: those prepared by this project, and others."""

import functools
import io
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf import json_format
from tensorflow_datasets.core import read_only_builder
from tensorflow_datasets.core.utils import file_utils

from srflow_jax.data.cache import PairCache
from srflow_jax.data.folders import check_lr_size
from srflow_jax.data.pairs import Pair, check_size
from srflow_jax.data.tiles import lr_feature
from srflow_jax.errors import InputError
from srflow_jax.images import decode_image

INFO_FILE = "dataset_info.json"  # what makes a folder a TFDS data set
INCOMPLETE = ".incomplete"  # ends the name of a folder where one is being prepared


def find_tfds(name: str) -> pathlib.Path:
  """The folder of a data set that TFDS has prepared.

  Args:
    name: as TFDS spells it, such as `div2k/bicubic_x4` or `div2k/bicubic_x4:2.0.0`, in its default
      data dir (environment variable TFDS_DATA_DIR).

  Raises:
    InputError: it is not there.
  """
  try:
    return pathlib.Path(read_only_builder.builder_from_files(name).data_dir)
  except (tfds.core.DatasetNotFoundError, ValueError, OSError):
    places = ", ".join(str(place) for place in file_utils.list_data_dirs(None))
    raise InputError(
      f"tfds:{name}: not prepared in {places}: set TFDS_DATA_DIR, or prepare it (README, Data)"
    ) from None


class RecordSource:
  """The examples of a TFDS data set.

  HR comes from the feature `hr`, with LR from `lr_x4` (for scale 4) or `lr`; or from the feature
  `image`, with LR by MATLAB bicubic.
  """

  def __init__(
    self, folder: pathlib.Path, split: str, scale: int, patch: int, cache_bytes: int
  ) -> None:
    """Opens a data set and checks what can be checked without reading it all.

    Args:
      folder: the folder with `dataset_info.json`.
      split: "train" or "validation".
      scale: HR pixels per LR pixel.
      patch: side of the HR patches that will be cut, in pixels.
      cache_bytes: how many bytes of decoded images to keep, where examples are compressed images.

    Raises:
      InputError: the data set is not whole, not on ArrayRecord, of another scale, has no such split
        or features, or holds images smaller than the patch.
    """
    self._folder, self._split, self._scale = folder, split, scale
    info = open_builder(folder).info
    if split not in info.splits:
      raise InputError(f"{folder}: no split {split}, only {', '.join(info.splits)}")
    self._length = info.splits[split].num_examples
    for file in info.splits[split].filepaths:
      if not pathlib.Path(file).is_file():
        raise InputError(f"{file}: missing from the data set")
    self._hr, self._lr = _features(info.features, folder, scale)
    # Raw tiles are read as fast as they would be found in a cache.
    is_compressed = isinstance(info.features[self._hr], tfds.features.Image)
    self._cache = PairCache(cache_bytes if is_compressed else 0)
    if smallest := (info.metadata or {}).get("smallest_tile", {}).get(split):
      check_size(f"{folder}: its smallest tile", *smallest, patch)
    pair = self[0]
    check_size(pair.name, *pair.hr.shape[:2], patch)

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Pair:
    return self._cache.get(index, lambda: self._read(index))

  def __getstate__(self) -> dict[str, Any]:
    """Leaves the open files behind: a worker opens its own."""
    return {key: value for key, value in self.__dict__.items() if key != "_examples"}

  @functools.cached_property
  def _examples(self) -> Any:
    builder = open_builder(self._folder)
    # Compressed images come as bytes and are decoded here like all images; what is not needed is
    # not decoded at all.
    skip = tfds.decode.SkipDecoding()
    decoders = {
      name: skip
      for name, feature in builder.info.features.items()
      if isinstance(feature, tfds.features.Image) or name not in (self._hr, self._lr)
    }
    return builder.as_data_source(self._split, decoders=decoders)

  def _read(self, index: int) -> Pair:
    name = f"{self._folder}[{self._split}][{index}]"
    examples = self._examples
    try:
      example = examples[index]
    except (RuntimeError, ValueError, IndexError) as error:
      raise InputError(f"{name}: damaged ({str(error).splitlines()[0]})") from None
    hr = _pixels(example[self._hr], name)
    if self._lr is None:
      return Pair(name, hr)
    lr = _pixels(example[self._lr], name)
    check_lr_size(f"{name}: {self._lr}", lr.shape[:2], self._hr, hr.shape[:2], self._scale)
    return Pair(name, hr, lr)


def open_builder(folder: pathlib.Path) -> tfds.core.DatasetBuilder:
  """Opens a whole data set on ArrayRecord; `InputError` if it is not one."""
  if folder.name.endswith(INCOMPLETE):
    raise InputError(f"{folder}: only begun; its prepare command again completes it")
  try:
    builder = tfds.builder_from_directory(folder)
  except (OSError, ValueError, KeyError, json_format.ParseError) as error:
    raise InputError(f"{folder / INFO_FILE}: {str(error).splitlines()[0]}") from None
  if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
    raise InputError(
      f"{folder}: prepared as {builder.info.file_format.value}, which needs TensorFlow to read; "
      "prepare it with file_format='array_record'"
    )
  return builder


def _features(
  features: tfds.features.FeaturesDict, folder: pathlib.Path, scale: int
) -> tuple[str, str | None]:
  """Names of the features with HR and LR images."""
  prepared = sorted(name.removeprefix("lr_x") for name in features if name.startswith("lr_x"))
  if "hr" in features and prepared:
    if str(scale) not in prepared:
      raise InputError(f"{folder}: prepared for scale {', '.join(prepared)}, not for {scale}")
    return "hr", lr_feature(scale)
  if "hr" in features and "lr" in features:
    return "hr", "lr"
  if "image" in features:
    return "image", None
  raise InputError(f"{folder}: no features hr and lr, nor image, but {', '.join(features)}")


def _pixels(value: bytes | np.ndarray, name: str) -> np.ndarray:
  return decode_image(io.BytesIO(value), name) if isinstance(value, bytes) else value
