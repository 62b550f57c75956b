"""Optimisation: rates, clipping, decay, averages, accumulation; what is skipped, and its name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import runs
from configs import base
from models import random_params, small_model
from srflow_jax import checkpoints
from srflow_jax.config import read_config
from srflow_jax.errors import InputError
from srflow_jax.model.building import abstract_params, build_model
from srflow_jax.training import checkpoint, diagnosis, optimizer
from srflow_jax.training.diagnosis import FiniteChecks, make_diagnosis
from srflow_jax.training.step import create_state, make_train_step
from test_training import micro_config


def optim_config(**changes):
  optim = base.get_config().optim
  for field, value in changes.items():  # not `update`, which would merge a block into the old one
    optim[field] = value
  return optim


def assert_equal(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


def assert_close(tree, other, **tolerance):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), tree, other)


def micro_batch(size, seed=0):
  """Images of float32, so that one of them can be NaN."""
  rng = np.random.default_rng(seed)
  return {
    "hr": rng.integers(0, 256, (size, 16, 16, 3)).astype(np.float32),
    "lr": rng.integers(0, 256, (size, 4, 4, 3)).astype(np.float32),
  }


def micro_state(config, model):
  params = jax.tree.map(jnp.array, random_params(model, dtype=np.float32))
  return create_state(config.optim, params, jax.random.key(1))


def test_the_rate_warms_up_to_the_schedule():
  steps = np.arange(40)
  for changes in ({}, {"cosine_cycles": 2}):
    whole = jax.vmap(optimizer.learning_rate_schedule(optim_config(**changes), 40))(steps)
    optim = optim_config(warmup_steps=8, **changes)
    rates = jax.vmap(optimizer.learning_rate_schedule(optim, 40))(steps)
    np.testing.assert_allclose(rates, whole * np.minimum(1, (steps + 1) / 8), rtol=1e-6)
  assert rates[0] > 0


@pytest.mark.parametrize("name", ["x4_da", "x4_srflow"])
def test_what_decays_are_the_kernels_of_convolutions(name):
  tree = optimizer.decays(abstract_params(small_model(name)))
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  decays = {jax.tree_util.keystr(path, simple=True, separator="/"): yes for path, yes in leaves}
  kernels = {path.rpartition("/")[2] for path, yes in decays.items() if yes}
  assert kernels == {"kernel", "first_kernel"}
  spared = {path for path, yes in decays.items() if not yes}
  assert {path.rpartition("/")[2] for path in spared} == {"bias", "logs", "kernel"}
  assert all("/mixer/" in path for path in spared if path.endswith("kernel"))


def small_tree():
  rng = np.random.default_rng(0)
  shapes = {"encoder": {"kernel": (3, 3, 2, 2), "bias": (2,)}, "flow": {"kernel": (3, 3, 2, 4)}}
  return jax.tree.map(
    lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32),
    shapes,
    is_leaf=lambda node: isinstance(node, tuple),
  )


def moves(optim, params, gradients):
  new, _ = optimizer.update(optim, 0.1, gradients, optimizer.init(optim, params), params)
  return jax.tree.map(lambda a, b: a - b, new, params)


def test_decay_acts_beside_adam():
  params = small_tree()
  gradients = jax.tree.map(jnp.sin, params)
  plain = moves(optim_config(), params, gradients)
  decayed = moves(optim_config(weight_decay=0.5), params, gradients)
  expected = jax.tree.map(
    lambda move, leaf: move - (0.1 * 0.5 * leaf if leaf.ndim >= 4 else 0), plain, params
  )
  assert_close(decayed, expected, rtol=1e-4, atol=1e-6)


def test_the_norm_that_is_clipped_is_of_all_parts():
  params = small_tree()
  gradients = jax.tree.map(lambda leaf: 10 * jnp.sin(leaf), params)
  norm = float(optax.tree.norm(gradients))
  adam = {"eps": 1.0}  # so that the size of a gradient is seen in the update
  cut = jax.tree.map(lambda leaf: leaf * 0.5 / norm, gradients)
  clipped = moves(optim_config(clip_norm=0.5, **adam), params, gradients)
  assert_close(clipped, moves(optim_config(**adam), params, cut), rtol=1e-5, atol=1e-7)
  assert_equal(
    moves(optim_config(clip_norm=2 * norm, **adam), params, gradients),
    moves(optim_config(**adam), params, gradients),
  )


def test_the_encoder_has_a_rate_of_its_own():
  params = small_tree()
  plain = moves(optim_config(), params, params)
  slow = moves(optim_config(encoder_rate_factor=0.25), params, params)
  assert_equal(slow["flow"], plain["flow"])
  quarter = jax.tree.map(lambda move: 0.25 * move, plain["encoder"])
  assert_close(slow["encoder"], quarter, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"accumulation_steps": 4}, "batch_size is 12.*devices, 2, times .*, 4"),
    ({"optimizer": {"kind": "adamm"}}, "optimizer.kind is 'adamm'"),
    ({"optimizer": {"kind": "constant_schedule"}}, "kind is 'constant_schedule'"),
    ({"optimizer": {"kind": "__doc__"}}, "kind is '__doc__'"),
    ({"optimizer": {"kind": "lion", "eps": 1.0}}, "unknown key .*eps: optax.lion takes b1, b2"),
    ({"optimizer": {"kind": "lion", "b1": float("nan")}}, "optimizer.b1 is nan"),
    ({"optimizer": {"kind": "lion", "b1": "x"}}, "optax.lion cannot be used so"),
    ({"optimizer": {"kind": "lion", "b1": None}}, "optax.lion cannot be used so"),
    ({"optimizer": {"kind": "polyak_sgd"}}, "optimizer.*polyak_sgd"),
    ({"optimizer": {"kind": "lbfgs"}}, "optax.lbfgs cannot be used so"),
    # It would follow no schedule.
    (
      {"optimizer": {"kind": "muon", "adam_learning_rate": 1.0}},
      "unknown key .*adam_learning_rate",
    ),
    ({"optimizer": {"kind": "schedule_free_adamw"}, "ema_decay": 0.9}, "an average of its own"),
    ({"optimizer": {"kind": "schedule_free"}}, "optax.schedule_free cannot be used so"),
  ],
)
def test_what_cannot_be_meant_is_refused(fields, message):
  optimizer.check(optim_config(), 12, 2)
  with pytest.raises(InputError, match=message) as refused:
    optimizer.check(optim_config(**fields), 12, 2)
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
  "optimizer_block, expected",
  [
    ({"kind": "adam"}, optax.adam(0.1, 0.9, 0.999, 1e-8)),
    ({"kind": "adam", "nesterov": True}, optax.adam(0.1, 0.9, 0.999, 1e-8, nesterov=True)),
    ({"kind": "lion", "b1": 0.95, "b2": 0.98}, optax.lion(0.1, 0.95, 0.98)),
    ({"kind": "sgd", "momentum": 0.5}, optax.sgd(0.1, 0.5)),
    ({"kind": "adafactor", "min_dim_size_to_factor": 2}, optax.adafactor(0.1, 2)),
    ({"kind": "rmsprop"}, optax.rmsprop(0.1)),
    ({"kind": "adabelief"}, optax.adabelief(0.1)),
    ({"kind": "lamb"}, optax.lamb(0.1)),
    ({"kind": "yogi"}, optax.yogi(0.1)),
    ({"kind": "adamw", "weight_decay": 0.1}, optax.adamw(0.1, weight_decay=0.1)),
    ({"kind": "schedule_free_adamw"}, optax.contrib.schedule_free_adamw(0.1)),
    ({"kind": "prodigy"}, optax.contrib.prodigy(0.1)),
  ],
)
def test_any_optimiser_of_optax_follows_from_its_name(optimizer_block, expected):
  optim, params = optim_config(optimizer=optimizer_block), small_tree()
  optimizer.check(optim, 12, 2)
  gradients = jax.tree.map(jnp.sin, params)
  state = optimizer.init(optim, params)
  new = params
  for _ in range(2):
    new, state = optimizer.update(optim, 0.1, gradients, state, new)
  flow, flow_state = params["flow"], expected.init(params["flow"])
  for _ in range(2):
    updates, flow_state = expected.update(gradients["flow"], flow_state, flow)
    flow = optax.apply_updates(flow, updates)
  assert_equal(new["flow"], flow)


@pytest.mark.parametrize("name", ["x4_da", "x4_srflow"])
def test_muon_s_matrices_are_kernels_that_do_not_begin_at_zero(name):
  params = abstract_params(small_model(name))
  chosen = jax.tree.map(
    lambda numbers: numbers is not None,
    optimizer.muon_matrices(params),
    is_leaf=lambda node: node is None or isinstance(node, optax.contrib.MuonDimensionNumbers),
  )
  leaves = jax.tree_util.tree_leaves_with_path(chosen)
  names = {jax.tree_util.keystr(path, simple=True, separator="/"): yes for path, yes in leaves}
  for path, yes in names.items():
    is_kernel = path.endswith("kernel") and "/mixer/" not in path
    assert yes == (is_kernel and "/last/" not in path and "/prior/" not in path), path


def test_muon_turns_a_kernel_as_a_matrix():
  params = {"flow": {"kernel": jax.random.normal(jax.random.key(0), (2, 3, 3, 4, 8))}}
  gradients = jax.tree.map(jnp.sin, params)
  move = moves(optim_config(optimizer={"kind": "muon", "consistent_rms": 0.2}), params, gradients)
  for of_layer in move["flow"]["kernel"].reshape(2, 36, 8) / (0.1 * 0.2 * 6):
    # Newton-Schulz brings singular values to about 1, not exactly.
    assert np.all(np.abs(np.linalg.svd(of_layer, compute_uv=False) - 1) < 0.4)


@pytest.mark.parametrize("block", [{"kind": "muon"}, {"kind": "schedule_free_adamw"}], ids=str)
def test_a_run_by_another_optimiser_goes_on_exactly(block, tmp_path):
  config = runs.get_config()
  config.optim.optimizer = block
  model = build_model(config.model)
  step = make_train_step(model, read_config(config), ("flow",))
  state = micro_state(config, model)
  like = jax.eval_shape(lambda: state)
  for number in range(4):
    if number == 2:
      with checkpoints.writer(tmp_path, keep=1) as writer:
        checkpoint.save(writer, state)
    state, _ = step(state, micro_batch(2, seed=number))
  assert int(state.skipped) == 0
  again, _, _ = checkpoint.restore_latest(tmp_path, like, lambda params: None)
  for number in range(2, 4):
    again, _ = step(again, micro_batch(2, seed=number))
  assert_equal(
    (again.params, again.opt_state, again.ema), (state.params, state.opt_state, state.ema)
  )
  # What evaluation uses is the average, where the optimiser defines one.
  assert bool(state.ema) == (block["kind"] != "muon")
  if state.ema:
    expected = optax.contrib.schedule_free_eval_params(
      state.opt_state["flow"], state.params["flow"]
    )
    assert_close(state.ema["flow"], expected, rtol=1e-5, atol=1e-6)
    assert_equal(state.ema["encoder"], state.params["encoder"])


@pytest.mark.parametrize("num_steps", [4, 10, 200_000])
def test_no_halving_is_lost_in_short_runs(num_steps):
  schedule = optimizer.learning_rate_schedule(optim_config(), num_steps)
  np.testing.assert_allclose(schedule(num_steps + 1), 2e-4 / 16, rtol=1e-6)


@pytest.mark.parametrize(
  "fields",
  [
    {"eps": 0.0},
    pytest.param({"clip_norm": float("nan")}, marks=pytest.mark.slow),
    pytest.param({"b2": float("nan")}, marks=pytest.mark.slow),
    pytest.param({"learning_rate": 1e38}, marks=pytest.mark.slow),
  ],
)
def test_an_update_that_is_not_finite_is_not_applied(fields):
  # Configurations refuse such values, but finite ones may lead there as well.
  config = read_config(micro_config())
  config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, **fields))
  model = build_model(config.model)
  state = micro_state(config, model)
  before = jax.tree.map(np.array, (state.params, state.opt_state))
  state, metrics = make_train_step(model, config, ("flow",))(state, micro_batch(2))
  finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
  assert finite and (int(metrics["skipped"]) == 1 or fields == {"eps": 0.0})
  if int(metrics["skipped"]):
    assert_equal((state.params, state.opt_state), before)


@pytest.fixture(scope="module")
def step_of_flow():
  """A compiled step of the flow alone, with a moving average: (config, model, step)."""
  config = micro_config()
  config.optim.ema_decay = 0.9
  model = build_model(config.model)
  return config, model, make_train_step(model, read_config(config), ("flow",))


def test_the_average_follows_what_is_applied_and_nothing_else(step_of_flow):
  config, model, step = step_of_flow
  state, batch = micro_state(config, model), micro_batch(2)
  bad = micro_batch(2)
  bad["hr"][1, 2, 3, 0] = np.nan
  params = jax.tree.map(np.array, state.params)
  assert_equal(state.ema, params)
  expected = params["flow"]
  applied = 0
  for images in (batch, bad, batch):
    state, metrics = step(state, images)
    assert int(metrics["skipped_in_a_row"]) == (images is bad)
    if images is not bad:
      decay = min(0.9, (1 + applied) / (10 + applied))
      expected = jax.tree.map(
        lambda a, b, d=decay: d * a + (1 - d) * np.array(b), expected, state.params["flow"]
      )
      applied += 1
    assert_close(state.ema["flow"], expected, rtol=1e-5, atol=1e-6)
  assert int(state.skipped) == 1
  assert_equal(state.ema["encoder"], params["encoder"])  # frozen: exactly as it was


def test_a_lower_rate_factor_moves_less(step_of_flow):
  config, model, step = step_of_flow
  before = random_params(model, dtype=np.float32)["flow"]
  moved, rates = [], []
  for factor in (1.0, 0.5):
    state = micro_state(config, model).replace(rate_factor=jnp.float32(factor))
    state, metrics = step(state, micro_batch(2))
    moved.append(jax.tree.map(lambda new, old: new - old, state.params["flow"], before))
    rates.append(float(metrics["learning_rate"]))
  np.testing.assert_allclose(rates, config.optim.learning_rate * np.array([1, 0.5]))
  half = jax.tree.map(lambda move: 0.5 * move, moved[0])
  assert_close(moved[1], half, atol=1e-6)


@pytest.fixture(scope="module")
def diagnosis_of_flow():
  """The diagnosis of that step, in two splits."""
  config = micro_config()
  config.optim.accumulation_steps = 2
  return make_diagnosis(build_model(config.model), read_config(config), ("flow",))


@pytest.mark.parametrize("name", [pytest.param("hr", marks=pytest.mark.slow), "lr"])
def test_the_image_that_is_not_finite_is_named(step_of_flow, diagnosis_of_flow, name):
  state, batch = micro_state(*step_of_flow[:2]), micro_batch(2)
  assert diagnosis_of_flow(state.params, state.key, batch, 0).first() is None
  batch[name][1, 2, 3, 0] = np.inf
  places = diagnosis_of_flow(state.params, state.key, batch, 0)
  assert places.first() == f"the batch's {name}"


@pytest.mark.parametrize(
  "path, index, named",
  [
    ("encoder/blocks/dense_blocks_1/convs_2/bias", 0, "encoder/blocks/0"),
    ("flow/stages_1/transitions/actnorm/logs", 0, "flow/stages_1/transitions/0/actnorm"),
    (
      "flow/stages_0/steps/coupling/conditioner/last/conv/bias",
      1,
      "flow/stages_0/steps/1/coupling/conditioner",
    ),
    ("flow/stages_0/prior/logs", 0, "flow/stages_0/prior"),
  ],
)
def test_the_layer_that_is_not_finite_is_named(step_of_flow, diagnosis_of_flow, path, index, named):
  config, model, step = step_of_flow
  state = micro_state(config, model)
  *parents, leaf = path.split("/")
  layer = state.params
  for parent in parents:
    layer = layer[parent]
  layer[leaf] = layer[leaf].at[index].set(jnp.nan)
  state, metrics = step(state, micro_batch(2))
  assert int(metrics["skipped"]) == 1
  places = diagnosis_of_flow(state.params, state.key, micro_batch(2), 0)
  assert places.first() == f"the output of {named}"


def test_a_gradient_that_is_not_finite_is_named_where_it_arose():
  outputs = tuple(f"the output of flow/{name}" for name in ("z", "m/net", "m", "a"))
  forward = FiniteChecks(jnp.zeros(4, bool), outputs)
  # Backward: a, m (its net first called, so last), z. What comes after m is spoilt by it.
  nan, one = jnp.array([1.0, jnp.nan]), jnp.ones(2)
  gradients = {"flow": {"a": {"w": one}, "m": {"net": {"k": {"w": nan}}}, "z": {"w": nan}}}
  found = diagnosis._with_gradients(forward, gradients)
  assert found.first() == "the gradient of flow/m/net/k/w"
  gradients["flow"]["m"]["net"]["k"]["w"] = gradients["flow"]["z"]["w"] = one
  assert diagnosis._with_gradients(forward, gradients).first() is None
  gradients["flow"]["a"]["w"] = 1e30 * one  # finite, but its norm is not
  assert diagnosis._with_gradients(forward, gradients).first() == "the gradient of flow/a/w"


def test_a_gradient_that_is_not_finite_is_named_in_a_row_of_layers():
  names = [f"the output of flow/m/{i}/{name}" for i in range(3) for name in ("a", "b")]
  forward = FiniteChecks(jnp.zeros(6, bool), tuple(names), frozenset({("flow", "m")}))
  kernel, bias = jnp.ones((3, 2, 2)), jnp.ones((3, 2)).at[1, 0].set(jnp.nan)
  gradients = {"flow": {"m": {"a": {"w": kernel.at[0].set(jnp.nan)}, "b": {"w": bias}}}}
  found = diagnosis._with_gradients(forward, gradients)
  assert found.first() == "the gradient of flow/m/1/b/w"


@pytest.mark.slow
def test_an_accumulated_step_is_the_whole_batch_s_in_less_memory():
  results, memory = [], []
  for splits in (1, 4):
    config = micro_config()
    config.optim.update(accumulation_steps=splits, eps=1.0)  # so that updates go as gradients
    model = build_model(config.model)
    state, batch = micro_state(config, model), micro_batch(16)
    step = make_train_step(model, read_config(config), ("flow",)).lower(state, batch).compile()
    memory.append(step.memory_analysis().temp_size_in_bytes)
    before = jax.tree.map(np.array, state.params)
    state, metrics = step(state, batch)
    moved = jax.tree.map(lambda new, old: new - old, state.params, before)
    results.append((moved, metrics))
  (moved, metrics), (accumulated, accumulated_metrics) = results
  for name in ("nll", "gradient_norm"):
    np.testing.assert_allclose(metrics[name], accumulated_metrics[name], rtol=1e-5)
  assert_close(accumulated, moved, rtol=1e-3, atol=1e-8)
  assert memory[1] < memory[0] / 2
