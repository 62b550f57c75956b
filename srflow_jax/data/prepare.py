"""Prepares data sets of tiles from folders and archives, on all cores, and verifies them.

A set is written in `OUT.incomplete`, shard by shard, and becomes `OUT` by one rename when it is
whole. What an interrupted run has finished is kept and the same command goes on from there.
"""

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
import tqdm

from srflow_jax.data.plan import SplitInputs, check_grid, images_per_shard, plan_images
from srflow_jax.data.record_sets import FEATURES_FILE, INCOMPLETE, INFO_FILE, open_set
from srflow_jax.data.set_metadata import METADATA_FILE, set_digest
from srflow_jax.data.tiles import (
  DATASET_NAME,
  PROGRESS,
  ImageJob,
  ShardJob,
  TileGrid,
  tile_features,
  write_shard,
)
from srflow_jax.data.workers import run_parallel
from srflow_jax.errors import InputError
from srflow_jax.files import PARTIAL, read_json
from srflow_jax.listing import shown
from srflow_jax.ops.resize import MATLAB_ROUNDING

_SHARD = rf"{DATASET_NAME}-[a-z]+\.array_record-\d+-of-\d+"
# What a set that is being prepared may hold, and its folder of manifests.
_OWN = re.compile(rf"{_SHARD}(\.part)?|{PROGRESS}|{INFO_FILE}|{FEATURES_FILE}|{METADATA_FILE}")
_OWN_IN_PROGRESS = re.compile(rf"{_SHARD}\.json|\..*{re.escape(PARTIAL)}")


def prepare(
  out: str | os.PathLike,
  splits: Mapping[str, SplitInputs],
  scales: Sequence[int],
  tile: int = 480,
  overlap: int = 0,
  num_workers: int = 0,
) -> dict[str, Any]:
  """Prepares a data set of tiles, or completes one: what an earlier run has written is kept.

  Args:
    out: the folder to be made.
    splits: inputs by split, "train" and "validation".
    scales: scales to keep LR tiles for; by MATLAB bicubic of the whole image where none are given.
    tile: side of the HR tiles in pixels, a multiple of the scales' least common multiple.
    overlap: HR pixels that neighbouring tiles share at least, a multiple likewise.
    num_workers: processes; 0 for one a core, 1 for this process itself.

  Returns:
    What `metadata.json` in the folder says: `summary` lists it.

  Raises:
    InputError: an argument, a file or an image cannot be used, the disk is full, or what would
      be removed as an earlier run's is not. What is finished then is kept.
  """
  out = pathlib.Path(out)
  if not out.name:
    raise InputError(f"{out}: not a folder that can be made")
  grid = check_grid(scales, tile, overlap)
  given = {split: inputs for split, inputs in splits.items() if inputs.hr or inputs.lr}
  if not given:
    raise InputError("no HR images given")
  work = out.with_name(out.name + INCOMPLETE)
  _check_own(work)
  images = {split: plan_images(inputs, grid) for split, inputs in given.items()}
  split_shards = {split: _shards(work, split, grid, jobs) for split, jobs in images.items()}
  shards = [shard for split in split_shards.values() for shard in split]
  if (out / INFO_FILE).exists():
    return _existing(out, shards)
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise InputError(f"{out}: is there already, and is no prepared data set")
  try:
    (work / PROGRESS).mkdir(parents=True, exist_ok=True)
    with _lock(work):
      _write_shards(work, shards, num_workers)
      metadata = _finish(work, grid, split_shards)
      if out.exists():
        out.rmdir()
      work.rename(out)
      shutil.rmtree(out / PROGRESS)
  except OSError as error:
    name = error.filename or work
    raise InputError(f"{name}: cannot be written: {error.strerror or error}") from None
  return metadata


def _check_own(work: pathlib.Path) -> None:
  """Refuses an unfinished set's folder that holds anything but what a preparation writes there."""
  if not os.path.lexists(work):
    return
  try:
    names = os.listdir(work)
    strangers = [name for name in names if not _OWN.fullmatch(name)]
    if PROGRESS in names:
      inside = os.listdir(work / PROGRESS)
      strangers += [f"{PROGRESS}/{n}" for n in inside if not _OWN_IN_PROGRESS.fullmatch(n)]
    else:
      strangers = names  # no preparation began it
  except OSError as error:
    raise InputError(f"{work}: cannot be read: {error.strerror or error}") from None
  if strangers:
    first = shown(work / min(strangers))
    raise InputError(f"{first}: no preparation has written it: move it, or give another --out")


