"""Every kind of every place: a new one joins by a row of `KINDS`.

Each is put into a small model and its parameters are moved off their initial values. In float64 it
must invert itself, know its log-det, give every parameter a gradient, take odd sizes, and behave
far out.
"""

import importlib
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import random_images, random_params
from srflow_jax.errors import InputError
from srflow_jax.model import layers
from srflow_jax.model.building import build_model
from srflow_jax.model.checking import bijector, check_bijector, check_map, moved_params, normal
from srflow_jax.model.encoders import Encoder
from srflow_jax.model.features import Features, Given
from srflow_jax.model.kinds import Part, kind, kinds_of, place_of, read_part
from srflow_jax.model.maps import Affine, Map, mapped
from srflow_jax.model.mixers import Mixer, accurate_inverse, random_rotation
from srflow_jax.model.nets import Net
from srflow_jax.model.noises import Noise
from srflow_jax.model.priors import Prior
from srflow_jax.model.targets import Target
from srflow_jax.ops.resize import bicubic_resize_on_device
from srflow_jax.sampling.budget import Plan, Request
from srflow_jax.sampling.sampler import Sampler
from srflow_jax.sampling.tiles import cut

NET = {
  "kind": "convolutions",
  "width": 7,
  "num_hidden": 2,
  "hidden_kernel": 3,
  "residual_every": 2,
  "normalize": False,
}
TRANSFORMER = {"kind": "transformer", "width": 6, "depth": 2, "heads": 2, "window": 2}
RRDB = {"width": 4, "growth": 3, "num_blocks": 2, "taps": (0, 1), "global_skip": "last_block"}

FLOW_OF_KEPT = {"kind": "flow", "step": ("mixer", "coupling"), "steps": 1, "num_blocks": 1}
FLOW_OF_KEPT |= {"width": 4, "growth": 2, "taps": (0,)}

# By place, the blocks that are tested; all kinds must occur.
KINDS = {
  Map: [
    "sigmoid",
    "double_sigmoid",
    "atan",
    {"kind": "tanh", "bound": 1.5},
    "additive",
    "spline",
    {"kind": "spline", "bins": 5, "bound": 3.0},
  ],
  Mixer: ["full", "orthogonal", "permutation", "plu"],
  Net: [
    NET,
    NET | {"normalize": True, "hidden_kernel": 1, "residual_every": 0},
    TRANSFORMER,
  ],
  layers.Layer: [
    "actnorm",
    "mixer",
    "injector",
    {"kind": "coupling", "sees_features": False},
    "noise_coupling",
    "checkerboard_coupling",
    {"kind": "checkerboard_coupling", "maps": 0},
  ],
  Prior: [
    "standard",
    "gaussian",
    {"kind": "gaussian", "given": ("kept", "features")},
    {"kind": "gaussian", "given": ("features",)},
    {"kind": "unet", "width": 3, "depth": 1},
    {"kind": "flow", "step": ("mixer", "coupling"), "steps": 2},
    FLOW_OF_KEPT,
    "lr",
  ],
  Target: ["hr", "less_bicubic", "less_encoder", "null_space"],
  Encoder: [
    RRDB | {"kind": "rrdb"},
    RRDB | {"kind": "rrdb", "taps": (), "global_skip": "first_conv"},
    {"kind": "edsr", "width": 4, "num_blocks": 2, "taps": (1,)},
    {"kind": "none", "width": 5},
  ],
  Noise: [
    {"kind": "gaussian", "std": 2.0},
    {"kind": "uniform", "width": 1.0},
    {"kind": "levels", "max_std": 12.75},
  ],
}


def name_of(block) -> str:
  if isinstance(block, str):
    return block
  others = (f"{key}={value}" for key, value in block.items() if key != "kind")
  return f"{block['kind']}({','.join(others)})"


def rows(*places):
  return [
    pytest.param(place, block, id=f"{place.place}-{name_of(block)}")
    for place in places
    for block in KINDS[place]
  ]


@pytest.fixture(autouse=True, scope="module")
def float64():
  with jax.enable_x64(True):
    yield


