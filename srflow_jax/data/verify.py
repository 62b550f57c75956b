"""Compares a prepared data set with its digests."""

import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tqdm

from srflow_jax.data.record_files import RecordFiles
from srflow_jax.data.record_sets import Shards, open_set
from srflow_jax.data.records import RecordSource
from srflow_jax.data.set_metadata import METADATA_FILE, ShardEntry
from srflow_jax.data.tiles import tile_features, update_digest
from srflow_jax.data.workers import run_parallel
from srflow_jax.errors import InputError
from srflow_jax.files import read_json
from srflow_jax.ops.resize import NUMPY_ROUNDING


def verify(out: str | os.PathLike, num_workers: int = 0) -> dict[str, Any]:
  """Reads a prepared set whole and compares it with its digests.

  Args:
    out: the folder that `prepare` made.
    num_workers: processes; 0 for one a core, 1 for this process itself.

  Returns:
    As `prepare`.

  Raises:
    InputError: it is no set of ours, or a file is missing, damaged or other than it was.
  """
  out = pathlib.Path(out)
  if not out.is_dir():
    raise InputError(f"{out}: no such folder")
  metadata = open_set(out).metadata
  if metadata is None:
    raise InputError(f"{out}: not prepared by this command, so there are no digests to compare")
  for split in metadata.images:
    for scale in metadata.scales:
      RecordSource(out, split, scale, patch=scale, cache_bytes=0)  # opens the set as training does
  jobs = [(out / name, shard, metadata.scales) for name, shard in metadata.shards.items()]
  with tqdm.tqdm(total=len(jobs), unit="file", desc=f"verify {out}") as bar:
    for _ in run_parallel(_verify_shard, jobs, num_workers):
      bar.update()
  return read_json(out / METADATA_FILE)


def summary(metadata: Mapping[str, Any]) -> str:
  """A prepared set in a few lines."""
  lines = [
    f"{split}: {len(images)} images, {sum(image['tiles'] for image in images)} tiles"
    for split, images in metadata["images"].items()
  ]
  total = sum(shard["bytes"] for shard in metadata["shards"].values())
  scales = ", ".join(f"x{scale}" for scale in metadata["scales"])
  lines.append(f"tiles of {metadata['tile']} pixels, scales {scales}, {total / 1e9:.2f} GB")
  rounding = metadata.get("lr_rounding", NUMPY_ROUNDING)
  lines.append(f"LR images by bicubic, where none were given, rounded {rounding}")
  lines.append(f"digest {metadata['digest']}")
  return "\n".join(lines)


def _verify_shard(job: tuple[pathlib.Path, ShardEntry, Sequence[int]]) -> None:
  path, shard, scales = job
  features = tile_features(scales)
  digest = hashlib.sha256()
  records = RecordFiles(Shards((path,), (shard.records,)))
  for index in range(len(records)):
    serialized = records[index]
    try:
      update_digest(digest, features.deserialize_example_np(serialized))
    except Exception as error:  # the parser raises whatever wrong bytes lead it to
      raise InputError(f"{path}: damaged, record {index} ({type(error).__name__})") from None
  if digest.hexdigest() != shard.sha256:
    raise InputError(f"{path}: its content is not what was written")
