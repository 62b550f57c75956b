"""What a prepared data set will hold: its images, matched and checked, and how they are cut."""

import dataclasses
from collections.abc import Sequence

import tqdm

from srflow_jax.data.archives import hr_images, lr_images
from srflow_jax.data.folders import check_lr_size
from srflow_jax.data.names import match_names, own_side
from srflow_jax.data.set_metadata import SCALES
from srflow_jax.data.tiles import ImageJob, TileGrid
from srflow_jax.errors import InputError

# An interruption costs at most a shard for each core, so shards are small. But a set is read from
# all of its files in turn, so there must not be very many of them.
_MIN_IMAGES_PER_SHARD = 8
_MAX_SHARDS = 256


@dataclasses.dataclass(frozen=True)
class SplitInputs:
  """Folders and archives of a split's HR images and, where LR images are given, of these."""

  hr: Sequence[str]
  lr: Sequence[str] = ()


def images_per_shard(num_images: int) -> int:
  """How many of a split's images go into each of its files, except the last."""
  return max(_MIN_IMAGES_PER_SHARD, -(-num_images // _MAX_SHARDS))


def check_grid(scales: Sequence[int], tile: int, overlap: int) -> TileGrid:
  """The grid of these settings; `InputError` if they do not fit together."""
  if not scales or any(scale not in SCALES for scale in scales):
    raise InputError(f"scales must be among {', '.join(map(str, SCALES))}, not {list(scales)}")
  grid = TileGrid(tuple(sorted(set(scales))), tile, overlap)
  if tile < grid.unit or tile % grid.unit or overlap % grid.unit or not 0 <= overlap < tile:
    raise InputError(
      f"a tile of {tile} and an overlap of {overlap} pixels: both must be multiples of "
      f"{grid.unit}, which every scale divides, and the overlap smaller than the tile"
    )
  return grid


def plan_images(inputs: SplitInputs, grid: TileGrid) -> list[ImageJob]:
  """The images of a split, matched and with their headers checked."""
  if not inputs.hr:
    raise InputError(f"{inputs.lr[0]}: LR images without HR images")
  hr = own_side(list(hr_images(inputs.hr).items()), grid.scales[0], "HR")
  lr = lr_images(inputs.lr, grid.scales) if inputs.lr else {}
  partners = {
    scale: match_names(hr, own_side(list(images.items()), scale, "LR"), scale)
    for scale, images in lr.items()
  }
  jobs = []
  bar = tqdm.tqdm(hr, unit="image", desc="reading headers", leave=False)
  for index, (name, image) in enumerate(bar):
    height, width = image.size()
    if min(height, width) < grid.unit:
      raise InputError(f"{image}: {width}x{height} pixels, smaller than {grid.unit}")
    given = {scale: images[index] for scale, images in partners.items()}
    for scale, lr_image in given.items():
      check_lr_size(lr_image, lr_image.size(), image, (height, width), scale)
    jobs.append(ImageJob(name, image, (height, width), given))
  return jobs