def test_the_table_holds_every_kind():
  for place, blocks in KINDS.items():
    tested = {block if isinstance(block, str) else block["kind"] for block in blocks}
    ours = {n for n, cls in kinds_of(place).items() if cls.__module__.startswith("srflow_jax.")}
    assert tested == ours, place


# --- Maps: functions of one number. ---


@pytest.fixture(params=KINDS[Map], ids=name_of)
def elementwise(request):
  """(map, parameters, z): moderate numbers for 40 channels of 3 pixels."""
  chosen = read_part(Map, request.param, "map")
  h = 1.5 * normal(0, (3, 40, chosen.numbers))
  return chosen, chosen.parameters(h), normal(1, (3, 40))


@pytest.mark.parametrize("block", KINDS[Map], ids=name_of)
def test_map_inverts_itself_and_knows_its_derivative(block):
  findings = list(check_map(read_part(Map, block, "map"), "it"))
  assert len(findings) == 5
  for finding in findings:
    assert finding.error < 1e-9, finding


@pytest.mark.parametrize("far", [1e3, -1e3])
def test_map_far_out(elementwise, far):
  """There the inverse still holds, and the derivative is that of a line."""
  chosen, parameters, z = elementwise
  z = jnp.full_like(z, far)
  y, log_derivative = chosen.forward(z, parameters)
  back, _ = chosen.inverse(y, parameters)
  np.testing.assert_allclose(back, z, rtol=1e-9)
  _, further = chosen.forward(2 * z, parameters)
  np.testing.assert_allclose(log_derivative, further, atol=1e-9)


@pytest.mark.parametrize("block", KINDS[Map], ids=name_of)
def test_map_is_near_the_identity_where_a_net_says_nothing(block):
  chosen = read_part(Map, block, "map")
  z = normal(0, (5, 4))
  y, log_derivative = chosen.forward(z, chosen.parameters(jnp.zeros((5, 4, chosen.numbers))))
  np.testing.assert_allclose(y, z * jnp.exp(log_derivative), atol=1e-12)
  assert np.all(np.abs(log_derivative) < 0.15)


def test_published_scale_at_zero():
  _, scale = read_part(Map, {}, "map").parameters(jnp.zeros((1, 2, 2, 4, 2)))
  np.testing.assert_allclose(scale, 1 / (1 + np.exp(-2)) + 1e-4)


# --- Mixers: matrices. ---


@pytest.mark.parametrize("block", KINDS[Mixer], ids=name_of)
@pytest.mark.parametrize("channels", [1, 12, 15])
def test_mixer_knows_its_inverse_and_its_determinant(block, channels):
  mixer = read_part(Mixer, block, "mixer").unbound(channels=channels)
  params = mixer.init(jax.random.key(0), method="matrix_and_log_det").get("params", {})
  start, _ = mixer.apply({"params": params}, method="matrix_and_log_det")
  np.testing.assert_allclose(start @ start.T, np.eye(channels), atol=1e-5)  # a rotation at first
  params = jax.tree.map(lambda leaf: leaf + 0.1 * normal(1, leaf.shape), params)
  w, log_det = mixer.apply({"params": params}, method="matrix_and_log_det")
  np.testing.assert_allclose(log_det, np.linalg.slogdet(w)[1], atol=1e-9)
  inverse = mixer.apply({"params": params}, method="inverse_matrix")
  np.testing.assert_allclose(inverse @ w, np.eye(channels), atol=1e-9)


def test_rotation_is_orthogonal():
  w = random_rotation(jax.random.key(0), 12, jnp.float64)
  np.testing.assert_allclose(w @ w.T, np.eye(12), atol=1e-12)


def test_inverse_is_a_float64_one():
  """A float32 inverse would lose as many digits as the condition number has."""
  q = np.linalg.qr(np.random.default_rng(0).standard_normal((2, 48, 48)))[0]
  w = ((q[0] * np.geomspace(1, 1e-3, 48)) @ q[1]).astype(np.float32)
  with jax.enable_x64(False):
    ours = jax.jit(accurate_inverse)(jnp.asarray(w))
  assert ours.dtype == jnp.float32
  exact = np.linalg.inv(w.astype(np.float64))
  assert np.linalg.norm(ours - exact, 2) < 3e-8 * np.linalg.norm(exact, 2)


# --- Layers and priors: bijectors of images. ---

