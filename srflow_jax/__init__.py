"""Super-resolution with normalizing flows in JAX and Flax.

`load("x4_small")` or `load(workdir)` opens a trained model on photographs; see
`srflow_jax.api.SuperResolution`.
"""

import os
import typing

if typing.TYPE_CHECKING:
  from srflow_jax.api import SuperResolution

__all__ = ["load"]


def load(
  workdir: str | os.PathLike,
  max_memory_gb: float = 0.0,
  tile_overlap: int | None = None,
  step: int | typing.Literal["best"] | None = None,
  ema: bool = True,
) -> "SuperResolution":
  """Opens a trained model for use on NumPy or PIL images.

      import srflow_jax
      model = srflow_jax.load("x4_small")
      samples = model.sample(PIL.Image.open("photo.png"), num_samples=4)  # uint8 [4, H, W, 3]

  Args:
    workdir: A training run's folder; or the name of a model that the repository carries:
      "x4_small", "x4_realsr", or "realsr", which is deterministic.
    max_memory_gb: The budget, in 10^9 bytes, that decides whether images are cut into tiles; 0 for
      half of the machine's memory (on an accelerator: three quarters of its own).
    tile_overlap: LR pixels that tiles overlap; None for the default.
    step: Of a run's checkpoint; "best" by validation loss; None for the latest.
    ema: Takes the moving average of the parameters, if the run has one.

  Raises:
    InputError: There is no run, no checkpoint, or a number cannot be meant.
  """
  # Not at the top: who only imports a module of the package need not wait for all others.
  from srflow_jax.api import SuperResolution

  return SuperResolution(workdir, max_memory_gb, tile_overlap, step, ema)
