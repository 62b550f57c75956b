"""The evaluator: samples and scores of one image."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from fakes import SCALE, SIGMA, FakeModel, fake_params, pair
from srflow_jax import evaluation
from srflow_jax.errors import InputError
from srflow_jax.evaluation import luma, marks, metrics
from srflow_jax.evaluation.evaluator import Scores, request_of
from srflow_jax.evaluation.report import Row
from srflow_jax.model.building import build_model, init_params
from srflow_jax.model.features import Given
from srflow_jax.ops.resize import bicubic_resize
from srflow_jax.sampling.budget import Plan
from srflow_jax.sampling.sampler import Sampler
from srflow_jax.sampling.tiles import cut


@pytest.fixture
def flow():
  return evaluation.Trained("fake", Sampler(FakeModel(), fake_params()))


def test_scores_are_those_of_the_metrics(flow, hr_dir):
  lr, hr = pair(hr_dir)
  seen = []
  settings = evaluation.Settings(num_samples=3)
  samples, scores = evaluation.evaluate_image(flow, lr, hr, settings, seen.append)
  assert samples.shape == (3, 64, 40, 3) and samples.dtype == np.uint8 and sum(seen) == 3 * 64 * 40
  assert scores.psnr == tuple(metrics.psnr(sample, hr) for sample in samples)
  assert scores.ssim == tuple(metrics.ssim(sample, hr) for sample in samples)
  assert scores.lr_psnr == tuple(metrics.lr_psnr(samples, hr, SCALE))
  on_luma = [luma.psnr_and_ssim(sample, hr, SCALE) for sample in samples]
  assert list(zip(scores.psnr_y, scores.ssim_y, strict=True)) == on_luma
  assert scores.lpips == metrics.lpips_scores(samples, hr)
  assert scores.lpips.diversity > 0
  assert scores.context_seconds > 0 and scores.sample_seconds > 0
  compiled = flow._sampler.programs._program.cache_info()
  assert compiled.misses == 4  # condition, draw, density and decode, once each


def test_sample_depends_on_seed_and_index_alone(flow, hr_dir):
  def draw(name, num_samples, seed=0):
    settings = evaluation.Settings(num_samples=num_samples, seed=seed)
    return evaluation.evaluate_image(flow, pair(hr_dir, name)[0], None, settings)[0]

  few, other, many = draw("two", 2), draw("three", 3), draw("two", 4)
  np.testing.assert_array_equal(few, many[:2])
  np.testing.assert_array_equal(draw("three", 1), other[:1])
  assert (many[0] != many[1]).any()
  assert (draw("two", 1, seed=1) != many[0]).any()


def test_temperature_zero_is_deterministic(flow, hr_dir):
  lr, hr = pair(hr_dir)
  settings = evaluation.Settings(num_samples=3, temperature=0)
  samples, scores = evaluation.evaluate_image(flow, lr, hr, settings)
  assert len(samples) == len(scores.psnr) == 1  # three would be equal
  np.testing.assert_array_equal(samples[0], lr.repeat(SCALE, 0).repeat(SCALE, 1))
  assert scores.lpips.diversity == 0


def test_likelihood_in_both_units(flow, hr_dir):
  lr, hr = pair(hr_dir)
  scores = evaluation.evaluate_image(flow, lr, hr, evaluation.Settings(num_samples=3))[1]
  z = (hr / 255 - lr.repeat(SCALE, 0).repeat(SCALE, 1) / 255) / SIGMA
  nats = (0.5 * z**2 + 0.5 * math.log(2 * math.pi) + math.log(SIGMA)).sum()
  assert scores.round_trip_error < 1e-3 and scores.nll_log_dets[0] < 0
  assert scores.nll == pytest.approx(nats / math.log(2) / hr[..., 0].size, rel=1e-5)
  # The noise adds its variance, 1/12 of a level, to each squared difference.
  added = 0.5 / (12 * 255**2 * SIGMA**2) / math.log(2)
  expected = scores.nll / 3 + math.log2(255) + added
  assert scores.bits_per_dim == pytest.approx(expected, abs=3e-3)


def test_bicubic_is_matlab_s_and_has_no_density(hr_dir):
  lr, hr = pair(hr_dir)
  samples, scores = evaluation.evaluate_image(
    evaluation.Bicubic(SCALE), lr, hr, evaluation.Settings()
  )
  assert len(samples) == 1
  np.testing.assert_array_equal(samples[0], bicubic_resize(lr, SCALE))
  assert scores.nll is None and scores.bits_per_dim is None
  assert scores.lpips.diversity == 0
  assert scores.lpips.mean == scores.lpips.global_best == scores.lpips.local_best


def test_tiles_are_measured_like_the_whole_image(flow, hr_dir):
  """The fake's pixels are independent: nothing depends on where tiles begin."""
  lr, hr = pair(hr_dir)
  settings = evaluation.Settings(num_samples=2, temperature=0)
  expected = evaluation.evaluate_image(flow, lr, hr, settings)[1]
  sampler = Sampler(FakeModel(), fake_params(), overlap=2)
  tiled = evaluation.Trained("fake", sampler)
  request = request_of(tiled, hr.shape[:2], settings, measured=True)
  sampler.budget.use(lr.shape[:2], request, Plan(cut(lr.shape[:2], (3, 2), 2)))
  scores = evaluation.evaluate_image(tiled, lr, hr, settings)[1]
  assert scores.lpips == expected.lpips and scores.psnr == expected.psnr
  assert scores.nll == pytest.approx(expected.nll, rel=1e-5)
  assert scores.bits_per_dim == pytest.approx(expected.bits_per_dim, rel=1e-5)
  assert scores.round_trip_error < 1e-3