DEFAULTS = {place: read_part(place, KINDS[place][0], place.place) for place in (Map, Mixer, Net)}
ODD, EVEN = (2, 3, 5, 5), (1, 4, 4, 4)  # the first: odd sizes, an odd number of channels


OF_LAYERS = [
  pytest.param(layers.Layer, {"kind": layer, key: block}, id=f"{layer}-{name_of(block)}")
  for layer, key, place in (
    ("coupling", "map", Map),
    ("injector", "map", Map),
    ("coupling", "net", Net),
    ("mixer", "mixer", Mixer),
  )
  for block in KINDS[place]
]
BIJECTORS = [
  pytest.param(*row.values, shape, id=f"{row.id}-{shape}")
  for shape, of_shape in (
    (ODD, [*rows(layers.Layer, Prior), *OF_LAYERS]),
    (EVEN, [row for row in rows(Prior) if "gaussian" in row.id]),
  )
  for row in of_shape
  if row.values[1] != "lr"
]
BIJECTORS.append(pytest.param(Prior, "lr", (2, 3, 5, 6), id="prior-lr"))  # it maps 3 channels


@pytest.mark.parametrize("place, block, shape", BIJECTORS)
def test_bijector(place, block, shape):
  """Round trips, the log-det against the autodiff Jacobian, gradients."""
  findings = list(check_bijector(read_part(place, block, "it", DEFAULTS), "it", shape, math.inf))
  assert len(findings) == 4  # no parameter is without a gradient
  for finding in findings:
    assert finding.error < (1e-6 if "Jacobian" in finding.what else 1e-8), finding


def test_actnorm_normalises_its_first_batch():
  z = 3 + 5 * normal(0, (4, 8, 8, 3))
  actnorm = layers.ActNorm(channels=3, feature_channels=1)
  (y, _), _ = actnorm.init_with_output(jax.random.key(0), z, method="forward_and_log_det")
  np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-6)
  np.testing.assert_allclose(y.std((0, 1, 2)), 1, atol=1e-5)


def test_noise_of_levels_is_one_noise_in_hr_and_lr():
  hr, lr = jnp.full((64, 8, 16, 3), 0.5), jnp.full((64, 2, 4, 3), 0.5)
  noise = read_part(Noise, {"kind": "levels", "max_std": 25.5}, "noise")
  noisy, given = noise.add(jax.random.key(0), hr, lr)
  np.testing.assert_allclose(noisy - hr, given.noise, atol=1e-12)
  np.testing.assert_allclose(
    given.lr - lr, bicubic_resize_on_device(given.noise, 1 / 4), atol=1e-12
  )
  std = given.noise.std((1, 2, 3))  # uniform in [0, 0.1]
  assert std.max() < 0.11 and std.min() < 0.01 and abs(std.mean() - 0.05) < 0.015


def test_no_noise_is_noise_of_level_zero():
  layer, call = bijector(read_part(layers.Layer, "noise_coupling", "layer", DEFAULTS), ODD[-1])
  params = moved_params(layer, call, normal(0, ODD), math.inf)
  told = lambda given: layer.apply(  # noqa: E731
    {"params": params},
    None,
    Features(normal(7, (2, 3, 5, 3)), normal(8, (2, 3, 5, 2)), 1),
    given,
    method="condition",
  )
  lr, noise = normal(9, (2, 3, 5, 3)), normal(10, (2, 6, 10, 3))
  np.testing.assert_array_equal(told(Given(lr)), told(Given(lr, 0 * noise)))
  assert np.any(told(Given(lr)) != told(Given(lr, noise)))


# --- Whole flows, in which each kind meets every other kind of its neighbours at least once. ---

STAGES = (
  {"squeeze": 2, "transition_steps": 1, "steps": 1, "split": True},
  {"squeeze": 2, "transition_steps": 0, "steps": 2, "split": False},
)


HCFLOW = {
  "step": ("actnorm", "mixer", {"kind": "coupling", "sees_features": False}),
  "stages": (
    {"squeeze": 2, "transition_steps": 0, "steps": 1, "split": True, "prior": FLOW_OF_KEPT},
    {"squeeze": 2, "transition_steps": 0, "steps": 1, "split": True, "keep": 3},
    {"squeeze": 1, "transition_steps": 0, "steps": 0, "split": False},
  ),
  "prior": {"kind": "flow", "step": ("actnorm", "mixer", "coupling"), "steps": 2},
  "last_prior": "lr",
  "map": "atan",
}


