"""The whole model: published outputs, and the properties of a flow, for every variant."""

import dataclasses
import importlib
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import golden_weights
from models import VARIANTS, random_images, random_params, small_model
from srflow_jax.errors import InputError
from srflow_jax.model.building import abstract_params, build_model, count_parameters, init_params
from srflow_jax.model.features import Given, pad_to
from srflow_jax.weights import published

DATA = pathlib.Path(__file__).parent / "data"

# The published models' counts; the papers add 276,576 of a layer that nothing uses.
FLOW_PARAMETERS = {
  "x4_srflow": 22_567_248,
  "x4_da": 8_414_064,
  "x4_da_r": 8_414_064,
  "x4_da_s": 8_504_736,
  "x4_da_d": 6_131_008,
  "x8_srflow": 33_810_400,
  "x8_da": 13_003_392,
  "x8_da_r": 13_003_392,
  "x8_da_s": 14_737_440,
  "x8_da_d": 9_265_488,
}
ENCODER_PARAMETERS = {"x4": 16_697_987, "x8": 16_734_915}


def shipped_model(name: str):
  return build_model(importlib.import_module(f"configs.{name}").get_config().model)


@pytest.mark.parametrize("name", FLOW_PARAMETERS)
def test_parameter_counts_are_the_published_ones(name):
  params = abstract_params(shipped_model(name))
  assert count_parameters(params["flow"]) == FLOW_PARAMETERS[name]
  assert count_parameters(params["encoder"]) == ENCODER_PARAMETERS[name[:2]]


CONFIGS = [path.stem for path in (pathlib.Path(__file__).parents[1] / "configs").glob("*.py")]


# `workdir.py` takes an argument; tests of the weights use it.
@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"workdir"}))
def test_every_shipped_config_has_a_model_and_no_field_of_its_own(name):
  base = importlib.import_module("configs.base").get_config()
  config = importlib.import_module(f"configs.{name}").get_config()
  build_model(config.model)
  assert config.is_locked
  # A part's own fields depend on its kind; building the model has checked them.
  blocks = {("optim", "optimizer"), ("data", "noise")}
  of_kinds = {
    key
    for key in flatten_dict(config.to_dict())
    if len(key) == 3 and (key[0] == "model" or key[:2] in blocks)
  }
  ours = flatten_dict(config.to_dict()).keys() - of_kinds
  assert ours <= flatten_dict(base.to_dict()).keys()


def golden(case: str, folder: pathlib.Path):
  """(model, params, arrays) of one golden case."""
  meta = json.loads((folder / f"{case}.json").read_text())
  variant, scale = case.rsplit("_", 1)
  model = shipped_model(f"{scale}_{variant}")
  state_dict = golden_weights.state_dict(meta["state_dict"], meta["seed"])
  params = jax.tree.map(jnp.asarray, published.from_state_dict(model, state_dict))
  return model, params, dict(np.load(folder / f"{case}.npz"))