def test_temperatures_share_what_does_not_depend_on_them(hr_dir, monkeypatch):
  lr, hr = pair(hr_dir)
  settings = evaluation.Settings(num_samples=2, seed=5)
  calls = []
  flow = evaluation.Trained("fake", Sampler(FakeModel(), fake_params()))
  for method in ("prepare", "density"):
    original = getattr(flow, method)

    def counted(*arguments, method=method, original=original):
      calls.append(method)
      return original(*arguments)

    monkeypatch.setattr(flow, method, counted)
  recipes = [evaluation.Recipe(temperature) for temperature in (0, 0.5, 0.9)]
  results = list(evaluation.evaluate_recipes(flow, lr, hr, settings, recipes))
  assert calls == ["prepare", "density"]
  assert len({scores.nll for _, scores in results}) == 1
  for (samples, scores), temperature in zip(results, [0, 0.5, 0.9], strict=True):
    alone = dataclasses.replace(settings, temperature=temperature)
    expected, alone_scores = evaluation.evaluate_image(flow, lr, hr, alone)
    np.testing.assert_array_equal(samples, expected)
    assert scores.lpips == alone_scores.lpips
    assert scores.context_seconds > 0


def test_patches_too_small_for_lpips_have_the_other_scores(flow):
  rng = np.random.default_rng(0)
  hr = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
  lr = bicubic_resize(hr, 1 / SCALE)
  scores = evaluation.evaluate_image(flow, lr, hr, evaluation.Settings(2))[1]
  assert (
    scores.lpips is None and len(scores.psnr_y) == 2 and len(scores.ssim) == len(scores.psnr) == 2
  )


def test_truncation_is_an_option(flow, hr_dir):
  lr, _ = pair(hr_dir)
  samples = {
    mode: evaluation.evaluate_image(flow, lr, None, evaluation.Settings(1, uint8_mode=mode))[0]
    for mode in ("round", "truncate")
  }
  difference = samples["round"].astype(int) - samples["truncate"]
  assert set(np.unique(difference)) == {0, 1}
  assert 0.4 < difference[(samples["round"] > 0) & (samples["round"] < 255)].mean() < 0.6


def test_values_that_are_not_finite_are_counted_and_black(hr_dir):
  lr, hr = pair(hr_dir)
  broken = evaluation.Trained("fake", Sampler(FakeModel(), fake_params(jnp.nan)))
  samples, scores = evaluation.evaluate_image(broken, lr, hr, evaluation.Settings(2))
  assert scores.not_finite == (hr.size,) * 2 and scores.outside == (0, 0)
  assert not samples.any() and math.isnan(scores.nll)
  assert scores.psnr == (metrics.psnr(np.zeros_like(hr), hr),) * 2


