"""Validation while training: the loss, and pictures of samples for TensorBoard."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tensorboardX import SummaryWriter

from srflow_jax.metrics import to_uint8
from srflow_jax.model import Model
from srflow_jax.resize import bicubic_resize
from srflow_jax.training.step import to_training_images

Array = jax.Array
Batch = dict[str, Any]

NUM_PICTURES = 4  # validation patches that TensorBoard shows


class Validation:
  """The fixed validation patches of a run and what is computed of them."""

  def __init__(self, model: Model, config: Any, batches: list[Batch], local: Batch) -> None:
    """Prepares; nothing is compiled before it is called.

    Args:
      model: the model.
      config: the whole configuration.
      batches: validation batches, on the devices.
      local: one of this process's own batches, on the host: its first patches are drawn.
    """
    self._batches = batches
    self._pictures = {name: array[:NUM_PICTURES] for name, array in local.items()}

    @jax.jit
    def mean_loss(params: Any, batch: Batch) -> Array:
      hr, lr = to_training_images(batch, 0.0, jax.random.key(0))
      return jnp.mean(model.apply({"params": params}, hr, lr, method="loss"))

    @jax.jit
    def draw(params: Any, batch: Batch) -> Array:
      key = jax.random.key(config.seed)
      _, lr = to_training_images(batch, 0.0, key)
      return model.apply({"params": params}, key, lr, config.eval_temperature, 1, method="sample")

    self._mean_loss, self._draw, self._model = mean_loss, draw, model

  def loss(self, params: Any) -> float:
    """The mean loss over all validation patches; no noise is added."""
    return float(np.mean([self._mean_loss(params, batch) for batch in self._batches]))

  def write(self, writer: SummaryWriter, step: int, params: Any) -> float:
    """Writes loss and pictures to TensorBoard: rows of bicubic, a sample, HR. Returns the loss."""
    loss = self.loss(params)
    writer.add_scalar(f"validation/{self._model.loss_name}", loss, step)
    local_params = jax.tree.map(lambda leaf: leaf.addressable_data(0), params)
    samples = np.asarray(self._draw(local_params, self._pictures)[0])
    rows = [
      np.concatenate([bicubic_resize(lr, self._model.scale), _viewable(sample), hr], axis=1)
      for lr, sample, hr in zip(self._pictures["lr"], samples, self._pictures["hr"], strict=True)
    ]
    writer.add_image("validation/bicubic_sample_hr", np.concatenate(rows), step, dataformats="HWC")
    writer.flush()
    return loss


def _viewable(image: np.ndarray) -> np.ndarray:
  # An untrained flow may decode to what is not a number; the picture shows that as black.
  return to_uint8(np.nan_to_num(image, nan=0.0, posinf=1.0, neginf=0.0))
