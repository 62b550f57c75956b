"""Pairs a second that the input pipeline delivers, by source and number of workers.

python -m benchmarks.data --photos=PHOTOS [--json=FILE]

Sources, made in a temporary folder from mosaics of the photographs, as large as DIV2K's images
(2040x1356): the folder itself, decoded on the fly; tiles that `prepare_data.py` makes of it; and a
TFDS set laid out as `div2k/bicubic_x4`, whole PNGs on ArrayRecord. Crops of 160, x4, batches of 12,
flipped; nothing is trained meanwhile. A round times every source and worker count once; the table
gives medians over rounds, and the memory that a worker has for itself.
"""

import json
import os
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import active_children

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from absl import flags

from srflow_jax import cli
from srflow_jax.data import make_train_iterator, photographs
from srflow_jax.data.plan import SplitInputs
from srflow_jax.data.prepare import prepare
from srflow_jax.images import read_image, write_png
from srflow_jax.resize import bicubic_resize

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
    cells = [(source, int(workers)) for source in sources for workers in _WORKERS.value]
    rates = {cell: [] for cell in cells}
    memory = {cell: 0.0 for cell in cells}
    for _ in range(_ROUNDS.value):
      for source, workers in cells:
        rate, megabytes = _measure(sources[source], workers)
        rates[source, workers].append(rate)
        memory[source, workers] = max(memory[source, workers], megabytes)
  rows = [
    {
      "source": source,
      "workers": workers,
      "pairs_per_second": round(statistics.median(rates[source, workers]), 1),
      "slowest": round(min(rates[source, workers]), 1),
      "fastest": round(max(rates[source, workers]), 1),
      "worker_mb": round(memory[source, workers]),
    }
    for source, workers in cells
  ]
  print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
  print("| source | workers | pairs a second | slowest to fastest | MB a worker |")
  print("|---|---|---|---|---|")
  for row in rows:
    spread = f"{row['slowest']:.0f} to {row['fastest']:.0f}"
    memory_text = row["worker_mb"] if row["workers"] else "-"
    print(
      f"| {row['source']} | {row['workers']} | {row['pairs_per_second']:.0f} | {spread} | "
      f"{memory_text} |"
    )
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(rows, indent=1))


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


def _measure(source: str, workers: int) -> tuple[float, float]:
  """Pairs a second, and the megabytes of the largest worker."""
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
  batches = make_train_iterator(config, _SCALE, seed=0)
  _consume(batches, 1)  # the workers start
  _consume(batches, _SECONDS.value)  # what was read ahead meanwhile is used up
  rate = _consume(batches, _SECONDS.value)
  memory = [_private_megabytes(child.pid) for child in active_children()]
  batches.close()
  return rate, max(memory, default=0.0)


def _consume(batches: Iterator, seconds: float) -> float:
  """Takes batches for so many seconds, at least four, and returns pairs a second."""
  count, start = 0, time.perf_counter()
  while (elapsed := time.perf_counter() - start) < seconds or count < 4:
    next(batches)
    count += 1
  return count * _BATCH / elapsed


def _private_megabytes(pid: int) -> float:
  """Memory that no other process shares (Linux)."""
  try:
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
  except OSError:
    return float("nan")
  return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


if __name__ == "__main__":
  cli.run(main)