def test_values_that_exploded_are_counted(hr_dir, flow):
  lr, hr = pair(hr_dir)
  exploded = evaluation.Trained("fake", Sampler(FakeModel(), fake_params(1e20)))
  samples, scores = evaluation.evaluate_image(exploded, lr, hr, evaluation.Settings(2))
  assert scores.outside == (hr.size,) * 2 and scores.not_finite == (0, 0)
  assert (samples == 255).all()
  _, scores = evaluation.evaluate_image(flow, lr, None, evaluation.Settings(2))
  assert scores.outside == (0, 0)


@pytest.mark.parametrize(
  "wrong, message",
  [
    ({"num_samples": 0}, "num_samples is 0"),
    ({"num_samples": 10**8}, "num_samples is 100000000: it must be at most 1000"),
    ({"temperature": -0.1}, "temperature is -0.1"),
    ({"temperature": math.nan}, "temperature is nan"),
    ({"seed": -1}, "seed is -1"),
    ({"uint8_mode": "floor"}, "uint8 is 'floor'"),
    ({"denoise": (1.0, 0.0)}, "denoise is .*above 0"),
    ({"denoise": (1.0, 1.0)}, "denoise is .*twice"),
    ({"estimates": True, "num_samples": 2}, "estimates need 3"),
  ],
)
def test_settings_that_cannot_be_meant(wrong, message):
  with pytest.raises(InputError, match=message):
    evaluation.Settings(**wrong).check()


def test_a_real_model_s_samples_and_nll():
  """What the evaluator draws and measures is what the model's own methods give."""
  config = base.get_config().model
  config.encoder.update(width=8, growth=4, num_blocks=1, taps=(0,))
  config.conditioner.update(width=8, num_hidden=1)
  config.stages = (
    {"squeeze": 2, "transition_steps": 1, "steps": 0, "split": True},
    {"squeeze": 4, "transition_steps": 0, "steps": 1, "split": False},
  )
  model = build_model(config)
  rng = np.random.default_rng(0)
  hr = rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)  # not a multiple of 8: padded
  lr = bicubic_resize(hr, 1 / SCALE)
  hrs, lrs = (jnp.asarray(image[None] / 255, jnp.float32) for image in (hr, lr))
  batch = hrs, Given(lrs)
  shapes = jax.eval_shape(functools.partial(init_params, model), jax.random.key(0), *batch)
  # Small random numbers, but near the identity where there is a matrix to invert.
  params = jax.tree.map_with_path(
    lambda path, leaf: (
      0.05 * rng.standard_normal(leaf.shape, np.float32)
      + (np.eye(leaf.shape[-1], dtype=np.float32) if "matrix" in str(path) else 0)
    ),
    shapes,
  )
  flow = evaluation.Trained("flow", Sampler(model, params))
  assert flow.num_params == sum(leaf.size for leaf in jax.tree.leaves(params["flow"]))

  settings = evaluation.Settings(num_samples=2, temperature=0.5, seed=3)
  samples, scores = evaluation.evaluate_image(flow, lr, hr, settings)
  sample = jax.jit(functools.partial(model.apply, num_samples=2, method="sample"))
  expected = sample({"params": params}, jax.random.key(3), batch[1], 0.5)[:, 0]
  assert samples.shape == expected.shape
  np.testing.assert_allclose(samples, np.clip(expected, 0, 1) * 255, atol=0.51)
  nll = jax.jit(functools.partial(model.apply, method="nll"))
  assert scores.nll == pytest.approx(float(nll({"params": params}, *batch)[0]), rel=1e-5)
  assert len(scores.nll_log_dets) == len(scores.nll_latents) == 2
  assert sum(scores.nll_log_dets + scores.nll_latents) == pytest.approx(scores.nll, rel=1e-6)
  assert 0 <= scores.round_trip_error < 0.1
  # At these parameters all scales are near sigmoid(2) + 1e-4, and matrices near rotations.
  assert 1 / 0.881 < scores.largest_inverse_factor < 3


def test_a_flow_that_does_not_invert_itself_is_named():
  def row(name, error):
    return Row(name, "W", (8, 8), Scores(0.0, 0.0, (), (), round_trip_error=error))

  assert marks.sentences([row("a", None), row("b", 1.9)]) == []
  assert marks.sentences([row("a", 0.1), row("b", 50.04), row("c", float("nan"))]) == [
    "The flow does not invert itself, image → latents → image differs: W: b (by 50 grey levels), "
    "W: c (by nan grey levels)."
  ]
