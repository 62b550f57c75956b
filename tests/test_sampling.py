import dataclasses
import queue
import time
from concurrent import futures
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fakes import SIGMA, FakeModel, fake_params
from models import random_images, random_params, small_model
from srflow_jax.errors import InputError
from srflow_jax.model.features import pad_to
from srflow_jax.sampling import budget, programs
from srflow_jax.sampling import sampler as sampling
from srflow_jax.sampling.ahead import planned_ahead
from srflow_jax.sampling.budget import Plan, Request, footprint, num_bytes
from srflow_jax.sampling.denoising import denoised
from srflow_jax.sampling.sampler import Sampler
from srflow_jax.sampling.tiles import cut

REQUEST = Request(("draw",))


@pytest.fixture(scope="module")
def flow():
  model = small_model("x4_srflow")  # two pixels of LR are one of its coarsest latent
  stages = tuple(dataclasses.replace(spec, steps=1) for spec in model.stage_specs)
  model = model.clone(stage_specs=stages)
  params = random_params(model, dtype=np.float32)
  return model, jax.tree.map(lambda leaf: 0.1 * leaf if leaf.ndim >= 4 else leaf, params)


@pytest.fixture(scope="module")
def pair(flow):
  hr, lr = random_images(flow[0], (15, 47), dtype=np.float32)  # odd sides are padded
  return hr[0], lr.lr[0]


@pytest.fixture(scope="module")
def whole(flow):
  return Sampler(*flow)


@pytest.fixture(scope="module")
def tiled(flow):
  """The same in two tiles; any request."""
  sampler = Sampler(*flow)
  plan = Plan(cut((16, 48), (1, 2), 12, 2))
  for methods in (("draw",), ("denoised",), ("density",), ("decode",), ("density", "decode")):
    sampler.budget.use((16, 48), Request(methods), plan)
  return sampler


def drawn(sampler, lr, samples=range(1), request=REQUEST, noise_variance=0.0):
  size = [side * sampler.model.scale for side in lr.shape[:2]]
  result = np.full((len(samples), *size, 3), np.nan, np.float32)
  prepared = sampler.prepare(lr, request)
  tiles = sampler.draw(prepared, 5, samples, 0.7, noise_variance=noise_variance)
  for position, (rows, columns), tile in tiles:
    result[position, rows, columns] = tile
  return result


def test_tiles_are_the_whole_image(whole, tiled, pair):
  _, lr = pair
  expected = drawn(whole, lr, range(2, 4))
  assert np.isfinite(expected).all()
  np.testing.assert_allclose(drawn(tiled, lr, range(2, 4)), expected, atol=1e-4)
  np.testing.assert_allclose(drawn(tiled, lr, range(3, 4))[0], expected[1], atol=1e-4)


def test_denoised_samples_of_a_gaussian_are_known():
  """For N(base, s^2), x + v * score is base + (x - base) (1 - v / s^2)."""
  sampler = Sampler(FakeModel(), fake_params())
  lr = np.random.default_rng(0).uniform(size=(5, 6, 3)).astype(np.float32)
  base = lr.repeat(4, 0).repeat(4, 1)
  samples = drawn(sampler, lr, range(2))
  for share in (0.3, 1.0):
    request = Request(("denoised",), 2)
    cleaned = drawn(sampler, lr, range(2), request, noise_variance=share * SIGMA**2)
    np.testing.assert_allclose(cleaned, base + (1 - share) * (samples - base), atol=1e-5)


def test_a_sample_that_exploded_is_not_lost_to_its_score():
  images = jnp.stack([jnp.full((2, 2, 3), 0.25).at[0, 0, 0].set(jnp.inf), jnp.full((2, 2, 3), 0.5)])
  cleaned = denoised(lambda image: -0.5 * jnp.sum(image) ** 2, images, 0.1)  # a score of all pixels
  np.testing.assert_array_equal(cleaned[0], images[0])
  np.testing.assert_allclose(cleaned[1], 0.5 - 0.1 * 6, rtol=1e-6)


@pytest.mark.slow
def test_denoised_tiles_are_the_whole_image(whole, tiled, pair):
  _, lr = pair
  request, variance = Request(("denoised",)), 0.02
  plain = drawn(whole, lr)
  change, of_tiles = (
    drawn(sampler, lr, request=request, noise_variance=variance) - plain
    for sampler in (whole, tiled)
  )
  np.testing.assert_allclose(of_tiles, change, atol=2e-4)
  assert np.abs(change).mean() > 3e-3
  # The score raises the density of what is drawn, as far as a small step along it can be trusted.
  density = whole.prepare(lr, Request(("density",)))
  before, after = whole.density(density, [plain[0], plain[0] + 0.01 * change[0]])
  assert after.log_prob > before.log_prob


def test_threads_draw_the_same_samples(flow, whole, pair):
  _, lr = pair
  request = dataclasses.replace(REQUEST, num_samples=3)
  threaded = Sampler(*flow, max_batch=2)  # two and then one
  assert threaded.budget.plan(lr.shape[:2], request).batch == 2
  np.testing.assert_array_equal(drawn(threaded, lr, range(3), request), drawn(whole, lr, range(3)))


