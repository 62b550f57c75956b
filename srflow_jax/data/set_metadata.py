"""What a prepared set says of itself in `metadata.json`, as typed values."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

from srflow_jax import blocks
from srflow_jax.errors import InputError
from srflow_jax.files import read_json
from srflow_jax.ops.resize import MATLAB_ROUNDING, NUMPY_ROUNDING

METADATA_FILE = "metadata.json"

SCALES = (2, 3, 4, 8, 16)


@dataclasses.dataclass(frozen=True)
class ImageEntry:
  """An image of a set.

  Attributes:
    name: its path inside the images' folder, without suffix.
    size: height and width.
    tiles: how many records it became.
    sources: the files it was made from, by "hr" and "lr_x4".
  """

  name: str
  size: tuple[int, ...] = blocks.limited(at_least=1)
  tiles: int = blocks.limited(at_least=1)
  sources: Mapping[str, str] = blocks.read_by(
    lambda value, where: {
      key: _text(text, f"{where}.{key}") for key, text in blocks.as_mapping(value, where).items()
    }
  )

  def __post_init__(self) -> None:
    path = pathlib.PurePosixPath(self.name)
    if not self.name or path.is_absolute() or ".." in path.parts or not self.name.isprintable():
      raise ValueError(f"name is {self.name!r}: it must be a path inside a folder")
    if len(self.size) != 2:
      raise ValueError(f"size is {list(self.size)}: it must be height and width")


@dataclasses.dataclass(frozen=True)
class ShardEntry:
  """A file of a set.

  Attributes:
    inputs: digest of what went into it, without its pixels.
    records: how many tiles.
    bytes: of all records.
    sha256: digest of the records' content.
  """

  inputs: str
  records: int = blocks.limited(at_least=1)
  bytes: int = blocks.limited(at_least=1)
  sha256: str = blocks.limited("")


def _text(value: Any, where: str) -> str:
  if not isinstance(value, str):
    raise InputError(f"{where} is {value!r}: it must be a text")
  return value


def _images(value: Any, where: str) -> dict[str, tuple[ImageEntry, ...]]:
  entries = {}
  for split, items in blocks.as_mapping(value, where).items():
    if not isinstance(items, list) or not items:
      raise InputError(f"{where}.{split} is no list of images")
    entries[split] = tuple(
      blocks.read(ImageEntry, item, f"{where}.{split}[{i}]") for i, item in enumerate(items)
    )
  return entries


def _shards(value: Any, where: str) -> dict[str, ShardEntry]:
  items = blocks.as_mapping(value, where)
  if not items:
    raise InputError(f"{where} is empty")
  return {name: blocks.read(ShardEntry, item, f"{where}.{name}") for name, item in items.items()}


def _sizes(value: Any, where: str) -> dict[str, tuple[int, int]]:
  sizes = {}
  for split, size in blocks.as_mapping(value, where).items():
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)):
      raise InputError(f"{where}.{split} is {size!r}: it must be height and width")
    sizes[split] = (size[0], size[1])
  return sizes


@dataclasses.dataclass(frozen=True)
class SetMetadata:
  """A prepared set.

  Attributes:
    scales: whose LR tiles it holds.
    tile: side of the HR tiles in pixels.
    overlap: HR pixels that neighbours share at least.
    smallest_tile: height and width, by split.
    images: what it was made from, by split, in the order of the records.
    shards: its files by name.
    digest: of the shards' names and digests; see `set_digest`.
    lr_rounding: how the LR images that were not given were rounded (`srflow_jax.ops.resize`). Sets
      that do not say were made when all rounded as NumPy does.
  """

  scales: tuple[int, ...] = blocks.limited(one_of=SCALES)
  tile: int = blocks.limited(at_least=1)
  overlap: int = blocks.limited(at_least=0)
  smallest_tile: Mapping[str, tuple[int, int]] = blocks.read_by(_sizes)
  images: Mapping[str, tuple[ImageEntry, ...]] = blocks.read_by(_images)
  shards: Mapping[str, ShardEntry] = blocks.read_by(_shards)
  digest: str = blocks.limited()
  lr_rounding: str = blocks.limited(NUMPY_ROUNDING, one_of=(MATLAB_ROUNDING, NUMPY_ROUNDING))

  def __post_init__(self) -> None:
    if not self.scales:
      raise ValueError("scales is empty")


def read_metadata(folder: pathlib.Path) -> SetMetadata:
  """What a prepared set says of itself.

  Raises:
    InputError: the file is missing, damaged, or its digest is not that of what it lists.
  """
  path = folder / METADATA_FILE
  metadata = blocks.read(SetMetadata, read_json(path), str(path))
  if set_digest({name: shard.sha256 for name, shard in metadata.shards.items()}) != metadata.digest:
    raise InputError(f"{path}: changed since it was written")
  return metadata


def set_digest(digests: Mapping[str, str]) -> str:
  """A set's digest: SHA-256 of its shards' names and digests, one a line, sorted by name."""
  lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
  return hashlib.sha256(lines.encode()).hexdigest()
