"""Opens TFDS data sets on ArrayRecord from their files, and lets none of them run code.

TFDS's own loader imports whatever module `features.json` names, which may lie in the downloaded set
itself. Here the files are parsed first, and only features that are listed below are built.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds
from google.protobuf import json_format
from tensorflow_datasets.core.proto import dataset_info_pb2, feature_pb2
from tensorflow_datasets.core.utils import file_utils

from srflow_jax.data.set_metadata import METADATA_FILE, SetMetadata, read_metadata
from srflow_jax.data.tiles import DATASET_NAME, tile_features
from srflow_jax.errors import InputError, one_line
from srflow_jax.files import read_json

INFO_FILE = "dataset_info.json"  # what makes a folder a TFDS data set
FEATURES_FILE = "features.json"
INCOMPLETE = ".incomplete"  # ends the name of a folder where one is being prepared

# TFDS's features that may occur, and the only form in which each may be described. Another form,
# such as `json_feature`, could name further classes.
_FEATURES = {
  f"tensorflow_datasets.core.features.{name}": form
  for name, form in {
    "features_dict.FeaturesDict": "features_dict",
    "sequence_feature.Sequence": "sequence",
    "image_feature.Image": "image",
    "tensor_feature.Tensor": "tensor",
    "scalar.Scalar": "tensor",
    "text_feature.Text": "text",
    "class_label_feature.ClassLabel": "class_label",
  }.items()
}


@dataclasses.dataclass(frozen=True)
class Shards:
  """The files of a split, and how many records each holds."""

  files: tuple[pathlib.Path, ...]
  lengths: tuple[int, ...]

  def __len__(self) -> int:
    return sum(self.lengths)


@dataclasses.dataclass(frozen=True)
class RecordSet:
  """A whole data set on ArrayRecord.

  Attributes:
    folder: where it lies.
    splits: its shards by split.
    features: what a record holds.
    metadata: of a set of tiles that this project prepared; None for others.
  """

  folder: pathlib.Path
  splits: Mapping[str, Shards]
  features: tfds.features.FeaturesDict
  metadata: SetMetadata | None

  def split(self, name: str) -> Shards:
    """A split's shards; `InputError` if there are none, or a file is missing."""
    if name not in self.splits:
      raise InputError(f"{self.folder}: no split {name}, only {', '.join(self.splits)}")
    shards = self.splits[name]
    for file in shards.files:
      if not file.is_file():
        raise InputError(f"{file}: missing from the data set")
    return shards


def open_set(folder: pathlib.Path) -> RecordSet:
  """Opens a data set that is whole; `InputError` names the file that cannot be used."""
  if folder.name.endswith(INCOMPLETE):
    raise InputError(f"{folder}: only begun; its prepare command again completes it")
  info = _parse(folder / INFO_FILE, dataset_info_pb2.DatasetInfo())
  if info.file_format != "array_record":
    raise InputError(
      f"{folder}: prepared as {info.file_format or 'tfrecord'}, which needs TensorFlow to read; "
      "prepare it with file_format='array_record'"
    )
  features = _read_features(folder / FEATURES_FILE)
  splits = _read_splits(folder, info)
  metadata = None
  if info.name == DATASET_NAME:
    metadata = read_metadata(folder)
    _check_prepared(folder, splits, features, metadata)
  return RecordSet(folder, splits, features, metadata)


def find_tfds(name: str) -> pathlib.Path:
  """The folder of a data set that TFDS has prepared.

  Args:
    name: as TFDS spells it, such as `div2k/bicubic_x4` or `div2k/bicubic_x4:2.0.0`, in its default
      data dir (environment variable TFDS_DATA_DIR). Without a version, the latest.

  Raises:
    InputError: it is not there.
  """
  places = [pathlib.Path(place) for place in file_utils.list_data_dirs(None)]
  if match := re.fullmatch(r"(\w+(?:/[\w.-]*\w[\w.-]*)?)(?::(\d+\.\d+\.\d+))?", name):
    for place in places:
      versions = [
        path.parent
        for path in (place / match[1]).glob(f"{match[2] or '*'}/{INFO_FILE}")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
      ]
      if versions:
        return max(versions, key=lambda path: [int(n) for n in path.name.split(".")])
  raise InputError(
    f"tfds:{name}: not prepared in {', '.join(map(str, places))}: set TFDS_DATA_DIR, or prepare it "
    "(docs/training.md, DIV2K)"
  )