def test_a_batch_holds_the_same_samples(flow, whole, pair, monkeypatch):
  _, lr = pair
  expected = drawn(whole, lr, range(3))
  monkeypatch.setattr(budget, "on_cpu", lambda: False)
  request = dataclasses.replace(REQUEST, num_samples=3)
  batched = Sampler(*flow, max_memory_gb=4, max_batch=2)  # two and then one, drawn as two
  assert batched.budget.plan(lr.shape[:2], request).batch == 2
  np.testing.assert_allclose(drawn(batched, lr, range(3), request), expected, atol=1e-5)
  np.testing.assert_allclose(drawn(batched, lr, range(2, 3), request)[0], expected[2], atol=1e-5)


def test_latents_of_tiles_are_the_whole_image_s(whole, tiled, pair):
  hr, lr = pair
  expected, latents = (
    sampler.encode(sampler.prepare(lr, Request(("density",))), hr) for sampler in (whole, tiled)
  )
  for z, other in zip(latents, expected, strict=True):
    np.testing.assert_allclose(z, other, atol=1e-4)
  back = np.full_like(hr, np.nan)
  for (rows, columns), part in tiled.decode(tiled.prepare(lr, Request(("decode",))), expected):
    back[rows, columns] = part
  np.testing.assert_allclose(back, hr, atol=1e-3)


def test_density_of_tiles_is_the_whole_image_s(whole, tiled, pair):
  hr, lr = pair
  request = Request(("density", "decode"))
  (expected, _), (density, other) = (
    sampler.density(sampler.prepare(lr, request), [hr, 0.9 * hr], round_trip=True)
    for sampler in (whole, tiled)
  )
  (alone,) = tiled.density(tiled.prepare(lr, request), [0.9 * hr])
  assert other == alone and other.log_prob != density.log_prob and other.round_trip is None
  assert density.num_pixels == expected.num_pixels == 64 * 192
  np.testing.assert_allclose(density.log_dets, expected.log_dets, atol=0.1)
  np.testing.assert_allclose(density.latent_log_probs, expected.latent_log_probs, atol=0.1)
  assert density.log_prob == pytest.approx(expected.log_prob, rel=1e-5)
  assert 0 < density.round_trip < 1e-3
  assert density.largest_inverse_factor >= expected.largest_inverse_factor > 1


def test_models_are_traced_by_one_thread_at_a_time():
  """Two in linen's lifted transforms at once find each other's half-made classes."""

  class Model:
    tracing = 0

    def apply(self, variables, given, method):
      self.tracing += 1
      assert self.tracing == 1
      time.sleep(0.02)
      self.tracing -= 1
      return given.lr

  made = programs.Programs(Model(), {})
  with futures.ThreadPoolExecutor(4) as threads:
    sizes = [(4, side) for side in range(1, 9)]
    traced = list(threads.map(lambda size: made.trace("condition", size), sizes))
    contexts = list(threads.map(made.context, sizes))
  assert [t.out_info.shape for t in traced] == [c.shape for c in contexts]


def test_a_density_that_is_not_finite_is_a_number_all_the_same():
  inf = float("inf")
  density = sampling.Density((inf, 1.0), (-inf,), 9, 27, None, 1.0, 1.0)
  assert np.isnan(density.log_prob)
  sown = {"a": np.float32([2, 4]), "b": np.float32([inf])}
  assert programs.largest_inverse_factor({"a": sown["a"]}) == 4
  assert programs.largest_inverse_factor(sown) == inf
  assert np.isnan(programs.largest_inverse_factor({"c": np.float32([np.nan]), **sown}))
  assert np.isnan(programs.largest_inverse_factor({}))
  of_both = {"actnorm": {"factor": np.float32(9)}, "coupling": {"map_factor": np.float32([2, 3])}}
  assert programs.largest_inverse_factor(of_both) == 9
  assert programs.largest_inverse_factor(of_both, maps_only=True) == 3


def test_seconds_are_of_contexts_and_samples(whole, pair):
  _, lr = pair
  seconds = sampling.Seconds()
  prepared = whole.prepare(lr, REQUEST, seconds)
  context = seconds.context
  assert context > 0 and seconds.samples == 0
  list(whole.draw(prepared, 0, range(2), 0.5, seconds))
  assert seconds.samples > 0 and seconds.context == context  # it was computed once


@pytest.fixture
def micro(flow, monkeypatch):
  """One step, on a machine whose programs themselves take no memory."""
  monkeypatch.setattr(budget, "_PROCESS_BYTES", 0)
  last = flow[0].stage_specs[-1]
  stage = dataclasses.replace(last, squeeze=8, transition_steps=0, steps=1)
  model = flow[0].clone(stage_specs=(stage,))
  return model, random_params(model, dtype=np.float32)


