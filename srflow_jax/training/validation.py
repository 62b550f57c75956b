"""Validation while training: the loss of all patches, and pictures and scores of a few.

The scores are the evaluator's, under their names in an evaluation's `summary.json`.
"""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tensorboardX import SummaryWriter

from srflow_jax.compiling import compiler_options
from srflow_jax.config import Config
from srflow_jax.evaluation import Settings, Trained, evaluate_image
from srflow_jax.evaluation.evaluator import request_of
from srflow_jax.evaluation.report import Row, averages
from srflow_jax.model.building import abstract_params
from srflow_jax.model.model import Model
from srflow_jax.ops.resize import bicubic_resize
from srflow_jax.sampling.budget import Plan
from srflow_jax.sampling.sampler import Sampler
from srflow_jax.sampling.tiles import cut
from srflow_jax.training.step import to_images

Array = jax.Array
Batch = dict[str, Any]

NUM_PICTURES = 4  # validation patches that are sampled and shown
NUM_SAMPLES = 3  # of each

# Values of an evaluation that get a curve each. The nll has one already, of all patches.
_CURVES = ("lr_psnr", "psnr", "ssim", "lpips_mean", "lpips_global", "lpips_local", "diversity")
_CURVES += ("bits_per_dim", "round_trip_error", "largest_inverse_factor")


class Validation:
  """The fixed validation patches of a run and what is computed of them."""

  def __init__(self, model: Model, config: Config, batches: list[Batch], local: Batch) -> None:
    """Prepares; nothing is compiled before it is called.

    Args:
      model: the model.
      config: the whole configuration.
      batches: validation batches, on the devices.
      local: one of this process's own batches, on the host: its first patches are sampled.

    Raises:
      InputError: the configuration's seed or temperature is out of range.
    """
    self._batches = batches
    self._pictures = list(zip(local["lr"], local["hr"], strict=True))[:NUM_PICTURES]
    self._settings = Settings(NUM_SAMPLES, config.eval_temperature, config.seed)
    self._settings.check()
    self._sampler = Sampler(model, abstract_params(model))
    self._system = Trained("validation", self._sampler)
    self._model = model
    lr, hr = self._pictures[0]
    request = request_of(self._system, hr.shape[:2], self._settings, measured=True)
    # Patches are small, and no budget may stop a run here.
    self._sampler.budget.use(lr.shape[:2], request, Plan(cut(lr.shape[:2], (1, 1), 0)))

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def mean_loss(params: Any, batch: Batch) -> Array:
      losses: Any = model.apply({"params": params}, *to_images(batch), method="loss")
      return jnp.mean(losses)

    self._mean_loss = mean_loss

  def loss(self, params: Any) -> float:
    """The mean loss over all validation patches; no noise is added."""
    return float(np.mean([self._mean_loss(params, batch) for batch in self._batches]))

  def write(self, writer: SummaryWriter, step: int, params: Any) -> float:
    """Writes loss, scores and pictures (rows of bicubic, a sample, HR) to TensorBoard.

    Args:
      writer: of TensorBoard's events.
      step: of the training.
      params: the model's parameters, a copy on each device. All processes must call; all compute
        the loss, and the first alone the rest.

    Returns:
      The loss.
    """
    loss = self.loss(params)
    writer.add_scalar(f"validation/{self._model.loss_name}", loss, step)
    if jax.process_index() == 0:
      shapes = self._sampler.variables
      self._sampler.variables = {
        "params": jax.tree.map(lambda leaf: leaf.addressable_data(0), params)
      }
      self._write_pictures(writer, step)
      self._sampler.variables = shapes  # the next training step takes the parameters' memory
    writer.flush()
    return loss

  def _write_pictures(self, writer: SummaryWriter, step: int) -> None:
    scored, pictures = [], []
    for lr, hr in self._pictures:
      samples, scores = evaluate_image(self._system, lr, hr, self._settings)
      if not any(
        scores.not_finite
      ):  # a flow may give such values in its first steps; the picture is black there
        scored.append(Row("", self._system.name, hr.shape[:2], scores))
      bicubic = bicubic_resize(lr, self._model.scale)
      pictures.append(np.concatenate([bicubic, samples[0], hr], axis=1))
    protocol = self._settings.protocol() | {"num_samples": NUM_SAMPLES, "images": len(pictures)}
    writer.add_text("validation/protocol", json.dumps(protocol), step)
    writer.add_image(
      "validation/bicubic_sample_hr", np.concatenate(pictures), step, dataformats="HWC"
    )
    writer.add_scalar("validation/not_finite", len(pictures) - len(scored), step)
    if len(scored) == len(pictures):
      means = averages(scored)
      for name in _CURVES:
        if means.get(name) is not None:
          writer.add_scalar(f"validation/{name}", means[name], step)
