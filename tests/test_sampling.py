import math

import jax
import numpy as np
import pytest
from models import random_images, random_params, small_model

from srflow_jax import sampling
from srflow_jax.errors import InputError
from srflow_jax.model import pad_to
from srflow_jax.sampling import Sampler
from srflow_jax.tiles import Tiling, spans


@pytest.fixture(scope="module")
def flow():
  model = small_model("x4_srflow")  # two pixels of LR are one of its coarsest latent
  params = random_params(model, dtype=np.float32)
  params = jax.tree.map(lambda leaf: 0.1 * leaf if leaf.ndim == 4 else leaf, params)
  return model, params


def image(sampler, lr, indices=(0,), **changes):
  size = [side * sampler.model.scale for side in lr.shape[:2]]
  result = np.full((len(indices), *size, 3), np.nan, np.float32)
  prepared = sampler.prepare(lr)
  for position, (rows, columns), tile in sampler.draw(prepared, 5, indices, 0.7, **changes):
    result[position, rows, columns] = tile
  return result


def test_tiles_are_the_whole_image(flow):
  model, params = flow
  _, lr = random_images(model, (15, 47), dtype=np.float32)  # odd sides are padded
  whole = image(Sampler(model, params), lr[0], (2, 3))
  assert np.isfinite(whole).all()
  tiled = Sampler(model, params)
  tiled.use((16, 48), Tiling((16, 32), spans(16, 16, 0), spans(48, 32, 12)))
  np.testing.assert_allclose(image(tiled, lr[0], (2, 3)), whole, atol=1e-4)
  np.testing.assert_allclose(image(tiled, lr[0], (3,))[0], whole[1], atol=1e-4)


def test_times_are_of_contexts_and_samples(flow):
  model, params = flow
  _, lr = random_images(model, (4, 4), dtype=np.float32)
  times = sampling.Times()
  sampler = Sampler(model, params)
  prepared = sampler.prepare(lr[0], times=times)
  context = times.context
  assert context > 0 and times.samples == 0
  list(sampler.draw(prepared, 0, range(2), 0.5, times))
  assert times.samples > 0 and times.context == context  # it was computed once


def test_budget_decides_the_tile(flow, monkeypatch):
  """The compiler's figure is what counts: what is planned needs no more than the budget."""
  model, params = flow
  monkeypatch.setattr(sampling, "_PROCESS_BYTES", 0)
  sampler = Sampler(model, params, overlap=4)
  probe = sampler._compile(Tiling((32, 32), spans(32, 32, 0), spans(32, 32, 0)))
  budget = 1.2 * probe.num_bytes / 1e9 + 1e-3
  sampler = Sampler(model, params, budget, overlap=4)
  program = sampler.program((200, 300))
  assert not program.whole and math.prod(program.tiling.size) < 60000 / 20
  assert program.num_bytes < sampler.budget
  with pytest.raises(InputError, match=r"300x200 LR pixels does not fit 0\.00 GB.*overlap of 4"):
    Sampler(model, params, 1e-4, overlap=4).program((200, 300))


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
