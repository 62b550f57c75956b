"""How far a flow sees: in pixels, by its architecture, and in bits, by hiding what lies beyond.

In pixels: a coupling sees as far as its net, and each coupling passes on what those before it saw.
With n of them, of radius r, at 1/d of the HR size, a place depends on HR pixels up to `n r d` away;
a side is `1 + 2 n r d`, as SRFlow-DA's paper counts it (145 for its first stage, 129 for SRFlow's).
What a split passes on sees one coupling less, since the last one leaves that half as it is; the sum
over all stages is the largest that the couplings of any latent could see. What encoder, priors and
target see besides is not counted.

In bits: the nll of the middle of an image rises where the LR image is hidden from the model beyond
a radius. The radius at which 95 % of what LR tells is reached says how far the model really looks.
"""

import functools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srflow_jax.checkpoints import Run, load_run
from srflow_jax.compiling import compiler_options
from srflow_jax.config import Config
from srflow_jax.errors import InputError
from srflow_jax.evaluation.inputs import find_images
from srflow_jax.model.building import build_model
from srflow_jax.model.features import Given
from srflow_jax.model.srflow import SRFlow

RADII = (0, 1, 2, 4, 8, 16, 32)  # LR pixels around the target
HIDDEN = ("lr", "lr_and_kept")  # what is hidden: LR; or LR, and HR as well
_TARGET = 4  # LR pixels a side of the target, at least
_REACHED = 0.95  # the share of the gain at which a radius counts


def sides(config: Config) -> dict[str, int]:
  """Sides, in HR pixels, of what a place of a flow depends on, by the architecture.

  Returns:
    `receptive_field_K` of stage K alone, counted from 1, and `receptive_field` of all stages in a
    row. Those that a layer of unknown radius has part in are left out.
  """
  model = build_model(config.model, config.compute)
  return sides_of(model) if isinstance(model, SRFlow) else {}


def sides_of(model: SRFlow) -> dict[str, int]:
  """`sides` of a flow."""
  radii, (_, downscale) = [], model.target.channels_and_downscale(model.scale)
  for spec in model.stage_specs:
    downscale *= spec.squeeze
    layers = (*spec.transition * spec.transition_steps, *spec.step * spec.steps)
    each = [layer.unbound(channels=2, feature_channels=1).radius for layer in layers]
    radii.append(None if None in each else downscale * sum(each))
  found = {
    f"receptive_field_{i}": 1 + 2 * radius
    for i, radius in enumerate(radii, start=1)
    if radius is not None
  }
  if None not in radii:
    found["receptive_field"] = 1 + 2 * sum(radii)
  return found


def in_bits(
  workdir: pathlib.Path, hr_dir: str, lr_dir: str, number: int
) -> dict[str, dict[str, float]]:
  """How much the nll of the middle of images rises where the model is shown less.

  Args:
    workdir: of a trained flow.
    hr_dir: as `find_images` takes it.
    lr_dir: likewise.
    number: of images, the first ones.

  Returns:
    By image `rise_lr/R` and `rise_lr_and_kept/R`, bits per pixel of the target: the nll with all
    beyond R LR pixels of the target hidden, less that with nothing hidden. Radii that the image is
    too small for are left out. Of a model without a density there is nothing.

  Raises:
    InputError: there is no run, or an image is not larger than the target.
  """
  run = load_run(workdir)
  if not run.model.stochastic:
    return {}
  scale = run.model.scale
  images = {}
  for image in find_images(scale, hr_dir, lr_dir)[:number]:
    lr, hr = image.read(scale)
    assert hr is not None  # a study's evaluation has HR images
    images[image.name] = rises(run, lr / np.float32(255), hr / np.float32(255))
  return images