JET = {
  "step": ("actnorm", "mixer", "coupling", "checkerboard_coupling"),
  "stages": ({"squeeze": 4, "transition_steps": 0, "steps": 1, "split": False},),
  "map": "double_sigmoid",
  "conditioner": TRANSFORMER,
}
NULL_SPACE = {
  "target": "null_space",
  "stages": (
    {"squeeze": 1, "transition_steps": 1, "steps": 1, "split": True},
    {"squeeze": 1, "transition_steps": 0, "steps": 1, "split": False},
  ),
}


def flow_config(**parts):
  config = importlib.import_module("configs.tiny").get_config().model.to_dict()
  config |= {"encoder": RRDB, "conditioner": NET, "stages": STAGES}
  return config | parts


PLACES = {
  "map": Map,
  "conditioner": Net,
  "mixer": Mixer,
  "target": Target,
  "encoder": Encoder,
  "prior": Prior,
}
NEIGHBOURS = (
  ("map", "conditioner"),
  ("map", "mixer"),
  ("target", "encoder"),
  ("prior", "encoder"),
  ("encoder", "conditioner"),
)


OF_JET = KINDS[Net].index(TRANSFORMER)


def pairs(choice: dict[str, int]) -> set:
  """The kinds that meet in a flow of the chosen rows of each place."""
  return {((a, choice[a]), (b, choice[b])) for a, b in NEIGHBOURS}


def is_allowed(choice: dict[str, int]) -> bool:
  """What is refused is tested below."""
  target = KINDS[Target][choice["target"]]
  if target == "less_encoder" and KINDS[Encoder][choice["encoder"]]["kind"] == "none":
    return False
  if target == "null_space":  # it takes no squeeze: see `NULL_SPACE`
    return False
  return KINDS[Prior][choice["prior"]] not in ("lr", FLOW_OF_KEPT)  # they are in `HCFLOW`


def flows():
  """Few flows in which each kind meets every other kind of its neighbours; others of layers."""
  yield from (HCFLOW, NULL_SPACE, JET)
  every = [
    dict(zip(PLACES, rows, strict=True))
    for rows in itertools.product(*(range(len(KINDS[place])) for place in PLACES.values()))
  ]
  every = [choice for choice in every if is_allowed(choice)]
  missing = set().union(*map(pairs, every))
  unseen = {row for choice in every for row in choice.items()} - {("conditioner", OF_JET)}
  while missing:
    # Kinds that were in no flow first: few flows have them all.
    best = max(every, key=lambda c: (len(c.items() & unseen), len(pairs(c) & missing)))
    missing -= pairs(best)
    unseen -= best.items()
    yield {name: KINDS[PLACES[name]][row] for name, row in best.items()}
  yield {"last_prior": {"kind": "gaussian", "given": ("features",)}}
  yield {"step": ("actnorm", "mixer", "coupling")}  # without injectors
  yield {"step": ("mixer", "injector", "coupling"), "transition": ("mixer",)}  # without actnorms
  yield {"step": ("actnorm", "mixer", "injector", "noise_coupling", "coupling")}  # NCSR's
  second = {"kind": "coupling", "map": "atan"}
  yield {"step": ("actnorm", "mixer", "coupling", "mixer", "injector", second)}


def flow_name(parts) -> str:
  if "stages" in parts:
    return {id(HCFLOW): "hcflow", id(JET): "jet"}.get(id(parts), "null_space")
  return "+".join(
    "-".join(map(name_of, block)) if isinstance(block, tuple) else name_of(block)
    for block in parts.values()
  )


def marked():
  """The flows; slow are those of few new kinds, and two whose samples have tests below.

  Every kind by itself is among the bijectors.
  """
  seen = set()
  for parts in flows():
    new = {(place, str(block)) for place, block in parts.items()} - seen
    seen |= new
    is_slow = len(new) < 3 or parts in (HCFLOW, JET)
    yield pytest.param(parts, id=flow_name(parts), marks=[pytest.mark.slow] * is_slow)