def _shards(
  work: pathlib.Path, split: str, grid: TileGrid, jobs: Sequence[ImageJob]
) -> list[ShardJob]:
  """Deals a split's images out to files, which are named as TFDS expects."""
  images = images_per_shard(len(jobs))
  starts = range(0, len(jobs), images)
  name = f"{DATASET_NAME}-{split}.array_record"
  return [
    ShardJob(
      work / f"{name}-{index:05d}-of-{len(starts):05d}",
      grid,
      tuple(jobs[start : start + images]),
    )
    for index, start in enumerate(starts)
  ]


def _existing(out: pathlib.Path, shards: Sequence[ShardJob]) -> dict[str, Any]:
  metadata = open_set(out).metadata
  written = {name: shard.inputs for name, shard in metadata.shards.items()} if metadata else {}
  if written != {shard.path.name: shard.inputs() for shard in shards}:
    raise InputError(f"{out}: is there already, prepared from other files or with other settings")
  return read_json(out / METADATA_FILE)


def _write_shards(work: pathlib.Path, shards: Sequence[ShardJob], num_workers: int) -> None:
  """Writes the shards that are not there, and removes what an earlier plan has left."""
  missing = [shard for shard in shards if shard.manifest() is None]
  kept = {shard.path for shard in shards} - {shard.path for shard in missing}
  for path in work.iterdir():
    if path not in kept and (path.is_symlink() or path.is_file()):
      path.unlink()
  _check_space(work, missing)
  total, left = (sum(len(shard.images) for shard in jobs) for jobs in (shards, missing))
  with tqdm.tqdm(total=total, initial=total - left, unit="image", desc=work.stem) as bar:
    for count in run_parallel(write_shard, missing, num_workers):
      bar.update(count)


@contextlib.contextmanager
def _lock(work: pathlib.Path) -> Iterator[None]:
  """Keeps a second run out; the lock ends with the process, however that happens."""
  descriptor = os.open(work, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield
  except BlockingIOError:
    raise InputError(f"{work}: another process is preparing it") from None
  finally:
    os.close(descriptor)


def _check_space(work: pathlib.Path, missing: Iterable[ShardJob]) -> None:
  needed = sum(shard.grid.bytes(*job.size) for shard in missing for job in shard.images)
  free = shutil.disk_usage(work).free
  if needed > free:
    raise InputError(
      f"{work}: the tiles take {needed / 1e9:.2f} GB more, the disk has {free / 1e9:.2f} GB free"
    )


def _finish(
  work: pathlib.Path, grid: TileGrid, split_shards: Mapping[str, Sequence[ShardJob]]
) -> dict[str, Any]:
  """Writes what makes the folder a TFDS data set."""
  template = tfds.core.ShardedFileTemplate(
    data_dir=work, dataset_name=DATASET_NAME, filetype_suffix="array_record"
  )
  split_infos, images, smallest, manifests = [], {}, {}, {}
  for split, shards in split_shards.items():
    parts = {shard.path.name: shard.manifest() for shard in shards}
    jobs = [job for shard in shards for job in shard.images]
    split_infos.append(
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=[part["records"] for part in parts.values()],
        num_bytes=sum(part["bytes"] for part in parts.values()),
        filename_template=template.replace(split=split),
      )
    )
    images[split] = [_image_info(grid, job) for job in jobs]
    smallest[split] = [min(grid.side(job.size[axis]) for job in jobs) for axis in (0, 1)]
    manifests |= parts
  metadata = tfds.core.MetadataDict(
    scales=list(grid.scales),
    tile=grid.tile,
    overlap=grid.overlap,
    smallest_tile=smallest,
    images=images,
    shards=manifests,
    digest=set_digest({name: manifest["sha256"] for name, manifest in manifests.items()}),
    lr_rounding=MATLAB_ROUNDING,
  )
  tfds.folder_dataset.write_metadata(
    data_dir=work,
    features=tile_features(grid.scales),
    split_infos=split_infos,
    version="1.0.0",
    description="HR tiles with their LR tiles, cut from the LR images of the whole HR images.",
    metadata=metadata,
    disable_shuffling=True,
    check_data=False,  # computing them would need TensorFlow
  )
  return dict(metadata)


def _image_info(grid: TileGrid, job: ImageJob) -> dict[str, Any]:
  # The container's name without its folder: the set says what it holds, not where that lay.
  sources = {"hr": job.hr} | {f"lr_x{scale}": image for scale, image in job.lr.items()}
  return {
    "name": job.name,
    "size": list(job.size),
    "tiles": grid.count(*job.size),
    "sources": {key: f"{image.container.name}/{image.member}" for key, image in sources.items()},
  }