@pytest.mark.parametrize("case", [f"{variant}_x4" for variant in VARIANTS])
@pytest.mark.parametrize("winograd", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_golden_case(case, winograd, request):
  """Latents, samples, likelihoods and encoder maps of the published model."""
  if winograd:  # else the images are too small for it to pay
    request.getfixturevalue("always_winograd")
  model, params, data = golden(case, DATA)

  @jax.jit
  def everything(params):
    def call(*args, method):
      return model.apply({"params": params}, *args, method=method)

    given = Given(data["lr"])
    context = call(given, method="condition")
    parts = call(data["gt"], context, method="density_parts")
    latents = parts.latents
    drawn = tuple(data[f"sr_latent{i}"] for i in range(len(latents)))
    sr, inverse_log_det = call(drawn, context, method="inverse_and_log_det")
    zeros = jax.tree.map(jnp.zeros_like, latents)
    maps = {f"latent{i}": latent for i, latent in enumerate(latents)} | {
      "sr": sr,
      "sr_tau0": call(zeros, context, method="inverse_and_log_det")[0],
      "rrdb_out": call(given, method="super_resolve"),
      "last_lr_feature": call(given, method=lambda m, given: m.encoder.trunk(given)[0]),
    }
    sums = {"log_det": sum(parts.log_dets), "log_prob": parts.log_prob}
    sums["sr_inverse_log_det"] = inverse_log_det
    return maps, sums

  maps, sums = everything(params)
  tolerance = 1e-3 if case == "srflow_x4" else 1e-4
  for name, value in maps.items():
    np.testing.assert_allclose(value, data[name], rtol=0, atol=tolerance, err_msg=name)
  for name, value in sums.items():
    np.testing.assert_allclose(value, data[name], rtol=1e-5, err_msg=name)
  nll = -sums["log_prob"] / (math.log(2) * data["gt"][0, ..., 0].size)
  np.testing.assert_allclose(nll, data["nll_bits_per_pixel"], rtol=1e-5)


@pytest.fixture(scope="module")
def float64():
  with jax.enable_x64(True):
    yield


# Golden cases have the other variants of x4, whatever is slow.
FAST = ("x4_da", "x4_srflow")
SLOW = [
  pytest.param(name, marks=pytest.mark.slow)
  for name in (f"{scale}_{variant}" for scale in ("x4", "x8") for variant in VARIANTS)
  if name not in FAST
]


@pytest.fixture(scope="module", params=[*FAST, *SLOW])
def flow(request, float64):
  """A small flow of a variant: its inputs and what it makes of them, in float64."""
  model = small_model(request.param)
  params = random_params(model)
  # Odd where the flow's squeezes allow it: SRFlow's go below LR resolution, so it is padded.
  hr, lr = random_images(model, lr_size=(3, 2) if request.param[:2] == "x4" else (2, 2))

  def forward(params, hr, context):
    parts = model.apply({"params": params}, hr, context, method="density_parts")
    return parts.latents, sum(parts.log_dets)

  @jax.jit
  def everything(params, hr, lr):
    context = model.apply({"params": params}, lr, method="condition")
    latents, log_det = forward(params, hr, context)
    back, inverse_log_det = model.apply(
      {"params": params}, latents, context, method="inverse_and_log_det"
    )
    return context, latents, log_det, back, inverse_log_det

  return model, params, forward, hr, lr, everything(params, hr, lr)


def test_flow_round_trips_and_its_log_dets_cancel(flow):
  *_, hr, _, (_, _, log_det, back, inverse_log_det) = flow
  np.testing.assert_allclose(back, hr, atol=1e-9)
  np.testing.assert_allclose(log_det + inverse_log_det, 0, atol=1e-9 * abs(log_det).max())


def test_flow_log_det_is_the_jacobians(flow):
  _, params, forward, hr, _, (context, _, log_det, _, _) = flow
  if context.hr_size != context.padded_size:  # then hr → latents is not square: pad first
    hr = np.asarray(pad_to(jnp.asarray(hr), context.padded_size))
    context = context.replace(hr_size=context.padded_size)

  @jax.jit
  @jax.jacobian
  def jacobian(flat):
    latents, _ = forward(params, flat.reshape(hr.shape), context)
    return jnp.concatenate([latent.ravel() for latent in latents])

  np.testing.assert_allclose(log_det[0], np.linalg.slogdet(jacobian(hr.ravel()))[1], atol=1e-6)


def test_every_parameter_gets_a_gradient(flow):
  model, params, _, hr, lr, _ = flow

  @jax.jit
  @jax.grad
  def gradient(params):
    loss, sr = model.apply({"params": params}, jnp.asarray(hr), lr, method="every_layer")
    return jnp.sum(loss) + jnp.sum(sr**2)

  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params)):
    assert np.all(np.isfinite(leaf)) and np.any(leaf != 0), jax.tree_util.keystr(path)


@pytest.fixture(scope="module")
def small():
  """A small float32 model with a method `call(name, *args)`."""
  model = small_model("x4_srflow")  # its squeezes go below LR resolution, so odd sizes are padded
  params = random_params(model, dtype=np.float32)
  # With larger kernels, scales near 0 make some samples such that float32 cannot invert them.
  params = jax.tree.map(lambda leaf: 0.3 * leaf if leaf.ndim >= 4 else leaf, params)

  def call(method, *args, **kwargs):
    def function(*args):
      return model.apply({"params": params}, *args, **kwargs, method=method)

    numbers = [i for i, arg in enumerate(args) if isinstance(arg, int)]
    return jax.jit(function, static_argnums=numbers)(*args)

  return model, call


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 1)])
def test_any_image_size(small, size):
  model, call = small
  hr, lr = random_images(model, size, dtype=np.float32)
  context = call("condition", lr)
  latents = call("density_parts", hr, context).latents
  assert [z.shape for z in latents] == [
    z.shape for z in call("latents_at", jax.random.key(0), context, 1.0)
  ]
  np.testing.assert_allclose(call("inverse_and_log_det", latents, context)[0], hr, atol=1e-4)


def test_wrong_hr_size_is_refused(small):
  model, call = small
  hr, lr = random_images(model, (4, 4), dtype=np.float32)
  with pytest.raises(ValueError, match="its LR image asks for"):
    call("density_parts", hr[:, :-4], call("condition", lr))