FLOWS = list(marked())


@pytest.mark.parametrize("parts", FLOWS)
def test_flow_of_kinds(parts):
  model = build_model(flow_config(**parts))
  # A spline whose knots a deep transformer says is too steep to be inverted to 1e-8, but for small
  # kernels.
  is_spline = "spline" in name_of(parts.get("map", "sigmoid"))
  is_steep = is_spline and parts.get("conditioner") == TRANSFORMER
  params = random_params(model, seed=is_steep, kernel_std=0.5 if is_steep else 1.0)
  hr, _ = random_images(model, lr_size=(2, 3))
  # Of one target LR must be HR's own LR image.
  lr = bicubic_resize_on_device(jnp.asarray(hr), 1 / model.scale)
  given = Given(lr, normal(2, hr.shape))

  @jax.jit
  def everything(params, hr, given):
    def call(*args, method, **kwargs):
      return model.apply({"params": params}, *args, method=method, **kwargs)

    def log_prob(params):
      context = model.apply({"params": params}, given, method="condition")
      density, noted = model.apply(
        {"params": params}, hr, context, method="density_parts", mutable=["inverse_factor"]
      )
      return jnp.sum(density.log_prob), (context, density, noted)

    gradients, (context, density, noted) = jax.grad(log_prob, has_aux=True)(params)
    back, inverse_log_det = call(density.latents, context, method="inverse_and_log_det")
    return density, noted, back, inverse_log_det, gradients

  density, noted, back, inverse_log_det, gradients = everything(params, hr, given)
  log_det = sum(density.log_dets)
  np.testing.assert_allclose(back, hr, atol=1e-8)
  np.testing.assert_allclose(log_det + inverse_log_det, 0, atol=1e-8 * max(1, abs(log_det[0])))
  for path, gradient in jax.tree_util.tree_leaves_with_path(gradients["flow"]):
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0), jax.tree_util.keystr(path)
  # The factors of all layers' inverses together are at least what the inverse does on average.
  factors = [np.maximum(leaf, 1) for leaf in jax.tree.leaves(noted)]
  assert sum(np.sum(np.log(f)) for f in factors) >= -log_det[0] / hr.size


def test_what_a_sample_of_hcflow_keeps_is_its_lr_image():
  """At any temperature, for the latent of the LR image is not drawn."""
  model = build_model(flow_config(**HCFLOW))
  params = random_params(model)
  _, given = random_images(model, lr_size=(3, 2))

  @jax.jit
  def latents_of_sample(params, given):
    def call(*args, method):
      return model.apply({"params": params}, *args, method=method)

    context = call(given, method="condition")
    drawn = call(jax.random.key(0), context, 1.0, method="latents_at")
    hr, _ = call(drawn, context, method="inverse_and_log_det")
    return call(hr, context, method="density_parts").latents

  *others, of_lr = latents_of_sample(params, given)
  assert all(np.std(z) > 0.5 for z in others)
  np.testing.assert_allclose(np.exp(-6) * of_lr, 0, atol=1e-8)  # kept less lr


def test_a_flow_prior_s_images_are_multiples_of_all_its_windows():
  layers = [{"kind": "coupling", "net": TRANSFORMER | {"window": window}} for window in (6, 4)]
  prior = {"kind": "flow", "step": layers, "steps": 1}
  assert build_model(flow_config(prior=prior, last_prior=prior)).lr_multiple % 12 == 0


def test_tiles_of_windows_are_the_whole_image():
  """Tiles begin where windows do, whatever the overlap that is asked for."""
  model = build_model(flow_config(**JET | {"conditioner": TRANSFORMER | {"window": 4}}))
  assert model.lr_multiple == 4 and model.tile_overlap == 8 + 10
  params = random_params(model, dtype=np.float32)
  params = jax.tree.map(lambda leaf: 0.3 * leaf if leaf.ndim >= 4 else leaf, params)
  lr = np.random.default_rng(0).random((6, 61, 3), np.float32)
  images = []
  for counts in ((1, 1), (1, 2)):
    sampler = Sampler(model, params)
    assert sampler.budget.overlap == 20
    sampler.budget.use((8, 64), Request(("draw",)), Plan(cut((8, 64), counts, 20, 4)))
    image = np.empty((24, 244, 3), np.float32)
    for _, window, part in sampler.draw(sampler.prepare(lr, Request(("draw",))), 0, range(1), 0.8):
      image[window] = part
    images.append(image)
  np.testing.assert_allclose(*images, atol=1e-4)


