import dataclasses

import jax
import numpy as np
import pytest

from models import random_images, random_params, small_model
from srflow_jax.errors import InputError
from srflow_jax.model.features import pad_to
from srflow_jax.sampling import planning
from srflow_jax.sampling import sampler as sampling
from srflow_jax.sampling.planning import Plan, Task
from srflow_jax.sampling.sampler import Sampler
from srflow_jax.sampling.tiles import cut

TASK = Task(("draw",))


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
  """The same in two tiles; any task."""
  sampler = Sampler(*flow)
  plan = Plan(cut((16, 48), (1, 2), 12, 2))
  for methods in (("draw",), ("density",), ("decode",), ("density", "decode")):
    sampler.planner.use((16, 48), Task(methods), plan)
  return sampler


def drawn(sampler, lr, samples=range(1), task=TASK):
  size = [side * sampler.model.scale for side in lr.shape[:2]]
  result = np.full((len(samples), *size, 3), np.nan, np.float32)
  prepared = sampler.prepare(lr, task)
  for position, (rows, columns), tile in sampler.draw(prepared, 5, samples, 0.7):
    result[position, rows, columns] = tile
  return result


def test_tiles_are_the_whole_image(whole, tiled, pair):
  _, lr = pair
  expected = drawn(whole, lr, range(2, 4))
  assert np.isfinite(expected).all()
  np.testing.assert_allclose(drawn(tiled, lr, range(2, 4)), expected, atol=1e-4)
  np.testing.assert_allclose(drawn(tiled, lr, range(3, 4))[0], expected[1], atol=1e-4)


def test_threads_draw_the_same_samples(flow, whole, pair):
  _, lr = pair
  task = dataclasses.replace(TASK, num_samples=3)
  threaded = Sampler(*flow, max_batch=2)  # two and then one
  assert threaded.planner.plan(lr.shape[:2], task).batch == 2
  np.testing.assert_array_equal(drawn(threaded, lr, range(3), task), drawn(whole, lr, range(3)))


def test_a_batch_holds_the_same_samples(flow, whole, pair, monkeypatch):
  _, lr = pair
  expected = drawn(whole, lr, range(3))
  monkeypatch.setattr(planning, "on_cpu", lambda: False)
  task = dataclasses.replace(TASK, num_samples=3)
  batched = Sampler(*flow, max_memory_gb=4, max_batch=2)  # two and then one, drawn as two
  assert batched.planner.plan(lr.shape[:2], task).batch == 2
  np.testing.assert_allclose(drawn(batched, lr, range(3), task), expected, atol=1e-5)
  np.testing.assert_allclose(drawn(batched, lr, range(2, 3), task)[0], expected[2], atol=1e-5)


def test_latents_of_tiles_are_the_whole_image_s(whole, tiled, pair):
  hr, lr = pair
  expected, latents = (
    sampler.encode(sampler.prepare(lr, Task(("density",))), hr) for sampler in (whole, tiled)
  )
  for z, other in zip(latents, expected, strict=True):
    np.testing.assert_allclose(z, other, atol=1e-4)
  back = np.full_like(hr, np.nan)
  for (rows, columns), part in tiled.decode(tiled.prepare(lr, Task(("decode",))), expected):
    back[rows, columns] = part
  np.testing.assert_allclose(back, hr, atol=1e-3)


def test_density_of_tiles_is_the_whole_image_s(whole, tiled, pair):
  hr, lr = pair
  task = Task(("density", "decode"))
  expected, density = (
    sampler.density(sampler.prepare(lr, task), hr, round_trip=True) for sampler in (whole, tiled)
  )
  assert density.num_pixels == expected.num_pixels == 64 * 192
  np.testing.assert_allclose(density.log_dets, expected.log_dets, atol=0.1)
  np.testing.assert_allclose(density.latent_log_probs, expected.latent_log_probs, atol=0.1)
  assert density.log_prob == pytest.approx(expected.log_prob, rel=1e-5)
  assert 0 < density.round_trip < 1e-3
  assert density.largest_inverse_scale >= expected.largest_inverse_scale > 1


def test_times_are_of_contexts_and_samples(whole, pair):
  _, lr = pair
  times = sampling.Times()
  prepared = whole.prepare(lr, TASK, times)
  context = times.context
  assert context > 0 and times.samples == 0
  list(whole.draw(prepared, 0, range(2), 0.5, times))
  assert times.samples > 0 and times.context == context  # it was computed once


@pytest.fixture
def micro(flow, monkeypatch):
  """One step, on a machine whose programs themselves take no memory."""
  monkeypatch.setattr(planning, "_PROCESS_BYTES", 0)
  last = flow[0].stage_specs[-1]
  stage = dataclasses.replace(last, squeeze=8, transition_steps=0, steps=1)
  model = flow[0].clone(stage_specs=(stage,))
  return model, random_params(model, dtype=np.float32)


def test_budget_decides_the_tile(micro):
  """The compiler's figure is what counts: what is planned needs no more than the budget."""
  probe = Sampler(*micro, overlap=4)
  need = probe.programs.num_bytes((32, 32), ("draw",), 1)
  assert need.total(20) > need.total(1) and need.batch(need.total(20)) in (19, 20)
  budget = 1.2 * need.total(1) / 1e9 + 1e-3
  sampler = Sampler(*micro, budget, overlap=4)
  plan = sampler.planner.plan((200, 300), TASK)
  assert not plan.whole and np.prod(plan.tiling.size) < 60000 / 20
  sampler.planner.check((300, 100), TASK)
  assert sampler.programs.num_bytes(plan.tiling.size, ("draw",), 1).total(1) < budget * 1e9
  with pytest.raises(InputError, match=r"300x200 LR pixels does not fit 0\.00 GB.*overlap of 4"):
    Sampler(*micro, 1e-4, overlap=4).planner.plan((200, 300), TASK)
  greedy = dataclasses.replace(TASK, reserved=int(1e9 * budget - 2e5))
  with pytest.raises(InputError, match="does not fit"):
    sampler.planner.check((300, 100), greedy)


def test_samples_at_a_time_fit_the_budget(micro):
  need = Sampler(*micro).programs.num_bytes((32, 32), ("draw",), 1)
  at_a_time = need.batch(2 * need.base)
  free = 2 * need.base + planning.num_bytes(micro[1])
  planner = Sampler(*micro, free / 1e9, max_batch=100).planner
  # Two batches of equal size.
  plan = planner.plan((32, 32), Task(("draw",), 2 * at_a_time - 3))
  assert plan.whole and at_a_time - 3 <= plan.batch <= at_a_time


@pytest.mark.parametrize(
  "wrong, message",
  [({"max_memory_gb": -1}, "max_memory_gb is -1"), ({"overlap": -2}, "tile_overlap is -2")],
)
def test_settings_that_cannot_be_meant(flow, wrong, message):
  with pytest.raises(InputError, match=message):
    Sampler(*flow, **wrong)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 6)])
def test_padding_is_the_model_s(size):
  picture = np.arange(size[0] * size[1] * 3, dtype=np.float32).reshape(*size, 3)
  padded = sampling.pad_as_model(picture, 2)
  np.testing.assert_array_equal(padded, pad_to(picture[None], padded.shape[:2])[0])
