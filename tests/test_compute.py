"""How a model computes: only bfloat16 changes more than speed and memory, and that a little."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden_weights
from configs import tiny, x4_da
from models import random_images, random_params, small_model
from srflow_jax.model.building import abstract_params, build_model
from srflow_jax.model.features import Given
from srflow_jax.model.model import ComputeSpec
from srflow_jax.training.step import create_state, make_train_step
from srflow_jax.weights import published

DATA = pathlib.Path(__file__).parent / "data"


def loss_and_grads(model, params, hr, lr):
  def loss(params):
    return jnp.mean(model.apply({"params": params}, hr, lr, method="loss"))

  return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["remat", "unroll"])
@pytest.mark.parametrize("name", ["x4_da_r", "x4_srflow"])
def test_no_gradient_depends_on_how_it_is_computed(name, how):
  plain = small_model(name)
  other = dataclasses.replace(plain, compute=ComputeSpec(**{how: True}))
  assert jax.tree.structure(abstract_params(plain)) == jax.tree.structure(abstract_params(other))
  params = random_params(plain)
  with jax.enable_x64(True):
    hr, lr = random_images(plain, (4, 4))
    (loss, grads), (other_loss, other_grads) = (
      loss_and_grads(model, params, hr, lr) for model in (plain, other)
    )
  np.testing.assert_allclose(other_loss, loss, rtol=1e-12)
  for grad, same in zip(jax.tree.leaves(grads), jax.tree.leaves(other_grads), strict=True):
    np.testing.assert_allclose(same, grad, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_rematerialisation_saves_memory():
  config = tiny.get_config()
  config.model.encoder.update(width=8, growth=4, num_blocks=1)
  config.model.conditioner.update(width=16, num_hidden=4)
  config.model.stages = ({"squeeze": 4, "transition_steps": 0, "steps": 4, "split": False},)
  images = {"hr": (8, 64, 64, 3), "lr": (8, 16, 16, 3)}
  batch = {name: jax.ShapeDtypeStruct(shape, jnp.uint8) for name, shape in images.items()}

  def memory(remat):
    model = build_model(config.model, ComputeSpec(remat=remat))
    state = jax.eval_shape(
      lambda: create_state(config.optim, abstract_zeros(model), jax.random.key(0))
    )
    program = make_train_step(model, config, model.parts).lower(state, batch).compile()
    return program.memory_analysis().temp_size_in_bytes

  def abstract_zeros(model):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract_params(model))

  without, with_remat = memory(False), memory(True)
  assert with_remat < 0.7 * without, (with_remat, without)


def test_bfloat16_stays_near_the_published_values():
  """A round trip within half a grey level, log-det and log-density within 2e-4."""
  meta = json.loads((DATA / "da_x4.json").read_text())
  arrays = np.load(DATA / "da_x4.npz")
  model = build_model(x4_da.get_config().model, ComputeSpec(bfloat16=True))
  state_dict = golden_weights.state_dict(meta["state_dict"], meta["seed"])
  params = jax.tree.map(jnp.asarray, published.from_state_dict(model, state_dict))

  def method(name):
    return jax.jit(lambda *args: model.apply({"params": params}, *args, method=name))

  context = method("condition")(Given(arrays["lr"]))
  parts = method("density_parts")(arrays["gt"], context)
  latents, log_det = parts.latents, sum(parts.log_dets)
  back, inverse_log_det = method("inverse_and_log_det")(latents, context)
  assert {leaf.dtype for leaf in (*latents, log_det, back)} == {jnp.dtype("float32")}
  assert any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(context))
  np.testing.assert_allclose(back, arrays["gt"], atol=0.5 / 255)
  np.testing.assert_allclose(log_det, arrays["log_det"], rtol=2e-4)
  np.testing.assert_allclose(inverse_log_det, -log_det, rtol=1e-5)
  np.testing.assert_allclose(parts.log_prob, arrays["log_prob"], rtol=2e-4)


@pytest.mark.slow
def test_bfloat16_trains_float32_parameters():
  plain = small_model("x4_da")
  half = dataclasses.replace(plain, compute=ComputeSpec(bfloat16=True))
  params = random_params(plain, dtype=np.float32)
  images = random_images(plain, (4, 4), dtype=np.float32)
  loss, grads = loss_and_grads(half, params, *images)
  exact_loss, exact = loss_and_grads(plain, params, *images)
  assert {leaf.dtype for leaf in (loss, *jax.tree.leaves(grads))} == {jnp.dtype("float32")}
  np.testing.assert_allclose(loss, exact_loss, rtol=0.01)
  flat, exact = (jnp.concatenate([g.ravel() for g in jax.tree.leaves(t)]) for t in (grads, exact))
  assert jnp.vdot(flat, exact) > 0.99 * jnp.linalg.norm(flat) * jnp.linalg.norm(exact)
