"""Pairs a second that the input pipeline delivers, by source and number of workers.

python -m benchmarks.data --photos=PHOTOS [--json=FILE]

Sources, made in a temporary folder from mosaics of the photographs, as large as DIV2K's images
(2040x1356): the folder itself, decoded on the fly; tiles that `prepare_data.py` makes of it; and a
TFDS set laid out as `div2k/bicubic_x4`, whole PNGs on ArrayRecord. Crops of 160, x4, batches of 12,
flipped; nothing is trained meanwhile. A round times every source and worker count once; the table
gives medians over rounds, CPU time (which depends less on what else the machine does), and the
memory that a worker has for itself. Linux only.
"""

import contextlib
import json
import os
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import active_children
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from absl import flags

from srflow_jax import cli
from srflow_jax.data import make_train_iterator, photographs
from srflow_jax.data.plan import SplitInputs
from srflow_jax.data.prepare import prepare
from srflow_jax.images import read_image, write_png
from srflow_jax.ops.resize import bicubic_resize

_PHOTOS = flags.DEFINE_string("photos", "", "Folder of photographs; default: scikit-image's.")
_IMAGES = flags.DEFINE_integer("images", 8, "2K images to make of them.")
_TILE = flags.DEFINE_list("tile", ["480"], "Sides of the prepared tiles.")
_WORKERS = flags.DEFINE_list("workers", ["0", "1", "2"], "Worker counts; 0: threads alone.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds that the medians are taken over.")
_SECONDS = flags.DEFINE_float("seconds", 3, "Seconds that each measurement takes.")
_JSON = flags.DEFINE_string("json", "", "File to write the figures to.")

_BATCH, _SCALE = 12, 4
_HEIGHT, _WIDTH = 1356, 2040


def main(argv: list[str]) -> None:
  """Makes the sources, measures them in turns and prints the table."""
  del argv
  with tempfile.TemporaryDirectory() as folder:
    sources = _make_sources(pathlib.Path(folder))
    figures = {(source, int(workers)): [] for source in sources for workers in _WORKERS.value}
    for _ in range(_ROUNDS.value):
      for (source, workers), taken in figures.items():
        taken.append(_measure(sources[source], workers))
  rows = [_summarize(*cell, taken) for cell, taken in figures.items()]
  print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
  print("| source | workers | pairs a second | slowest to fastest | CPU ms a pair | MB a worker |")
  print("|---|---|---|---|---|---|")
  for row in rows:
    memory = f"{row['worker_mb']:.0f}" if row["workers"] else "-"
    print(
      f"| {row['source']} | {row['workers']} | {row['pairs_per_second']:.0f} | "
      f"{row['slowest']:.0f} to {row['fastest']:.0f} | {row['cpu_ms_per_pair']:.2f} | {memory} |"
    )
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(rows, indent=1))


class Figures(NamedTuple):
  """One measurement.

  Attributes:
    rate: pairs a second.
    cpu_ms: milliseconds of CPU time that a pair takes, all processes together; unlike the rate it
      hardly depends on what else the machine does.
    worker_mb: memory that the largest worker shares with no other process.
  """

  rate: float
  cpu_ms: float
  worker_mb: float


def _summarize(source: str, workers: int, taken: list[Figures]) -> dict[str, Any]:
  rates = [figures.rate for figures in taken]
  return {
    "source": source,
    "workers": workers,
    "pairs_per_second": round(statistics.median(rates), 1),
    "slowest": round(min(rates), 1),
    "fastest": round(max(rates), 1),
    "cpu_ms_per_pair": round(statistics.median(figures.cpu_ms for figures in taken), 3),
    "worker_mb": round(max(figures.worker_mb for figures in taken)),
  }


def _make_sources(folder: pathlib.Path) -> dict[str, str]:
  images = _mosaics([read_image(path) for _, path in photographs(_PHOTOS.value, "train")])
  for number, image in enumerate(images):
    write_png(folder / f"HR/{number:04d}.png", image)
  sources = {"folder of 2K PNGs": str(folder / "HR")}
  for tile in _TILE.value:
    out = folder / f"tiles{tile}"
    prepare(out, {"train": SplitInputs([str(folder / "HR")])}, [_SCALE], int(tile))
    sources[f"prepared tiles of {tile}"] = str(out)
  _prepare_tfds(folder, images)
  sources["TFDS set of 2K PNGs"] = str(folder / "div2k/bicubic_x4/2.0.0")
  return sources


def _mosaics(photos: list[np.ndarray]) -> list[np.ndarray]:
  """Images of DIV2K's size, of photographs side by side: their PNGs take as long to decode."""
  mosaics, rng = [], np.random.default_rng(0)
  for _ in range(_IMAGES.value):
    canvas = np.zeros((_HEIGHT, _WIDTH, 3), np.uint8)
    for top in range(0, _HEIGHT, 500):
      for left in range(0, _WIDTH, 600):
        photo = photos[rng.integers(len(photos))][: _HEIGHT - top, : _WIDTH - left]
        canvas[top : top + photo.shape[0], left : left + photo.shape[1]] = photo
    mosaics.append(canvas)
  return mosaics


def _prepare_tfds(folder: pathlib.Path, images: list[np.ndarray]) -> None:
  image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")

  class Div2k(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="bicubic_x4"),)
    pkg_dir_path = folder

    def _info(self) -> tfds.core.DatasetInfo:
      features = tfds.features.FeaturesDict({"hr": image, "lr": image})
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: object) -> dict:
      return {"train": self._generate_examples()}

    def _generate_examples(self):  # noqa: ANN202 (TFDS's own annotation is private)
      for number, hr in enumerate(images):
        write_png(folder / f"LR/{number:04d}.png", bicubic_resize(hr, 1 / _SCALE))
        yield number, {key: str(folder / f"{key.upper()}/{number:04d}.png") for key in ("hr", "lr")}

  Div2k(data_dir=folder, config="bicubic_x4", file_format="array_record").download_and_prepare()


def _measure(source: str, workers: int) -> Figures:
  config = ml_collections.ConfigDict(
    dict(
      train_dir=source,
      val_dir="",
      hr_patch=160,
      batch_size=_BATCH,
      flips=True,
      rotations=False,
      num_workers=workers,
      cache_mb=0,
      val_patches=_BATCH,
    )
  )
  with contextlib.closing(make_train_iterator(config, _SCALE, seed=0)) as batches:
    _consume(batches, 1)  # the workers start
    _consume(batches, _SECONDS.value)  # what was read ahead meanwhile is used up
    workers_pids = [child.pid for child in active_children()]
    cpu_before = _cpu_seconds(workers_pids)
    pairs, seconds = _consume(batches, _SECONDS.value)
    cpu = _cpu_seconds(workers_pids) - cpu_before
    memory = max(map(_private_megabytes, workers_pids), default=0.0)
  return Figures(pairs / seconds, cpu / pairs * 1e3, memory)


def _consume(batches: Iterator, seconds: float) -> tuple[int, float]:
  """Takes batches for so many seconds, at least four; pairs and seconds that it was."""
  count, start = 0, time.perf_counter()
  while (elapsed := time.perf_counter() - start) < seconds or count < 4:
    next(batches)
    count += 1
  return count * _BATCH, elapsed


def _cpu_seconds(worker_pids: list[int]) -> float:
  """CPU time of this process and of its workers (Linux)."""
  ticks = 0
  for pid in worker_pids:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks += int(fields[11]) + int(fields[12])  # utime, stime
  return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _private_megabytes(pid: int) -> float:
  """Memory that no other process shares (Linux)."""
  lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
  return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


if __name__ == "__main__":
  cli.run(main)
