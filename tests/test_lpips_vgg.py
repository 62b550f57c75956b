"""LPIPS with VGG16, by a stand-in of lpips-j's interface: its weights cannot be shipped."""

import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fakes import SCALE, pair
from srflow_jax import evaluation
from srflow_jax.errors import InputError
from srflow_jax.evaluation import lpips_vgg, report


class LPIPS(nn.Module):
  """Distances of random features, `[B, 1, 1, 1]`, of images in [-1, 1]."""

  @nn.compact
  def __call__(self, x, t):
    conv = nn.Conv(8, (3, 3))
    return jnp.mean((conv(x) - conv(t)) ** 2, axis=(1, 2, 3), keepdims=True)


class Unreachable(nn.Module):
  def setup(self):
    raise OSError("cannot find the files\nof the hub")

  def __call__(self, x, t):
    return x


@pytest.fixture(autouse=True)
def nothing_is_kept():
  lpips_vgg.load.cache_clear()
  yield
  lpips_vgg.load.cache_clear()


def install(monkeypatch, network):
  """`from lpips_j.lpips import LPIPS` gives the network."""
  module = types.ModuleType("lpips_j.lpips")
  module.LPIPS = network
  monkeypatch.setitem(sys.modules, "lpips_j", types.ModuleType("lpips_j"))
  monkeypatch.setitem(sys.modules, "lpips_j.lpips", module)


def test_package_that_is_not_installed(monkeypatch):
  monkeypatch.setitem(sys.modules, "lpips_j", None)
  with pytest.raises(InputError, match=r"needs lpips-j .*: pip install lpips-j"):
    lpips_vgg.load()


def test_weights_that_cannot_be_had(monkeypatch):
  install(monkeypatch, Unreachable)
  with pytest.raises(InputError, match=r"cannot get its weights: cannot find the files$"):
    lpips_vgg.load()


def test_values_are_the_package_s(monkeypatch):
  install(monkeypatch, LPIPS)
  rng = np.random.default_rng(0)
  reference, sample = rng.integers(0, 256, (2, 40, 48, 3), dtype=np.uint8)
  same, other = lpips_vgg.distances(np.stack([reference, sample]), reference)
  x, t = (jnp.asarray(image[None] / 127.5 - 1, jnp.float32) for image in (sample, reference))
  network = LPIPS()
  variables = network.init(jax.random.key(0), x, t)
  assert same == 0
  assert other == pytest.approx(float(network.apply(variables, x, t)[0, 0, 0, 0]), rel=1e-5)


def test_it_has_a_column_where_it_was_asked_for(monkeypatch, hr_dir):
  install(monkeypatch, LPIPS)
  bicubic = evaluation.Bicubic(SCALE)
  cells = {}
  for asked in (False, True):
    scores = evaluation.evaluate_image(
      bicubic, *pair(hr_dir), evaluation.Settings(1, lpips_vgg=asked)
    )[1]
    row = report.Row("a", "bicubic", (64, 40), scores)
    cells[asked] = report.table_cells(SCALE, {"bicubic": None}, [row])
    summary = report.summary({}, {"bicubic": None}, [row])["systems"]["bicubic"]
  assert cells[True][0] == [*cells[False][0], "LPIPS-VGG"]
  assert cells[True][1][-1] == f"{scores.lpips_vgg[0]:.3f}" != "0.000"
  assert summary["images"]["a"]["per_sample"]["lpips_vgg"] == scores.lpips_vgg
  assert summary["averages"]["lpips_vgg"] == scores.lpips_vgg[0]