def _parse(path: pathlib.Path, message: Any) -> Any:
  """A JSON file as a protocol buffer."""
  content = read_json(path)
  if not isinstance(content, dict):
    raise InputError(f"{path}: damaged, it is no JSON object")
  try:
    return json_format.ParseDict(content, message, ignore_unknown_fields=True)
  except Exception as error:  # the parser raises whatever wrong types lead it to
    raise InputError(f"{path}: damaged ({one_line(error)})") from None


def _read_features(path: pathlib.Path) -> tfds.features.FeaturesDict:
  """What a record holds, of features that are known to be harmless."""
  described = _parse(path, feature_pb2.Feature())
  _check_features(described, path)
  try:
    features = tfds.features.FeatureConnector.from_proto(described)
  except Exception as error:
    raise InputError(f"{path}: damaged ({one_line(error)})") from None
  if not isinstance(features, tfds.features.FeaturesDict):
    raise InputError(f"{path}: its records are no dictionaries")
  return features


def _check_features(feature: feature_pb2.Feature, path: pathlib.Path) -> None:
  """Refuses classes that are not listed, before anything imports them."""
  name, form = feature.python_class_name, feature.WhichOneof("content")
  if _FEATURES.get(name) != form or form is None:
    raise InputError(
      f"{path}: a feature of class {name[:200] or '(none)'} given as {form}, which is not "
      f"read: only TFDS's own {', '.join(key.rsplit('.')[-1] for key in _FEATURES)}"
    )
  if form == "features_dict":
    for inner in feature.features_dict.features.values():
      _check_features(inner, path)
  elif form == "sequence":
    _check_features(feature.sequence.feature, path)


def _read_splits(folder: pathlib.Path, info: dataset_info_pb2.DatasetInfo) -> dict[str, Shards]:
  """Each split's files, which must lie in the folder itself."""
  path = folder / INFO_FILE
  if not info.splits:
    raise InputError(f"{path}: it names no split")
  splits = {}
  for split in info.splits:
    lengths = tuple(split.shard_lengths)
    if not split.name or not lengths or min(lengths) < 0 or not sum(lengths):
      raise InputError(f"{path}: split {split.name!r} has no records")
    try:
      template = tfds.core.ShardedFileTemplate(
        data_dir=".",
        dataset_name=info.name,
        filetype_suffix=info.file_format,
        split=split.name,
        template=split.filepath_template,
      )
      names = [pathlib.Path(os.fspath(file)) for file in template.sharded_filepaths(len(lengths))]
    except Exception as error:
      raise InputError(f"{path}: damaged ({one_line(error)})") from None
    for name in names:
      if len(name.parts) != 1 or name.name in ("", "..") or "\0" in name.name:
        raise InputError(f"{path}: split {split.name!r} names the file {name}, outside the set")
    files = [folder / name for name in names]
    splits[split.name] = Shards(tuple(files), lengths)
  return splits


def _check_prepared(
  folder: pathlib.Path,
  splits: Mapping[str, Shards],
  features: tfds.features.FeaturesDict,
  metadata: SetMetadata,
) -> None:
  """Compares what a prepared set's three files say with each other."""
  if features.to_json() != tile_features(metadata.scales).to_json():
    raise InputError(f"{folder / FEATURES_FILE}: changed since it was written")
  records = {
    file.name: length
    for shards in splits.values()
    for file, length in zip(shards.files, shards.lengths, strict=True)
  }
  if records != {name: shard.records for name, shard in metadata.shards.items()}:
    raise InputError(f"{folder / INFO_FILE}: its shards are not those of {METADATA_FILE}")
  for split, shards in splits.items():
    if sum(image.tiles for image in metadata.images.get(split, ())) != len(shards):
      raise InputError(f"{folder / METADATA_FILE}: its images of split {split} are not its tiles")
    if split not in metadata.smallest_tile:
      raise InputError(f"{folder / METADATA_FILE}: no smallest_tile of split {split}")