# --- Reading blocks. ---


@pytest.mark.parametrize(
  "parts, message",
  [
    ({"map": "spine"}, r"config.model.map.kind is 'spine': one of additive, atan"),
    ({"map": {"kind": "tanh", "bond": 1.0}}, r"unknown key config.model.map.bond: one of bound"),
    (
      {"map": {"kind": "tanh", "bound": -1.0}},
      r"config.model.map.bound is -1.0: it must be above 0",
    ),
    (
      {"map": {"kind": "tanh", "bound": "big"}},
      r"config.model.map.bound is 'big': it must be a num",
    ),
    ({"mixer": 7}, r"config.model.mixer is 7: it must be a block of fields"),
    ({"step": "actnorm"}, r"config.model.step is 'actnorm': it must be a list of layers"),
    ({"step": ("actnorm", "mixr")}, r"config.model.step\[1\].kind is 'mixr': one of actnorm"),
    (
      {"last_prior": "lr"},
      r"stages\[1\]: an lr prior is of 3 channels at LR's size, not of 24 at 1",
    ),
    ({"conditioner": TRANSFORMER | {"heads": 4}}, r"heads is 4: it must divide width, 6"),
    ({"conditioner": TRANSFORMER | {"window": 5}}, r"window is 5: it must be even"),
    ({"prior": "flow"}, r"missing key config.model.prior.step"),
    (
      {"prior": {"kind": "flow", "step": 3, "steps": 1}},
      r"prior.step is 3: it must be a list of la",
    ),
    (
      {"prior": {"kind": "flow", "step": ("actnrm",), "steps": 1}},
      r"config.model.prior.step\[0\].kind is 'actnrm'",
    ),
    (
      {"prior": FLOW_OF_KEPT | {"taps": ()}},
      r"config.model.prior: a flow prior with blocks needs taps",
    ),
    ({"target": "null_space"}, r"null_space, whose images cannot be padded, but .* multiples of 4"),
    ({"last_prior": "gaussian"}, r"at the end of the flow no channels are kept"),
    (
      {"prior": {"kind": "gaussian", "given": ()}},
      r"config.model.prior: a gaussian prior is given",
    ),
    (
      {"prior": {"kind": "gaussian", "given": ("lr",)}},
      r"config.model.prior.given is \('lr',\): it",
    ),
    (
      {"encoder": {"kind": "none"}, "target": "less_encoder"},
      r"an encoder of kind none has no super",
    ),
    ({"encoder": {"kind": "none"}, "stages": ()}, r"stages is empty, so the encoder is the model"),
    ({"encoder": RRDB | {"width": 0}}, r"config.model.encoder.width is 0: it must be at least 1"),
    (
      {"encoder": RRDB | {"width": 4.0}},
      r"config.model.encoder.width is 4.0: it must be a whole num",
    ),
    ({"encoder": RRDB | {"taps": (5,)}}, r"config.model.encoder: taps \(5,\) must be different"),
    ({"encoder": None}, r"config.model.encoder is None: it must be a block of fields"),
    ({"scale": 3}, r"config.model.scale is 3: one of 2, 4, 8, 16 \(3 needs squeezes"),
    ({"scale": 4.0}, r"config.model.scale is 4.0: it must be a whole number"),
    ({"stages": 3}, r"config.model.stages is 3: it must be a list of stages"),
    ({"stages": ({"squeeze": 2},)}, r"missing key config.model.stages\[0\].transition_steps"),
    ({"stages": (STAGES[0],)}, r"the last of config.model.stages has no split"),
    ({"stages": (STAGES[0] | {"keep": 12}, STAGES[1])}, r"stages\[0\]: its split keeps 12 of 12"),
    (
      {"stages": (STAGES[1] | {"steps": 10**9},)},
      r"stages\[0\].steps is 1000000000: it must be at",
    ),
    ({"stages": (STAGES[1] | {"squeeze": 1, "step": ("coupling",)}, STAGES[1])}, None),
    ({"nett": NET}, r"unknown key config.model.nett: one of scale, encoder, stages, map"),
    (
      {"conditioner": NET | {"residual_every": 3}},
      r"residual_every is 3: it must divide num_hidden",
    ),
  ],
)
def test_what_cannot_be_built_is_refused_by_name(parts, message):
  if message is None:
    build_model(flow_config(**parts))
    return
  with pytest.raises(InputError, match=message):
    build_model(flow_config(**parts))


