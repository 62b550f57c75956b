"""Checkpoints of a run, and the models in them.

The checkpoint after N steps is the folder W/checkpoints/N. Orbax writes it, whole or not at all,
while training goes on. In it are

    params, ema, rest   trees of arrays: the parameters, their moving average if the run has one,
                        and all else that training needs (of imported weights there is none)
    contents            JSON: the step, the validation loss if it was computed then, and of each
                        tree a SHA-256 of its names, types, shapes and values

What is read is compared with these digests. Checkpoints of earlier versions have the validation
loss in `metrics` and no digests.
"""

from srflow_jax.checkpoints.models import Run, load_run
from srflow_jax.checkpoints.reading import Contents, DamagedError, contents, load_trees, saved_steps
from srflow_jax.checkpoints.writing import Writer, set_aside, writer

__all__ = [
  "Contents",
  "DamagedError",
  "Run",
  "Writer",
  "contents",
  "load_run",
  "load_trees",
  "saved_steps",
  "set_aside",
  "writer",
]