def rises(run: Run, lr: np.ndarray, hr: np.ndarray) -> dict[str, float]:
  """`in_bits` of one image: lr `[h, w, 3]` and hr, in [0, 1]."""
  model: Any = run.model
  multiple = model.lr_multiple
  target = math.ceil(_TARGET / multiple) * multiple
  smallest = min(lr.shape[:2])
  if smallest < target + 2 * multiple:
    raise InputError(f"an image of {lr.shape[1]}x{lr.shape[0]} LR pixels is too small to hide from")
  margin = min(RADII[-1] + multiple, (smallest - target) // 2) // multiple * multiple
  side = target + 2 * margin
  top, left = ((size - side) // 2 for size in lr.shape[:2])
  lr = lr[top : top + side, left : left + side]
  hr = hr[top * model.scale :, left * model.scale :][: side * model.scale, : side * model.scale]
  radii = [radius for radius in RADII if radius < margin]

  @functools.partial(jax.jit, compiler_options=compiler_options())
  def density(lr: Any, hr: Any) -> Any:
    return target_bits(model, run.params, lr, hr, margin, target)

  whole = float(density(lr[None], hr[None])[0])
  found = {}
  for name in HIDDEN:
    for radius in radii:
      shown = slice(margin - radius, margin + target + radius)
      fill = lr[shown, shown].mean((0, 1))
      images = [_hidden(lr, shown, fill), hr]
      if name == "lr_and_kept":
        finer = slice(shown.start * model.scale, shown.stop * model.scale)
        images[1] = _hidden(hr, finer, fill)
      masked = density(images[0][None], images[1][None])
      found[f"rise_{name}/{radius}"] = float(masked[0]) - whole
  return found


def _hidden(image: np.ndarray, shown: slice, fill: np.ndarray) -> np.ndarray:
  """An image of one colour but for a square of it."""
  masked = np.broadcast_to(fill, image.shape).astype(image.dtype)
  masked[shown, shown] = image[shown, shown]
  return masked


def target_bits(
  model: SRFlow, params: Any, lr: jax.Array, hr: jax.Array, margin: int, target: int
) -> jax.Array:
  """What a square of an image adds to its nll, but for what is the same for all images.

  A log-density is a sum over the places of all stages: of elementwise maps' log-derivatives and of
  the latents' log-densities. (Actnorms and mixers add a constant.)

  Args:
    model: the flow.
    params: its parameters.
    lr: `[B, h, w, 3]`, of a size that the model does not pad.
    hr: `[B, h * scale, w * scale, 3]`.
    margin: LR pixels from the borders to the square.
    target: LR pixels a side of the square.

  Returns:
    `[B]`, bits per pixel of the square.
  """
  variables = {"params": params}
  context: Any = model.apply(variables, Given(lr), method="condition")
  parts, noted = model.apply(variables, hr, context, method="density_parts", mutable=["log_factor"])
  size = lr.shape[1]

  def within(places: jax.Array) -> jax.Array:
    """Sums `[..., B, h, w, C]` over all places of the square: `[B]`."""
    finer = places.shape[-3] / size  # places a side of an LR pixel
    rows = slice(round(margin * finer), round((margin + target) * finer))
    inner = places[..., rows, rows, :]
    others = tuple(axis for axis in range(inner.ndim) if axis != inner.ndim - 4)
    return jnp.sum(inner, others)

  nats = jnp.zeros(len(lr))
  for latent in parts.latents:
    nats += within(-0.5 * latent**2)
  for factor in jax.tree.leaves(noted):
    if factor.ndim >= 4 and factor.shape[-4] == len(lr):
      nats -= within(factor)
  return -nats / (math.log(2) * (target * model.scale) ** 2)


def radius_reached(rise: dict[int, float]) -> float:
  """The smallest radius at which 95 % of the gain from radius 0 to the whole image is reached.

  Args:
    rise: of the nll, by radius.

  Returns:
    The radius in LR pixels; infinity if none reaches so much, NaN if there is no gain.
  """
  if not rise or not rise[min(rise)] > 0:
    return math.nan
  most = (1 - _REACHED) * rise[min(rise)]
  return min((radius for radius in sorted(rise) if rise[radius] <= most), default=math.inf)