def test_samples_do_not_depend_on_how_they_are_batched(small):
  model, call = small
  _, lr = random_images(model, (4, 4), batch=2, dtype=np.float32)
  key = jax.random.key(3)
  samples = call("sample", key, lr, 0.8, 3)
  assert samples.shape == (3, 2, 16, 16, 3)
  context = call("condition", lr)
  for i in range(3):
    latents = call("latents_of_samples", key, context, 0.8, 1, jnp.int32(i))
    one = call("decode_samples", latents, context, 1)
    np.testing.assert_allclose(samples[i], one[0], atol=1e-5)
  assert np.abs(samples[0] - samples[1]).max() > 1e-3  # samples differ
  zero = call("sample", key, lr, 0.0, 2)
  np.testing.assert_allclose(zero[0], zero[1], atol=1e-6)  # at temperature 0 they do not


def test_noise_of_a_tile_is_the_image_s_there(small):
  model, call = small
  multiple = model.lr_multiple
  _, lr = random_images(model, (4 * multiple, 6 * multiple), dtype=np.float32)
  whole = call("latents_at", jax.random.key(0), call("condition", lr), 0.8)
  top, left = 2 * multiple, 3 * multiple
  tile = call("condition", Given(lr.lr[:, top : top + multiple, left:]))
  tile = call("latents_at", jax.random.key(0), tile, 0.8, (top, left))
  for window, latent in zip(tile, whole, strict=True):
    down = lr.lr.shape[1] * model.scale / latent.shape[1]
    row, column = (int(side * model.scale / down) for side in (top, left))
    np.testing.assert_array_equal(window, latent[:, row : row + window.shape[1], column:])


def test_samples_follow_the_density(small):
  """Latents of samples at temperature 1 are standard normal, so log_prob tells their density."""
  model, call = small
  _, lr = random_images(model, (8, 8), batch=2, dtype=np.float32)
  context = call("condition", lr)
  hr = call("sample", jax.random.key(0), lr, 1.0)[0]
  latents = call("density_parts", hr, context).latents
  values = np.concatenate([z.ravel() for z in latents])
  assert abs(values.mean()) < 5 / values.size**0.5 and abs(values.std() - 1) < 5 / values.size**0.5


@pytest.mark.parametrize(
  "scale, squeezes",
  [(2, (2, 2)), pytest.param(16, (2, 2, 2, 2), marks=pytest.mark.slow)],
)
def test_scales_without_a_published_model(scale, squeezes):
  model = small_model("x4_da")
  first, last = model.stage_specs
  stages = [dataclasses.replace(first, squeeze=s, transition_steps=1, steps=1) for s in squeezes]
  stages[-1] = dataclasses.replace(stages[-1], split=False, prior=last.prior)
  encoder = model.encoder_part.replace(taps=())
  model = model.clone(scale=scale, encoder_part=encoder, stage_specs=tuple(stages))
  hr, lr = random_images(model, (3, 5), dtype=np.float32)
  params = init_params(model, jax.random.key(0), hr, lr)
  context = model.apply({"params": params}, lr, method="condition")
  latents = model.apply({"params": params}, hr, context, method="density_parts").latents
  back, _ = model.apply({"params": params}, latents, context, method="inverse_and_log_det")
  np.testing.assert_allclose(back, hr, atol=1e-4)


def test_given_parameters_are_kept():
  model = small_model("x4_da")
  hr, lr = random_images(model, (4, 4), dtype=np.float32)
  given = {"encoder": random_params(model, dtype=np.float32)["encoder"]}
  params = init_params(model, jax.random.key(0), hr, lr, given)
  jax.tree.map(np.testing.assert_array_equal, params["encoder"], given["encoder"])
  assert set(params) == {"encoder", "flow"}


@pytest.mark.parametrize(
  "change, message",
  [
    ({"scale": 3}, "model.scale is 3"),
    ({"stages": ({"squeeze": 2, "transition_steps": 1, "steps": 1, "split": True},)}, "no split"),
    ({"stages": ({"squeeze": 2, "transition_steps": 1, "stepz": 1, "split": False},)}, "stepz"),
    ({"stages": ({"squeeze": 2, "transition_steps": 1, "split": False},)}, "missing key"),
    ({"stages": ({"squeeze": 3, "transition_steps": 1, "steps": 1, "split": False},)}, "squeeze"),
  ],
)
def test_a_bad_model_is_refused_by_name(change, message):
  config = importlib.import_module("configs.tiny").get_config().model.to_dict()
  with pytest.raises(InputError, match=message):
    build_model(config | change)


def test_an_encoder_without_blocks_is_refused():
  config = importlib.import_module("configs.tiny").get_config().model.to_dict()
  config["encoder"] |= {"num_blocks": 0, "taps": ()}
  with pytest.raises(InputError, match="num_blocks is 0: it must be at least 1"):
    build_model(config)