class Wrong(Affine):
  """Its log-derivative is too large by a half, in both directions, so that they agree."""

  def scale(self, s):
    return jnp.exp(s)

  def forward(self, z, parameters):
    y, log_derivative = super().forward(z, parameters)
    return y, log_derivative + 0.5

  def inverse(self, y, parameters):
    z, log_derivative = super().inverse(y, parameters)
    return z, log_derivative - 0.5


class Shifted(Affine):
  """Its inverse is another map's."""

  def scale(self, s):
    return jnp.exp(s)

  def inverse(self, y, parameters):
    z, log_derivative = super().inverse(y, parameters)
    return z + 1.0, log_derivative


class Unused(layers.ActNorm):
  """A parameter of it changes nothing."""

  def forward_and_log_det(self, z, context=None):
    bias, _ = self._bias_and_logs(z)
    return z + bias, jnp.zeros(len(z))

  def inverse_and_log_det(self, z, context=None):
    bias, _ = self._bias_and_logs(z)
    return z - bias, jnp.zeros(len(z))


def test_what_does_not_hold_is_found():
  def wrong(findings):
    return {finding.what for finding in findings if not finding.holds}

  assert wrong(check_map(Wrong(), "wrong")) == {"log-derivative less that by autodiff"}
  assert {"z → y → z", "z → y → z at 1000, relative"} <= wrong(check_map(Shifted(), "shifted"))
  net = DEFAULTS[Net]
  coupling = Part(layers.Coupling, (("map", Wrong()), ("net", net), ("sees_features", True)))
  of_jacobian = "log-det less that of the Jacobian by autodiff"
  assert wrong(check_bijector(coupling, "coupling")) == {of_jacobian}
  coupling = coupling.replace(map=Shifted())
  assert wrong(check_bijector(coupling, "coupling")) == {"z → y → z", "y → z → y"}
  (dead,) = wrong(check_bijector(Part(Unused), "unused"))
  assert dead == "gradient of logs, which is zero or not finite"


def test_a_class_that_cannot_stand_at_its_place_is_refused_at_once():
  for base, own, message in (
    (Map, {"forward": None, "parameters": None}, "does not define inverse, numbers"),
    (Affine, {}, "does not define scale"),
    (layers.Layer, {"forward_and_log_det": lambda *_: None}, "does not define inverse"),
    (layers.SplitCoupling, {}, "does not define seen_channels"),
    (
      Affine,
      {"scale": lambda *_: None, "__annotations__": {"least": float}, "least": 0.1},
      r"must be a dataclass: put @dataclasses.dataclass\(frozen=True\) on it",
    ),
  ):
    with pytest.raises(TypeError, match=f"the {base.place} 'mine', {message}"):
      kind("mine")(type("Mine", (base,), own))


@pytest.mark.parametrize("inverse", [False, True])
def test_a_map_that_gives_other_shapes_is_named(inverse):
  class Summed(Shifted):
    def forward(self, z, parameters):
      return z, jnp.sum(z, -1)

    def inverse(self, y, parameters):
      return y.astype(jnp.float32), y

  what = (
    r"inverse: the result is float32 \[2, 3\]"
    if inverse
    else (r"forward: the log-derivative is float64 \[2\]")
  )
  with pytest.raises(InputError, match=rf"Summed.{what}, z is float64 \[2, 3\]"):
    mapped(Summed(), jnp.zeros((2, 3)), None, inverse)


def test_one_kind_of_a_name():
  with pytest.raises(ValueError, match="the map 'sigmoid' exists, in srflow_jax"):

    @kind("sigmoid")
    class Mine(Map):
      pass

  assert place_of(kinds_of(Map)["sigmoid"]) is Map