def test_budget_decides_the_tile(micro):
  """The compiler's figure is what counts: what is planned needs no more than the budget."""
  probe = Sampler(*micro, overlap=4)
  taken = footprint(probe.programs, (32, 32), ("draw",))
  assert taken.total(20) > taken.total(1) and taken.max_batch(taken.total(20)) in (19, 20)
  free = 1.2 * taken.total(1)
  gigabytes = (free + num_bytes(micro[1])) / 1e9
  sampler = Sampler(*micro, gigabytes, overlap=4)
  plan = sampler.budget.plan((200, 300), REQUEST)
  assert not plan.whole and np.prod(plan.tiling.size) < 60000 / 20
  assert free / 3 < footprint(sampler.programs, plan.tiling.size, ("draw",)).total(1) <= free
  compiled = sampler.programs._program.cache_info().misses
  assert compiled <= 3 * 3  # of at most three sizes
  sampler.budget.check((300, 100), REQUEST)
  with pytest.raises(InputError, match=r"300x200 LR pixels does not fit 0\.00 GB.*overlap of 4"):
    Sampler(*micro, 1e-12, overlap=4).budget.plan((200, 300), REQUEST)
  greedy = dataclasses.replace(REQUEST, reserved=int(1e9 * gigabytes - 2e5))
  with pytest.raises(InputError, match="does not fit"):
    sampler.budget.check((300, 100), greedy)
  assert sampler.programs._program.cache_info().misses == compiled  # a check compiles nothing


def test_a_device_that_tells_no_memory_is_asked_only_for_plans(micro, monkeypatch):
  """As training's validation does, whose patches are small."""
  silent = Mock(side_effect=InputError("this device does not say how much memory it has"))
  monkeypatch.setattr(budget, "default_bytes", silent)
  sampler = Sampler(*micro)
  sampler.budget.use((8, 8), REQUEST, Plan(cut((8, 8), (1, 1), 0)))
  assert sampler.budget.plan((8, 8), REQUEST).whole
  with pytest.raises(InputError, match="does not say how much memory"):
    sampler.budget.plan((8, 16), REQUEST)


def test_samples_at_a_time_fit_the_budget(micro):
  taken = footprint(Sampler(*micro).programs, (32, 32), ("draw",))
  at_a_time = taken.max_batch(2 * taken.shared)
  free = 2 * taken.shared + num_bytes(micro[1])
  sampler = Sampler(*micro, free / 1e9, max_batch=100)
  # Two batches of equal size.
  plan = sampler.budget.plan((32, 32), Request(("draw",), 2 * at_a_time - 3))
  assert plan.whole and at_a_time - 3 <= plan.batch <= at_a_time


def test_programs_are_compiled_once_and_the_least_recently_used_are_dropped(micro):
  kept = programs.Programs(micro[0], {"params": micro[1]}, max_programs=2)
  condition = [("condition", 1)]
  for size in ((8, 8), (8, 8), (8, 9), (8, 8)):
    kept.compile(size, condition)
  assert kept._program.cache_info().misses == 2
  kept.compile((8, 10), condition)  # in the place of (8, 9)
  kept.compile((8, 8), condition)
  assert kept.num_bytes((8, 9), condition)["condition", 1] > 0  # is remembered
  assert kept._program.cache_info().misses == 3


def test_the_next_is_planned_while_one_is_in_use():
  planned = queue.Queue()

  def plan(item):
    if item == 3:
      raise InputError("3 does not fit")
    planned.put(item)

  items = planned_ahead([1, 2, 3, 4], plan)
  assert next(items) == 1 and planned.get(timeout=5) == 1
  assert planned.get(timeout=5) == 2  # nobody has asked for it yet
  assert next(items) == 2
  with pytest.raises(InputError, match="3 does not fit"):
    next(items)
  assert planned.empty()
  assert list(planned_ahead([], plan)) == []


def test_too_little_memory_is_one_line():
  for error in (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes\nmore"), MemoryError()):
    with pytest.raises(InputError, match=r"out of memory .*--max_memory_gb") as raised:
      with programs.out_of_memory_named():
        raise error
    assert "\n" not in str(raised.value)
  with pytest.raises(jax.errors.JaxRuntimeError):
    with programs.out_of_memory_named():
      raise jax.errors.JaxRuntimeError("INTERNAL: something else")


@pytest.mark.parametrize(
  "wrong, message",
  [
    ({"max_memory_gb": -1}, "max_memory_gb is -1"),
    ({"max_memory_gb": float("nan")}, "max_memory_gb is nan"),
    ({"max_memory_gb": 1e300}, r"max_memory_gb is 1e\+300: there are [\d.]+ GB"),
    ({"overlap": -2}, "tile_overlap is -2"),
  ],
)
def test_settings_that_cannot_be_meant(flow, wrong, message):
  with pytest.raises(InputError, match=message):
    Sampler(*flow, **wrong)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 6)])
def test_padding_is_the_model_s(size):
  picture = np.arange(size[0] * size[1] * 3, dtype=np.float32).reshape(*size, 3)
  padded = sampling.pad_as_model(picture, 2)
  np.testing.assert_array_equal(padded, pad_to(picture[None], padded.shape[:2])[0])
