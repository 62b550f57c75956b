"""Pairs from TFDS data sets on ArrayRecord: those prepared by this project, and others."""

import dataclasses
import functools
import hashlib
import io
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from srflow_jax.data.cache import PairCache
from srflow_jax.data.folders import check_lr_size
from srflow_jax.data.pairs import Pair, check_size
from srflow_jax.data.record_files import RecordFiles
from srflow_jax.data.record_sets import FEATURES_FILE, INFO_FILE, open_set
from srflow_jax.data.tiles import lr_feature
from srflow_jax.errors import InputError, one_line
from srflow_jax.images import check_image, decode_image


@dataclasses.dataclass(frozen=True)
class Tile:
  """A record of a prepared set: its image's name, where it lies in it, and its pixels."""

  name: str
  top: int
  left: int
  pair: Pair


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
    self.folder, self.scale, self._split = folder, scale, split
    records = open_set(folder)
    self._shards = records.split(split)
    self._features = records.features
    self._digest = records.metadata.digest if records.metadata else None
    self._hr, self._lr = _features(records.features, folder, scale)
    # Raw tiles are read as fast from the file as from a cache.
    is_compressed = isinstance(records.features[self._hr], tfds.features.Image)
    self._cache = PairCache(cache_bytes if is_compressed else 0)
    if records.metadata:
      check_size(f"{folder}: its smallest tile", *records.metadata.smallest_tile[split], patch)
    pair = self[0]
    check_size(pair.name, *pair.hr.shape[:2], patch)

  def __len__(self) -> int:
    return len(self._shards)

  def __getitem__(self, index: int) -> Pair:
    return self._cache.get(index, lambda: self._read(index))

  def __getstate__(self) -> dict[str, Any]:
    """Leaves out the open files, since a worker opens its own."""
    return {key: value for key, value in self.__dict__.items() if key != "_records"}

  def describe(self) -> dict[str, Any]:
    """See `PairSource`. The digest is the prepared set's own, or that of TFDS's description."""
    digest = self._digest
    if digest is None:
      files = (self.folder / INFO_FILE, self.folder / FEATURES_FILE)
      digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return {"images": len(self), "digest": digest}

  @functools.cached_property
  def _records(self) -> RecordFiles:
    return RecordFiles(self._shards)

  def hr_size(self, index: int) -> tuple[int, int]:
    """Height and width of an example's HR image; `InputError` if it is damaged."""
    hr = self._record(index)[self._hr]
    if isinstance(hr, bytes):
      return check_image(io.BytesIO(hr), self._name(index))
    return _pixels(hr, self._name(index)).shape[:2]

  def tile(self, index: int) -> Tile:
    """A record of a prepared set; `InputError` if it is damaged."""
    record = self._record(index)
    try:
      name, top, left = record["name"].decode(), int(record["top"]), int(record["left"])
    except (KeyError, ValueError, AttributeError, TypeError):
      raise InputError(f"{self._name(index)}: damaged, not a tile") from None
    return Tile(name, top, left, self._pair(record, index))

  def _record(self, index: int) -> dict[str, Any]:
    """A record's features: HR and LR images as pixels or compressed, others as bytes or numbers."""
    serialized = self._records[index]
    # Compressed images come as bytes and are decoded here like all images.
    skip = {
      name: tfds.decode.SkipDecoding()
      for name, feature in self._features.items()
      if isinstance(feature, tfds.features.Image) or name not in (self._hr, self._lr)
    }
    try:
      return self._features.deserialize_example_np(serialized, decoders=skip)
    except Exception as error:  # the parser raises whatever wrong bytes lead it to
      raise InputError(f"{self._name(index)}: damaged ({one_line(error)})") from None

  def _name(self, index: int) -> str:
    return f"{self.folder}[{self._split}][{index}]"

  def _read(self, index: int) -> Pair:
    return self._pair(self._record(index), index)

  def _pair(self, record: dict[str, Any], index: int) -> Pair:
    name, hr = self._name(index), _pixels(record[self._hr], self._name(index))
    if self._lr is None:
      return Pair(name, hr)
    lr = _pixels(record[self._lr], name)
    check_lr_size(f"{name}: {self._lr}", lr.shape[:2], self._hr, hr.shape[:2], self.scale)
    return Pair(name, hr, lr)


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


def _pixels(value: Any, name: str) -> np.ndarray:
  if isinstance(value, bytes):
    return decode_image(io.BytesIO(value), name)
  if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.shape[2:] != (3,):
    raise InputError(f"{name}: not an image of 8-bit RGB values [H, W, 3]")
  return value
