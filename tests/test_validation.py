"""Validation while training: what TensorBoard gets, and that nothing stops it."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import random_params
from srflow_jax.errors import InputError
from srflow_jax.evaluation import Settings, Trained, evaluate_image
from srflow_jax.evaluation.report import Row, averages
from srflow_jax.model.building import build_model
from srflow_jax.model.features import Given
from srflow_jax.ops.resize import bicubic_resize
from srflow_jax.training.validation import NUM_PICTURES, NUM_SAMPLES, Validation
from test_training import micro_config


class Writer:
  """Keeps what TensorBoard would get."""

  def __init__(self):
    self.scalars, self.texts, self.images = {}, {}, {}

  def add_scalar(self, name, value, step):
    self.scalars[name] = float(value)

  def add_text(self, name, text, step):
    self.texts[name] = text

  def add_image(self, name, image, step, dataformats):
    self.images[name] = image

  def flush(self):
    pass


def batch_of(patch, count=5):
  coarse = np.random.default_rng(0).integers(0, 256, (count, patch // 4, patch // 4, 3), np.uint8)
  hr = np.stack([bicubic_resize(image, 4) for image in coarse])
  return {"hr": hr, "lr": np.stack([bicubic_resize(image, 1 / 4) for image in hr])}


def parameters(model, seed=0):
  params = random_params(model, seed, dtype=np.float32)
  return jax.tree.map(lambda leaf: jnp.asarray(0.1 * leaf if leaf.ndim >= 4 else leaf), params)


def written(validation, params):
  writer = Writer()
  return validation.write(writer, 7, params), writer


@pytest.fixture(scope="module")
def validated():
  """A model, its validation on patches that LPIPS can measure, and the patches."""
  config = micro_config()
  config.data.hr_patch = 32
  model, batch = build_model(config.model), batch_of(32)
  return model, Validation(model, config, [batch], batch), batch, config


def test_scores_are_the_evaluator_s(validated):
  model, validation, batch, config = validated
  params = parameters(model)
  loss, writer = written(validation, params)
  sampler = copy.copy(validation._sampler)  # its programs are compiled
  sampler.variables = {"params": params}
  system = Trained("x", sampler)
  settings = Settings(NUM_SAMPLES, config.eval_temperature, config.seed)
  pairs = list(zip(batch["lr"], batch["hr"], strict=True))[:NUM_PICTURES]
  drawn = [evaluate_image(system, lr, hr, settings) for lr, hr in pairs]
  expected = averages([Row("", "x", (32, 32), scores) for _, scores in drawn])
  names = {name.removeprefix("validation/") for name in writer.scalars} - {"nll", "not_finite"}
  assert {"psnr", "ssim", "lr_psnr", "lpips_mean", "lpips_global", "lpips_local"} <= names
  for name in names:
    assert writer.scalars[f"validation/{name}"] == pytest.approx(expected[name], rel=1e-6)
  assert writer.scalars["validation/not_finite"] == 0
  nll = jax.jit(lambda lr, hr: model.apply({"params": params}, hr, Given(lr), method="nll"))
  images = (np.float32(batch[name]) / 255 for name in ("lr", "hr"))
  assert loss == pytest.approx(float(nll(*images).mean()), rel=1e-5)
  assert writer.scalars["validation/nll"] == loss
  protocol = json.loads(writer.texts["validation/protocol"])
  assert (protocol["name"], protocol["version"]) == ("ntire21", 1)
  picture = writer.images["validation/bicubic_sample_hr"]
  assert picture.shape == (NUM_PICTURES * 32, 3 * 32, 3)
  np.testing.assert_array_equal(picture[32:64, 32:64], drawn[1][0][0])


def test_a_second_time_compiles_nothing(validated, caplog):
  model, validation, _, _ = validated
  others = parameters(model, seed=1)
  _, first = written(validation, parameters(model))
  with jax.log_compiles():
    _, second = written(validation, others)
    jax.jit(lambda probe: probe + 1)(0)
  assert second.scalars["validation/psnr"] != first.scalars["validation/psnr"]
  compiled = [text for text in caplog.messages if "Finished XLA compilation" in text]
  assert len(compiled) == 1 and "lambda" in compiled[0]


def test_what_is_not_finite_is_said_and_stops_nothing(validated):
  model, validation, _, _ = validated
  params = jax.tree.map(lambda leaf: leaf * np.nan, parameters(model))
  loss, writer = written(validation, params)
  assert np.isnan(loss)
  assert writer.scalars["validation/not_finite"] == NUM_PICTURES
  assert "validation/psnr" not in writer.scalars
  assert not writer.images["validation/bicubic_sample_hr"][:, 32:64].any()


def test_an_encoder_alone_is_validated():
  config = micro_config()
  config.model.stages = ()
  model, batch = build_model(config.model), batch_of(16)
  _, writer = written(Validation(model, config, [batch], batch), parameters(model))
  names = {"l1", "psnr", "ssim", "lr_psnr", "not_finite"}  # the patch is too small for LPIPS
  assert set(writer.scalars) == {f"validation/{name}" for name in names}


def test_temperature_that_cannot_be_meant():
  config = micro_config()
  config.eval_temperature = -1.0
  batch = batch_of(16)
  with pytest.raises(InputError, match=r"temperature is -1\.0"):
    Validation(build_model(config.model), config, [batch], batch)
