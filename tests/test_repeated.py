import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import random_images, random_params, small_model
from srflow_jax.model.features import Given
from srflow_jax.model.flow import Stage, Step
from srflow_jax.model.residual_encoders import RRDB
from srflow_jax.ops.repeated import repeated


class Layer(nn.Module):
  @nn.compact
  def __call__(self, x):
    mean = self.param("mean", lambda _: jnp.mean(x))  # of what reaches the layer
    noise = self.param("noise", nn.initializers.normal(), ())
    return 2 * x + 1, (mean, noise)


def test_each_layer_is_initialised_by_what_reaches_it_with_a_key_of_its_own():
  layers = repeated(Layer, 3, {"__call__": False})()
  (x, (means, noises)), variables = layers.init_with_output(jax.random.key(0), jnp.ones(4))
  np.testing.assert_array_equal(x, 15 * np.ones(4))
  np.testing.assert_array_equal(means, [1, 3, 7])
  np.testing.assert_array_equal(variables["params"]["mean"], means)
  assert len(set(np.asarray(noises).tolist())) == 3


@pytest.mark.slow
def test_a_stage_is_its_steps_one_after_the_other():
  """Forward, inverse and gradients of a scanned stage are those of a plain loop."""
  with jax.enable_x64(True):
    model = small_model("x4_srflow")
    params = random_params(model)
    _, lr = random_images(model, (4, 4))
    context = model.apply({"params": params}, lr, method="condition").stages[0].steps
    params = params["flow"]["stages_0"]
    spec = model.stage_specs[0]
    width = model.encoder_part.unbound(scale=4).feature_channels
    stage, step = Stage(spec, 3, width, is_last=False), Step(spec.step, 12, width)
    z = jnp.asarray(np.random.default_rng(0).standard_normal((1, 8, 8, 12)))

    def scanned(params, z, method):
      apply = nn.apply(lambda stage, z: getattr(stage.steps, method)(z, context), stage)
      z, log_dets = apply({"params": params}, z)
      return z, jnp.sum(log_dets, 0)

    def looped(params, z, method):
      log_det = 0
      for i in range(spec.steps) if method == "forward_and_log_det" else range(spec.steps)[::-1]:
        one, one_context = jax.tree.map(lambda leaf: leaf[i], (params["steps"], context))  # noqa: B023
        z, step_log_det = step.apply({"params": one}, z, one_context, method=method)
        log_det += step_log_det
      return z, log_det

    for method in ("forward_and_log_det", "inverse_and_log_det"):
      results = [
        jax.jit(jax.value_and_grad(lambda p, f=f, m=method: sum(map(jnp.sum, f(p, z, m)))))(params)
        for f in (scanned, looped)
      ]
      jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), *results)


class Doubled(nn.Module):
  """Has a parameter, its own context, and adds it."""

  def setup(self):
    self.number = self.param("number", nn.initializers.normal(), ())

  def own(self, carry):
    return carry, [2 * self.number, None]

  def __call__(self, x, context):
    return x + context[0], None


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_what_depends_on_parameters_alone_is_computed_for_all_layers(device, unroll, monkeypatch):
  """As one batch or one after the other, from the same initial parameters."""
  monkeypatch.setattr(jax, "default_backend", lambda: device)
  layers = repeated(Doubled, 3, {"__call__": False}, batched=("own",), unroll=unroll)()

  def run(layers, x):
    _, contexts = layers.own(None)
    return layers(x, contexts)[0]

  x, variables = layers.init_with_output(jax.random.key(0), 1.0, method=run)
  numbers = variables["params"]["number"]
  plain = repeated(Doubled, 3, {"own": False})().init(jax.random.key(0), None, method="own")
  np.testing.assert_allclose(numbers, plain["params"]["number"], rtol=1e-6)
  np.testing.assert_allclose(x, 1 + 2 * numbers.sum(), rtol=1e-6)
  text = str(jax.make_jaxpr(lambda v: layers.apply(v, None, method="own"))(variables))
  assert ("scan" in text) == (device == "cpu")


def test_of_an_encoder_s_blocks_only_the_tapped_outputs_are_kept():
  num_blocks, taps, width = 7, (1, 4), 8
  sizes = {"width": width, "growth": 4, "num_blocks": num_blocks, "taps": taps}
  encoder = RRDB(scale=4, global_skip="last_block", **sizes)
  given = Given(jnp.zeros((1, 5, 6, 3)))
  params = jax.eval_shape(lambda: encoder.init(jax.random.key(0), given, method="trunk"))
  trunk = jax.make_jaxpr(lambda params: encoder.apply(params, given, method="trunk"))(params)
  for kept, is_there in ((num_blocks, False), (len(taps) + 1, True)):  # one slot is for the others
    assert (f"[{kept},1,5,6,{width}]" in str(trunk)) == is_there, kept
