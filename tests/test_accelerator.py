"""How near a device comes to the published model, by the precision of its convolutions.

On a CPU all precisions are float32's. The errors are recorded as properties of the tests, of which
`python -m benchmarks.accelerator` makes a table.
"""

import contextlib
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden_weights
from configs import x4_da
from srflow_jax.model.building import build_model
from srflow_jax.model.features import Given
from srflow_jax.model.model import ComputeSpec
from srflow_jax.training.step import create_state, make_train_step
from srflow_jax.weights import published

pytestmark = [pytest.mark.accelerator, pytest.mark.slow]

DATA = pathlib.Path(__file__).parent / "data"
# Name: JAX's precision of matrix products; whether in bfloat16; tolerances: of latents and of the
# image decoded from given latents (absolute), of densities, of training losses and of gradients'
# norms (relative).
PRECISIONS = {
  "highest": ("highest", False, 1e-4, 1e-5, 1e-3, 1e-2),
  "default": (None, False, 0.01, 2e-4, 3e-3, 3e-2),
  "bfloat16": (None, True, 0.02, 2e-4, 5e-3, 5e-2),
}


@pytest.fixture(params=PRECISIONS)
def case(request):
  """The published DA x4: configuration, model, parameters, arrays and tolerances."""
  precision, bfloat16, *tolerances = PRECISIONS[request.param]
  config = x4_da.get_config()
  config.data.noise.std = 0.0
  config.optim.learning_rate = 1e-4
  model = build_model(config.model, ComputeSpec(bfloat16=bfloat16))
  meta = json.loads((DATA / "da_x4.json").read_text())
  state_dict = golden_weights.state_dict(meta["state_dict"], meta["seed"])
  params = jax.tree.map(jnp.asarray, published.from_state_dict(model, state_dict))
  named = precision and jax.default_matmul_precision(precision)
  with named or contextlib.nullcontext():
    yield config, model, params, dict(np.load(DATA / "da_x4.npz")), tolerances


def test_values(case, record_property):
  _, model, params, data, (tolerance, relative, _, _) = case

  @jax.jit
  def everything(params, lr, gt, drawn):
    def call(*args, method):
      return model.apply({"params": params}, *args, method=method)

    context = call(Given(lr), method="condition")
    density = call(gt, context, method="density_parts")
    latents = density.latents
    sr, _ = call(drawn, context, method="inverse_and_log_det")
    back, _ = call(latents, context, method="inverse_and_log_det")
    return latents, sr, back, density.log_prob

  drawn = tuple(data[f"sr_latent{i}"] for i in range(2))
  latents, sr, back, log_prob = everything(params, data["lr"], data["gt"], drawn)
  errors = {f"latent{i}": np.abs(z - data[f"latent{i}"]).max() for i, z in enumerate(latents)}
  errors["sr"] = np.abs(sr - data["sr"]).max()
  round_trip = np.abs(back - data["gt"]).max()
  density = np.abs(log_prob / data["log_prob"] - 1).max()
  for name, error in (errors | {"round trip": round_trip, "log_prob": density}).items():
    record_property(name, float(error))
  assert max(errors.values()) <= tolerance, errors
  assert round_trip <= 0.5 / 255
  assert density <= relative


def test_training_steps(case, record_property):
  config, model, params, data, (_, _, relative, of_norms) = case
  published_run = json.loads((DATA / "train_da_x4.json").read_text())
  state = create_state(config.optim, params, jax.random.key(0))
  step = make_train_step(model, config, parts=("flow",))
  batch = {"hr": 255 * data["gt"], "lr": 255 * data["lr"]}
  losses, norms = [], []
  for _ in published_run["nll_bits_per_pixel"]:
    state, metrics = step(state, batch)
    losses.append(float(metrics["nll"]))
    norms.append(float(metrics["gradient_norm"]))
  loss_error = np.abs(losses / np.array(published_run["nll_bits_per_pixel"]) - 1).max()
  norm_error = np.abs(norms / np.array(published_run["flow_gradient_norm"]) - 1).max()
  record_property("loss", float(loss_error))
  record_property("gradient norm", float(norm_error))
  assert math.isfinite(loss_error) and loss_error <= relative
  assert norm_error <= of_norms
