"""Prepared data sets: HR tiles with their LR tiles, in TFDS's format on ArrayRecord."""

import dataclasses
import hashlib
import itertools
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from srflow_jax import blocks
from srflow_jax.data.archives import ImageFile
from srflow_jax.data.folders import check_lr_size
from srflow_jax.data.set_metadata import ShardEntry
from srflow_jax.errors import InputError
from srflow_jax.files import read_json, write_json
from srflow_jax.ops.resize import MATLAB_ROUNDING, bicubic_resize

DATASET_NAME = "super_resolution_tiles"

# Folder in an incomplete set with the manifests of the shards that are whole.
PROGRESS = "progress"

# Tiles are stored uncompressed. Compressed by ArrayRecord they would take a fifth less room and
# four times as long to read; PNG would take twenty times as long.
_WRITER_OPTIONS = "group_size:1,uncompressed"


def tile_features(scales: Sequence[int]) -> tfds.features.FeaturesDict:
  """A record: its image's name, the tile's corner in it, the HR tile and its LR tiles."""
  image = tfds.features.Tensor(shape=(None, None, 3), dtype=np.uint8, encoding="bytes")
  return tfds.features.FeaturesDict(
    {
      "name": tfds.features.Text(),
      "top": np.int32,
      "left": np.int32,
      "hr": image,
      **{lr_feature(scale): image for scale in scales},
    }
  )


def lr_feature(scale: int) -> str:
  """The feature with the LR tiles of a scale."""
  return f"lr_x{scale}"


@dataclasses.dataclass(frozen=True)
class TileGrid:
  """How images are cut: tiles of one size on whole LR pixels of every scale.

  Attributes:
    scales: the scales whose LR tiles are kept.
    tile: side of a tile in HR pixels, a multiple of `unit`; an image that is smaller makes a
      smaller tile.
    overlap: HR pixels that neighbours share at least, a multiple of `unit`.
  """

  scales: tuple[int, ...]
  tile: int
  overlap: int

  @property
  def unit(self) -> int:
    """HR pixels that are a whole number of LR pixels at every scale."""
    return math.lcm(*self.scales)

  def side(self, size: int) -> int:
    """A tile's side along an axis of `size` HR pixels."""
    return min(self.tile, size // self.unit * self.unit)

  def corners(self, size: int) -> list[int]:
    """Where tiles begin along an axis: as few tiles as cover it, spread evenly.

    Up to `unit` - 1 pixels at the far end stay out: no whole LR pixel of every scale lies there.
    """
    side, cells = self.side(size), size // self.unit
    free = cells - side // self.unit
    if free == 0:
      return [0]
    count = -(-(cells * self.unit - self.overlap) // (side - self.overlap))
    return [round(index * free / (count - 1)) * self.unit for index in range(count)]

  def count(self, height: int, width: int) -> int:
    """Tiles of an image."""
    return len(self.corners(height)) * len(self.corners(width))

  def bytes(self, height: int, width: int) -> int:
    """Bytes of an image's tiles with their LR tiles, without the records' few other bytes."""
    pixels = self.side(height) * self.side(width)
    share = 1 + sum(1 / scale**2 for scale in self.scales)
    return int(self.count(height, width) * pixels * 3 * share)


@dataclasses.dataclass(frozen=True)
class ImageJob:
  """An HR image, its name and size, and its LR images by scale where they are given."""

  name: str
  hr: ImageFile
  size: tuple[int, int]
  lr: dict[int, ImageFile]


@dataclasses.dataclass(frozen=True)
class ShardJob:
  """A file to be written and what goes into it."""

  path: pathlib.Path
  grid: TileGrid
  images: tuple[ImageJob, ...]

  def inputs(self) -> str:
    """A digest of what goes into the shard, without reading it: settings, files, their ages."""
    stamps = [[i.hr.stamp(), *(lr.stamp() for lr in i.lr.values())] for i in self.images]
    settings = [*dataclasses.astuple(self.grid), MATLAB_ROUNDING]
    return hashlib.sha256(json.dumps([settings, stamps]).encode()).hexdigest()

  def manifest(self) -> dict | None:
    """Inputs, records, bytes and digest of the shard, or None while it is not written."""
    if not (self.path.exists() and self.manifest_path.exists()):
      return None
    try:
      manifest = read_json(self.manifest_path)
      blocks.read(ShardEntry, manifest, str(self.manifest_path))
    except InputError:
      return None  # the shard is written again
    return manifest if manifest["inputs"] == self.inputs() else None

  @property
  def manifest_path(self) -> pathlib.Path:
    """The file of the manifest, which is there once the shard is."""
    return self.path.parent / PROGRESS / f"{self.path.name}.json"


def write_shard(job: ShardJob) -> int:
  """Writes a shard, then its manifest, each under its name only when it is whole.

  Returns:
    Images written.

  Raises:
    InputError: an image is damaged or does not match its partner, or the disk is full.
  """
  features = tile_features(job.grid.scales)
  part = job.path.with_name(job.path.name + ".part")
  digest, sizes = hashlib.sha256(), []
  try:
    writer = array_record_module.ArrayRecordWriter(os.fspath(part), _WRITER_OPTIONS)
    try:
      for record in itertools.chain.from_iterable(image_tiles(job.grid, i) for i in job.images):
        serialized = features.serialize_example(record)
        writer.write(serialized)
        update_digest(digest, record)
        sizes.append(len(serialized))
    finally:
      writer.close()
    _flush_to_disk(part)
    os.replace(part, job.path)
    counts = {"records": len(sizes), "bytes": sum(sizes), "sha256": digest.hexdigest()}
    write_json(job.manifest_path, {"inputs": job.inputs(), **counts})
  except (OSError, RuntimeError) as error:  # ArrayRecord raises RuntimeError
    raise InputError(f"{job.path}: cannot be written: {str(error).splitlines()[0]}") from None
  finally:
    part.unlink(missing_ok=True)
  return len(job.images)


def image_tiles(grid: TileGrid, job: ImageJob) -> Iterator[dict]:
  """An image's records, as `tile_features` describes them."""
  hr = job.hr.read(job.size)
  lr = {}
  for scale in grid.scales:
    given = job.lr.get(scale)
    lr[scale] = bicubic_resize(hr, 1 / scale, MATLAB_ROUNDING) if given is None else given.read()
    if given is not None:
      check_lr_size(given, lr[scale].shape[:2], job.hr, hr.shape[:2], scale)
  height, width = (grid.side(size) for size in hr.shape[:2])
  for top in grid.corners(hr.shape[0]):
    for left in grid.corners(hr.shape[1]):
      record = {"name": job.name, "top": top, "left": left}
      record["hr"] = hr[top : top + height, left : left + width]
      for scale, image in lr.items():
        rows = slice(top // scale, (top + height) // scale)
        columns = slice(left // scale, (left + width) // scale)
        record[lr_feature(scale)] = image[rows, columns]
      yield record


def update_digest(digest: Any, record: Mapping[str, Any]) -> None:
  """Adds a record's content to a hash: not its bytes, whose order TFDS leaves open."""
  for key, value in sorted(record.items()):
    if isinstance(value, str):
      value = value.encode()
    elif not isinstance(value, bytes):
      value = np.ascontiguousarray(value)
      digest.update(f"{value.dtype} {value.shape}".encode())
    digest.update(key.encode())
    digest.update(value)


def _flush_to_disk(path: pathlib.Path) -> None:
  with open(path, "rb") as file:
    os.fsync(file.fileno())
