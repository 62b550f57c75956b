"""How much tiles differ from the whole image, against their overlap, for a trained model.

python -m benchmarks.tiles --workdir=W [--hr_dir=PHOTOS] [--overlaps=8,16] [--temperatures=0,0.9]

Prints, for each photograph (by default the bundled ones for validation), the largest difference in
grey levels (of clipped values) between the image computed whole and computed in tiles, and the
99.9th percentile.
"""

import numpy as np
from absl import flags

from srflow_jax import cli
from srflow_jax.checkpoints import load_run
from srflow_jax.data.folders import photographs
from srflow_jax.errors import InputError
from srflow_jax.images import read_image
from srflow_jax.ops.resize import bicubic_resize
from srflow_jax.sampling.budget import Plan, Request
from srflow_jax.sampling.sampler import Sampler
from srflow_jax.sampling.tiles import cut

_WORKDIR = flags.DEFINE_string("workdir", None, "The training run's folder.", required=True)
_OVERLAPS = cli.define_numbers("overlaps", [8, 16, 24, 32], "LR pixels.", least=0)
_TEMPERATURES = cli.define_numbers("temperatures", [0, 0.9], "Of the samples.", float, least=0)
_HR_DIR = flags.DEFINE_string("hr_dir", "", "Folder of photographs.")
_SIZE = cli.define_numbers("size", [], "Height and width in LR pixels, cut from each; all of it.")

_INSIDE = 16  # LR pixels that a tile keeps
_REQUEST = Request(("draw",))


def _draw(sampler: Sampler, lr: np.ndarray, temperature: float) -> np.ndarray:
  image = np.empty([side * sampler.model.scale for side in lr.shape[:2]] + [3], np.float32)
  for _, where, part in sampler.draw(sampler.prepare(lr, _REQUEST), 0, range(1), temperature):
    image[where] = part
  return np.clip(image, 0, 1) * 255


def main(argv: list[str]) -> None:
  """Prints a line for each photograph, temperature and overlap."""
  del argv
  if len(_SIZE.value) not in (0, 2):
    raise InputError("--size: give a height and a width")
  run = load_run(_WORKDIR.value)
  scale, multiple = run.model.scale, run.model.lr_multiple
  print(f"default overlap: {run.model.tile_overlap}")
  for name, path in photographs(_HR_DIR.value, "validation"):
    hr = read_image(path)
    sides = [side // (scale * multiple) * multiple for side in hr.shape[:2]]
    if _SIZE.value:
      sides = [min(pair) for pair in zip(sides, _SIZE.value, strict=True)]
    hr = hr[: sides[0] * scale, : sides[1] * scale]
    lr = (bicubic_resize(hr, 1 / scale) / 255).astype(np.float32)
    for temperature in _TEMPERATURES.value:
      whole = _draw(Sampler(run.model, run.params), lr, temperature)
      for overlap in _OVERLAPS.value:
        sampler = Sampler(run.model, run.params, overlap=overlap)
        lost = 2 * sampler.budget.overlap
        counts = [max(1, (side - lost) // _INSIDE) for side in sides]
        tiling = cut(tuple(sides), tuple(counts), sampler.budget.overlap, multiple)
        sampler.budget.use(tuple(sides), _REQUEST, Plan(tiling))
        difference = np.abs(_draw(sampler, lr, temperature) - whole)
        print(
          f"{name} {sides[1]}x{sides[0]} temperature {temperature:g} overlap {overlap}: "
          f"{len(tiling.tiles)} tiles, largest difference {difference.max():.4f}, "
          f"99.9 % below {np.percentile(difference, 99.9):.4f}",
          flush=True,
        )


if __name__ == "__main__":
  cli.run(main)
