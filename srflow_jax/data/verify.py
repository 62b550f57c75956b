"""Compares a prepared data set with its digests."""

import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tqdm
from array_record.python import array_record_data_source

from srflow_jax.data.records import open_builder
from srflow_jax.data.tiles import tile_features, update_digest
from srflow_jax.data.workers import run_parallel
from srflow_jax.errors import InputError


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
  metadata = open_builder(out).info.metadata or {}
  if "shards" not in metadata:
    raise InputError(f"{out}: not prepared by this command, so there are no digests to compare")
  shards = metadata["shards"]
  if set_digest(shards) != metadata["digest"]:
    raise InputError(f"{out / 'metadata.json'}: changed since it was written")
  jobs = [(str(out / name), shard, metadata["scales"]) for name, shard in shards.items()]
  with tqdm.tqdm(total=len(jobs), unit="file", desc=f"verify {out}") as bar:
    for _ in run_parallel(_verify_shard, jobs, num_workers):
      bar.update()
  return dict(metadata)


def summary(metadata: Mapping[str, Any]) -> str:
  """A prepared set in a few lines."""
  lines = [
    f"{split}: {len(images)} images, {sum(image['tiles'] for image in images)} tiles"
    for split, images in metadata["images"].items()
  ]
  total = sum(shard["bytes"] for shard in metadata["shards"].values())
  scales = ", ".join(f"x{scale}" for scale in metadata["scales"])
  lines.append(f"tiles of {metadata['tile']} pixels, scales {scales}, {total / 1e9:.2f} GB")
  lines.append(f"digest {metadata['digest']}")
  return "\n".join(lines)


def set_digest(shards: Mapping[str, Mapping[str, Any]]) -> str:
  """The set's digest: SHA-256 of its shards' names and digests, one a line."""
  lines = "".join(f"{name} {shards[name]['sha256']}\n" for name in sorted(shards))
  return hashlib.sha256(lines.encode()).hexdigest()


def _verify_shard(job: tuple[str, Mapping[str, Any], Sequence[int]]) -> None:
  path, shard, scales = job
  features = tile_features(scales)
  if not os.path.isfile(path):
    raise InputError(f"{path}: missing from the data set")
  digest = hashlib.sha256()
  try:
    with array_record_data_source.ArrayRecordDataSource([path]) as records:
      if len(records) != shard["records"]:
        raise InputError(f"{path}: {len(records)} records where {shard['records']} were written")
      for index in range(len(records)):
        update_digest(digest, features.deserialize_example_np(records[index]))
  except RuntimeError as error:
    raise InputError(f"{path}: damaged ({str(error).splitlines()[0]})") from None
  if digest.hexdigest() != shard["sha256"]:
    raise InputError(f"{path}: its content is not what was written")
